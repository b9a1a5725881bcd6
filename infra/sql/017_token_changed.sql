-- A token that was revoked (or deleted) is told to all who remember it. Payload: its id.
create function asv.token_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('asv_tokens', old.id);
    return null;
end
$$;

create trigger token_changed after update or delete on asv.tokens for each row execute function asv.token_changed();
