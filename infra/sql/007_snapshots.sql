-- The latest folded state per name. Only a shortcut: it can be thrown away at any time.
create table asv.snapshots (
    name text collate "C" primary key,
    position bigint not null,
    schema text not null,
    data bytea not null
);

grant select, insert, update, delete on asv.snapshots to asv_service;
