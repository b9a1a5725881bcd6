-- Refusals of a stream, the newest first: what `why-not` asks for. Commands that wrote events are found through these; leaving them
-- out keeps the index small, and appends as fast as they were.
create index commands_eventless on asv.commands (stream, at_us desc, id) where position = 0;
