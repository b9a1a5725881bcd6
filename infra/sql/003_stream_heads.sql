-- The version every stream is at. Most of each page is left free: a batch updates many rows of few pages, and what stays in its
create table asv.stream_heads (
    version integer not null,
    stream text collate "C" primary key
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.05);

grant select on asv.stream_heads to asv_service, asv_gateway;
