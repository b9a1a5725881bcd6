-- One-time tokens with which an agent joins. used_by: the node it let in; a row is used once.
create table asv.join_tokens (
    hash bytea primary key,
    expires_us bigint not null,
    used_by text,
    used_us bigint
);

grant select, insert, update, delete on asv.join_tokens to asv_gateway;
