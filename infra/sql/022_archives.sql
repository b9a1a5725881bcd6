-- Which events are in files beside the database (docs/decisions/0042-retention.md). A row is written once its file is on disk and was
-- read back; only then is the partition taken away, and later what else is in the file.
--   first, last              positions: those of a partition          log     the chain's value behind the very first batch
--   first_batch, last_batch  batches that end among them; `ended`: the last position of the last one, `hash`: the chain's value there,
--                            at_us: its time. until_us: the time of the last event
--   pending                  digests of the events from `ended` + 1 to `last`, one after the other
--   name, folder             of the file, and where it was written; a reader may be told of another folder
--   digest, size             of the file's directory, which stands for the whole (libs/common/log/archive/file.py); bytes of the file
--   dropped                  its partition is gone
create table asv.archives (
    first bigint primary key,
    last bigint not null check (last >= first),
    first_batch bigint not null,
    last_batch bigint not null,
    ended bigint not null,
    at_us bigint not null,
    until_us bigint not null,
    made_us bigint not null,
    size bigint not null,
    dropped boolean not null default false,
    log bytea not null,
    hash bytea not null,
    pending bytea not null,
    digest bytea not null,
    name text not null unique,
    folder text not null
);
grant select on asv.archives to asv_service, asv_gateway, asv_reader;

-- How many positions the next partitions have: so many are archived at a time.
alter table asv.log_head add column partition_events bigint not null default 4000000 check (partition_events >= 100000);

create or replace function asv.add_partition() returns bigint  -- the last position that has one now
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    size bigint;
    first bigint;
    name text;
begin
    select h.partitioned_until + 1, h.partition_events into first, size from asv.log_head h for update;
    name := 'events_' || first;
    execute format('create table asv.%I (like asv.events including all)', name);
    execute format('alter table asv.events attach partition asv.%I for values from (%s) to (%s)', name, first, first + size);
    update asv.log_head set partitioned_until = first + size - 1;
    return first + size - 1;
end
$$;

-- What is to stay in the database, for `asvctl log archive`: the newest so many events, all of so many days (0: not asked for), and
-- commands of so many days, by whose ids a repeated one is known.
create table asv.retention (
    one boolean primary key default true check (one),
    keep_events bigint not null default 0 check (keep_events >= 0),
    keep_days double precision not null default 30 check (keep_days >= 0),
    commands_days double precision not null default 30 check (commands_days >= 1)
);
insert into asv.retention default values;
grant select on asv.retention to asv_reader;
