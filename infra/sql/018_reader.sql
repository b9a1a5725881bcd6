-- asv_reader reads what was, and nothing else: for tools that look at a live log and must not be able to change it.
grant usage on schema asv to asv_reader;
grant select on asv.events, asv.log_head, asv.log_batches, asv.stream_heads, asv.commands, asv.consumers, asv.snapshots to asv_reader;
create policy readers on asv.snapshots for select to asv_reader using (true);

-- Commands by time: rows come in the order of at_us, so a block's range says which to look at, and costs a writer nothing.
create index commands_at on asv.commands using brin (at_us) with (pages_per_range = 16, autosummarize = on);
