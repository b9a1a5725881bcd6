-- Decided commands and how they were answered. position: the first event it wrote, 0 when it wrote none.
create table asv.commands (
    position bigint not null,
    at_us bigint not null,
    id text collate "C" primary key,
    stream text collate "C" not null,
    payload bytea not null,
    outcome bytea not null
);

grant select on asv.commands to asv_service, asv_gateway;
