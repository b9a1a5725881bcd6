-- The only way into the log. Takes the groups of one writer's batch as arrays, locks the head, finds the units that lost
-- (their stream is elsewhere, or their command was decided before), cuts each group before its first loser, and writes the rest.
--
--   units    u_group; u_stream; u_expected: version it was decided on; u_first: first unit of this batch on its stream;
--            u_version: the stream's version behind it; u_events: how many events; c_*: its command row, null where it has none
--   events   e_unit: index of its unit, from 1; in the order of the units
--   marks    m_unit: the consumer m_name is at m_mark once this unit is in (0: in any case)
--   returns  position and at_us of the head before and after this batch, and for the first loser of each group its unit, the
--            outcome and position of the earlier command, or the version its stream is at
--
-- The caller vouches that two groups never share a stream or a command id, and that inside a group later units on a stream
-- expect what the earlier ones leave. Errors: AS001 when the incarnation is not the caller's.
create function asv.append_batch(
    p_incarnation bigint, p_now_us bigint,
    u_group int[], u_stream text[], u_expected int[], u_first boolean[], u_version int[], u_events int[],
    c_id text[], c_payload bytea[], c_outcome bytea[],
    e_unit int[], e_stream text[], e_version int[], e_type text[], e_v smallint[], e_data bytea[], e_meta bytea[],
    e_hash bytea[],
    m_unit int[], m_name text[], m_mark bigint[],
    out before bigint, out after bigint, out at_us bigint,
    out lost_unit int[], out lost_version int[], out lost_outcome bytea[], out lost_position bigint[]
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan  -- tables grow from nothing: a plan made for ten rows must also do for ten million
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    head asv.log_head;
    alive boolean[];  -- per unit; null: all
    chain bytea;
begin
    select * into strict head from asv.log_head for update;
    if head.incarnation <> p_incarnation then
        raise exception 'the log is at incarnation %, not %', head.incarnation, p_incarnation using errcode = 'AS001';
    end if;
    before := head.position;
    at_us := greatest(p_now_us, head.at_us);

    select array_agg(l.unit), array_agg(l.version), array_agg(l.outcome), array_agg(l.position)
    into lost_unit, lost_version, lost_outcome, lost_position
    from (
        select distinct on (u.grp) u.unit, coalesce(h.version, 0) as version, c.outcome, c.position
        from unnest(u_group, u_stream, u_expected, u_first, c_id) with ordinality
            as u (grp, stream, expected, first, command, unit)
        left join asv.stream_heads h on u.first and h.stream = u.stream
        left join asv.commands c on c.id = u.command
        where c.id is not null or (u.first and coalesce(h.version, 0) <> u.expected)
        order by u.grp, u.unit
    ) l;
    if lost_unit is not null then
        select array_agg(u.unit < coalesce(l.unit, 2147483647) order by u.unit) into alive
        from unnest(u_group) with ordinality as u (grp, unit)
        left join unnest(lost_unit) as l (unit) on u_group[l.unit] = u.grp;
    end if;

    after := before;
    while before + cardinality(e_unit) > head.partitioned_until - 2000000 loop
        head.partitioned_until := asv.add_partition();
    end loop;
    if cardinality(e_unit) > 0 then
        insert into asv.events (position, at_us, version, v, stream, type, data, meta, hash)
        select before + row_number() over (), append_batch.at_us, e.version, e.v, e.stream, e.type, e.data, e.meta, e.hash
        from unnest(e_unit, e_stream, e_version, e_type, e_v, e_data, e_meta, e_hash)
            as e (unit, stream, version, type, v, data, meta, hash)
        where alive is null or alive[e.unit];
        get diagnostics after = row_count;
        after := before + after;
    end if;
    if after > before then
        insert into asv.stream_heads as h (stream, version)
        select u.stream, max(u.version)
        from unnest(u_stream, u_version, u_events) with ordinality as u (stream, version, events, unit)
        where u.events > 0 and (alive is null or alive[u.unit])
        group by u.stream
        on conflict (stream) do update set version = excluded.version;

        select sha256(head.hash || int8send(before + 1) || int8send(after) || int8send(append_batch.at_us)
            || string_agg(e.hash, '' order by e.number))
        into chain
        from unnest(e_unit, e_hash) with ordinality as e (unit, hash, number)
        where alive is null or alive[e.unit];
        insert into asv.log_batches (first, last, at_us, hash) values (before + 1, after, append_batch.at_us, chain);
    end if;

    if cardinality(c_id) > 0 then
        insert into asv.commands (id, stream, payload, outcome, position, at_us)
        select u.id, u.stream, u.payload, u.outcome,
            case when u.events > 0 then before + 1 + u.upto - u.events else 0 end, append_batch.at_us
        from (
            select k.*, sum(k.events) over (order by k.unit rows unbounded preceding) as upto
            from unnest(c_id, c_payload, c_outcome, u_stream, u_events) with ordinality
                as k (id, payload, outcome, stream, events, unit)
            where alive is null or alive[k.unit]
        ) u
        where u.id is not null;
    end if;
    if cardinality(m_unit) > 0 then
        insert into asv.consumers as c (name, incarnation, position)
        select m.name, p_incarnation, max(m.mark)
        from unnest(m_unit, m_name, m_mark) as m (unit, name, mark)
        where alive is null or m.unit = 0 or alive[m.unit]
        group by m.name
        on conflict (name) do update set position = excluded.position, incarnation = excluded.incarnation
        where c.position < excluded.position;
    end if;

    if after > before then
        update asv.log_head h set position = append_batch.after, at_us = append_batch.at_us, hash = chain;
        perform pg_notify('asv_log', after::text);
    end if;
end
$$;

revoke all on function asv.append_batch from public;
grant execute on function asv.append_batch to asv_service;
