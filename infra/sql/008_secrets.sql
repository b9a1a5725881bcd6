-- Ciphertexts; messages hold only `ref`. The key is outside the database; key_id names it.
create table asv.secrets (
    ref text collate "C" primary key,
    key_id text not null,
    ciphertext bytea not null,
    at_us bigint not null default 0
);

grant select on asv.secrets to asv_service;
grant select, insert, update, delete on asv.secrets to asv_gateway;
