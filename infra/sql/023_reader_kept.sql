-- Past states are read by who cannot write: also the snapshots that were kept of them.
grant select on asv.kept_snapshots to asv_reader;

-- Whoever is not told so calls none of our functions. (What triggers call is looked at when they are made.)
revoke execute on function asv.token_changed() from public;
