-- The log itself: one row per event, gap-free by position, never changed. Fixed-width columns come first: no padding.
--   at_us  writer's clock, microseconds since the epoch, never decreasing    hash  libs/common/log/digest.py
-- (stream, version) is unique through stream_heads: a unique index of a partitioned table would have to hold the position.
create table asv.events (
    position bigint not null,
    at_us bigint not null,
    version integer not null,
    v smallint not null,
    stream text collate "C" not null,
    type text collate "C" not null,
    data bytea not null,
    meta bytea not null,
    hash bytea not null,
    primary key (position)
) partition by range (position);

create index events_stream on asv.events (stream, version);

-- Services never write here themselves: append_batch does, as asv_owner.
grant select on asv.events to asv_service, asv_gateway;
