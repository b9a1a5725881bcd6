-- API tokens: the secret itself is shown once and kept nowhere. expires_us 0: never. projects: '*' is all.
create table asv.tokens (
    id text collate "C" primary key,
    hash bytea not null unique,
    name text not null,
    role text not null check (role in ('viewer', 'operator', 'admin')),
    projects text[] not null default '{*}',
    expires_us bigint not null default 0,
    created_us bigint not null default 0,
    revoked boolean not null default false
);

grant select, insert, update, delete on asv.tokens to asv_gateway;
