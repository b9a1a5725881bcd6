-- The gateway keeps a snapshot of its views, beside those of the services. Neither may read or change the other's: what a process
-- folds from is as good as its state.
alter table asv.snapshots enable row level security;
create policy services on asv.snapshots to asv_service using (name <> 'gateway');
create policy gateways on asv.snapshots to asv_gateway using (name = 'gateway');

grant select, insert, update, delete on asv.snapshots to asv_gateway;
