-- Commands are in the chain, too: they are what was decided, and refusals are known from nowhere else. So a batch that wrote only
-- commands has a row as well (first = last + 1), and batches are numbered without a gap, in the order of the chain. Written from
-- 021_append_batch.sql on.
--   number    of the batch; log_head.batches is the newest one's
--   commands  how many it wrote; null: it is of a release that did not chain them, and its hash is that of 006_log_batches.sql, else
--   hash = sha256(hash of the batch before || first || last || at_us || commands (8 bytes each, big-endian) || hash of each event
--          || hash of each command, by position and id)
--   commands.batch, commands.hash    of that batch, and sha256 of the row (its first 16 bytes); null as above
alter table asv.log_head add column batches bigint not null default 0;
alter table asv.log_batches add column number bigint, add column commands integer;
alter table asv.commands add column batch bigint, add column hash bytea;

create index log_batches_last on asv.log_batches (last);
create index commands_batch on asv.commands (batch) where batch is not null;
