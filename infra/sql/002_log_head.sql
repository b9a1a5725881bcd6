-- The end of the log: one row, locked by whoever appends, so that positions have no gap and batches one order.
--   hash               the chain over all batches up to here (see log_batches)
--   incarnation        rises when this database was restored or promoted (raise_incarnation)
--   partitioned_until  events has partitions up to and including this position
create table asv.log_head (
    one boolean primary key default true check (one),
    position bigint not null default 0,
    at_us bigint not null default 0,
    incarnation bigint not null default 1,
    partitioned_until bigint not null default 0,
    hash bytea not null default '\x'
) with (fillfactor = 10);

insert into asv.log_head default values;

grant select on asv.log_head to asv_service, asv_gateway;
