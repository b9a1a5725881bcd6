-- Who is who. Run at every migration, by the connecting role; every later file runs as asv_owner.
--   asv_owner    owns all tables and functions; nobody logs in as it
--   asv_service  the services: read the log, append through append_batch, and nothing else to it
--   asv_gateway  the API: reads the log; keeps tokens and secrets
--   asv_reader   who looks into the past: reads the log, and may write nothing
-- No role has a password: a password or a peer map is the installation's business.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['asv_owner', 'asv_service', 'asv_gateway', 'asv_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = wanted) then
                execute format('create role %I %s', wanted, case wanted when 'asv_owner' then 'nologin' else 'login' end);
            end if;
        exception when duplicate_object or unique_violation then
            null;  -- another database of this server is being migrated at the same time
        end;
    end loop;
    if not pg_has_role(current_user, 'asv_owner', 'member') then
        execute format('grant asv_owner to %I', current_user);
    end if;
    if not exists (select from pg_namespace where nspname = 'asv') then
        execute 'create schema asv authorization asv_owner';
        execute 'grant usage on schema asv to asv_service, asv_gateway';
    end if;
end
$$;
