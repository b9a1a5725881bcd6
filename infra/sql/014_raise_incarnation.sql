-- After a restore or a promotion: whoever knew the log before is fenced (AS001) and starts over. For the owner only.
create function asv.raise_incarnation() returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update asv.log_head set incarnation = incarnation + 1 returning incarnation
$$;

revoke all on function asv.raise_incarnation() from public;
