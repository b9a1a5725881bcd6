-- How far each consumer has come in the log; moved in the transaction of what it wrote, never backwards.
create table asv.consumers (
    position bigint not null,
    incarnation bigint not null,
    name text collate "C" primary key
) with (fillfactor = 20);

grant select on asv.consumers to asv_service, asv_gateway;
