-- The hash chain: one row per batch that wrote events (first..last, all with at_us).
--   hash = sha256(hash of the batch before || first || last || at_us (8 bytes each, big-endian) || hash of each event)
create table asv.log_batches (
    last bigint primary key,
    first bigint not null,
    at_us bigint not null,
    hash bytea not null
);

grant select on asv.log_batches to asv_service, asv_gateway;
