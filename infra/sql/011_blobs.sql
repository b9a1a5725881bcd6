-- Things too large for an event (screenshots, exports), referenced by digest; `path` is inside the blob folder, or `bytes` holds
-- it. retention_us: when it may be removed, 0 for never.
create table asv.blobs (
    digest text collate "C" primary key,
    kind text not null,
    at_us bigint not null,
    retention_us bigint not null default 0,
    path text,
    bytes bytea,
    check ((path is null) <> (bytes is null))
);

grant select, insert, delete on asv.blobs to asv_service, asv_gateway;
