-- What the gateway's views held at many positions of the log, so that any past state is near one of them. Made from the log, and
-- dropped at any time without loss. schema: which code made it (services/gateway/snapshot.py); data: services/gateway/past/kept.py.
create table asv.kept_snapshots (
    name text collate "C" not null,
    position bigint not null,
    schema text not null,
    data bytea not null,
    primary key (name, position)
);
alter table asv.kept_snapshots alter column data set storage external;

grant select, insert, update, delete on asv.kept_snapshots to asv_gateway;
