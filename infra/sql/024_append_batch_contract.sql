-- append_batch as in 021_append_batch.sql, but digests come from the writer, one behind the other in one value: 16 bytes for each
-- event (libs/common/log/digest.py), then, where any unit has a command, 16 for each unit: its command's, or zeros. The embedded
-- server has no fast SHA-256: a command's digest took it longer than any other part of the chain.
--   commands.hash    sha256 of id, stream, payload and outcome (its first 16 bytes), and position (8 bytes): 24, where it was 16
-- A writer of the release before leaves `digests` away; commands then have the digest that they had. Nobody appends meanwhile.
lock table asv.log_head in access exclusive mode;

drop function asv.append_batch;

create function asv.append_batch(
    p_incarnation bigint, p_now_us bigint,
    u_group int[], u_stream text[], u_expected int[], u_first boolean[], u_version int[], u_events int[],
    c_id text[], c_payload bytea[], c_outcome bytea[],
    e_unit int[], e_stream text[], e_version int[], e_type text[], e_v smallint[], e_data bytea[], e_meta bytea[],
    e_hash bytea[],
    m_unit int[], m_name text[], m_mark bigint[], digests bytea default null,
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
    sent int := cardinality(e_unit);  -- events
    written int := 0;  -- commands
    proof bytea;  -- their digests
    chained bytea;  -- those of the events
begin
    select * into strict head from asv.log_head for update;
    if head.incarnation <> p_incarnation then
        raise exception 'the log is at incarnation %, not %', head.incarnation, p_incarnation using errcode = 'AS001';
    end if;
    if octet_length(digests) <> 16 * (sent + cardinality(c_id)) then
        raise exception '% bytes of digests for % events and % units', octet_length(digests), sent, cardinality(c_id);
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
    while before + sent > head.partitioned_until - 2000000 loop
        head.partitioned_until := asv.add_partition();
    end loop;
    if sent > 0 then
        insert into asv.events (position, at_us, version, v, stream, type, data, meta, hash)
        select before + row_number() over (), append_batch.at_us, e.version, e.v, e.stream, e.type, e.data, e.meta,
            case when digests is null then e.hash else substr(digests, 16 * e.number::int - 15, 16) end
        from unnest(e_unit, e_stream, e_version, e_type, e_v, e_data, e_meta, e_hash) with ordinality
            as e (unit, stream, version, type, v, data, meta, hash, number)
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
    end if;

    if cardinality(c_id) > 0 then
        with written as (
            insert into asv.commands (id, stream, payload, outcome, position, at_us, batch, hash)
            select p.id, p.stream, p.payload, p.outcome, p.position, append_batch.at_us, head.batches + 1,
                case when digests is null
                    then substr(sha256(textsend(concat(p.id, E'\n', p.stream, E'\n', p.position, E'\n', length(p.payload), E'\n'))
                        || p.payload || p.outcome), 1, 16)
                    else substr(digests, 16 * (sent + p.unit::int) - 15, 16) || int8send(p.position)
                end
            from (
                select u.unit, u.id, u.stream, u.payload, u.outcome,
                    case when u.events > 0 then before + 1 + u.upto - u.events else 0 end as position
                from (
                    select k.*, sum(k.events) over (order by k.unit rows unbounded preceding) as upto
                    from unnest(c_id, c_payload, c_outcome, u_stream, u_events) with ordinality
                        as k (id, payload, outcome, stream, events, unit)
                    where alive is null or alive[k.unit]
                ) u
                where u.id is not null
            ) p
            returning position, id, hash
        )
        select count(*), string_agg(w.hash, '' order by w.position, w.id) into written, proof from written w;
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

    if after > before or written > 0 then
        if alive is null and digests is not null then
            chained := substr(digests, 1, 16 * sent);
        else  -- in the order of the arrays: as they are unnested, without a sort
            select string_agg(coalesce(e.hash, substr(digests, 16 * e.number::int - 15, 16)), '') into chained
            from unnest(e_unit, e_hash) with ordinality as e (unit, hash, number)
            where alive is null or alive[e.unit];
        end if;
        chain := sha256(head.hash || int8send(before + 1) || int8send(after) || int8send(append_batch.at_us) || int8send(written)
            || coalesce(chained, '') || coalesce(proof, ''));
        insert into asv.log_batches (number, first, last, at_us, commands, hash)
        values (head.batches + 1, before + 1, after, append_batch.at_us, written, chain);
        update asv.log_head h
        set position = append_batch.after, at_us = append_batch.at_us, hash = chain, batches = head.batches + 1;
    end if;
    if after > before then
        perform pg_notify('asv_log', after::text);
    end if;
end
$$;

revoke all on function asv.append_batch from public;
grant execute on function asv.append_batch to asv_service;
