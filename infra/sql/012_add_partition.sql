-- The next partition of events: 4 million positions, about 2 GB. Attached, not created in place: `create table … partition of`
-- would wait for every replay that is reading.
create function asv.add_partition() returns bigint  -- the last position that has one now
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    size constant bigint := 4000000;
    first bigint;
    name text;
begin
    select h.partitioned_until + 1 into first from asv.log_head h for update;
    name := 'events_' || first;
    execute format('create table asv.%I (like asv.events including all)', name);
    execute format('alter table asv.events attach partition asv.%I for values from (%s) to (%s)', name, first, first + size);
    update asv.log_head set partitioned_until = first + size - 1;
    return first + size - 1;
end
$$;

revoke all on function asv.add_partition() from public;

select asv.add_partition();
