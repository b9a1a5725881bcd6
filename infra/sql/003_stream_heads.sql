-- The version every stream is at. Room is left in each page, so that an update stays in it and touches no index.
create table asv.stream_heads (
    version integer not null,
    stream text collate "C" primary key
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);

grant select on asv.stream_heads to asv_service, asv_gateway;
