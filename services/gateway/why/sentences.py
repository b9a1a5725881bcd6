"""One sentence for an event, with the evidence it carries. Pure."""

from __future__ import annotations

from typing import Any

from proto import cluster, drain, ladder, mapping, memory, plan
from proto import compute as c
from proto import migration as m
from proto.nodes import (
    NodeCordoned,
    NodeGreetingRequested,
    NodeHealthChanged,
    NodeJoined,
    NodeLeaveRefused,
    NodeLeaveRequested,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
)
from services.gateway import reclaim
from services.gateway.why.backup_plans import of_backup_plans
from services.gateway.why.backups import of_backups
from services.gateway.why.balance import of_balance
from services.gateway.why.devices import of_devices
from services.gateway.why.drills import of_drills
from services.gateway.why.fencing import of_fences
from services.gateway.why.growing import of_growth
from services.gateway.why.leases import of_leases
from services.gateway.why.losing import UNGUARDED, of_losing, of_start
from services.gateway.why.networks import of_network
from services.gateway.why.placing import said_rules
from services.gateway.why.pools import of_pools
from services.gateway.why.verdicts import of_verdicts
from services.gateway.why.waves import of_waves
from services.gateway.words import count


def sentence(kind: str, event: Any) -> str:
    """kind: the event's wire name, all there is to say of one that is not known here (None)."""
    own = (_of_starts, _of_lives, _of_migrations, _of_plans, _of_others, _of_nodes)
    kept = (of_backups, of_backup_plans, of_drills, of_waves)
    for say in (of_losing, *own, of_growth, of_balance, of_pools, of_verdicts, of_fences, of_leases, *kept):
        if said := say(event):
            return said
    return kind.replace("_", " ")


def _of_starts(event: Any) -> str:
    match event:
        case c.VmDefined():
            shape = event.shape
            return f"defined: {count(shape.vcpus, "vCPU")}, {shape.memory_mib} MiB, {event.priority}"
        case c.VmStartRequested():
            said = f"placed on {event.node} as generation {event.generation} by the policy {event.placement.policy}"
            return said + of_start(event)
        case c.VmMemoryNoted():
            return "its memory is granted"
        case c.VmDevicesNoted(changed=True):
            alone = "" if event.protected else UNGUARDED
            return f"it is to have {count(len(event.disks), "disk")} and {count(len(event.nics), "NIC")} from now on{alone}"
        case c.VmDevicesNoted():
            return f"its {count(len(event.disks), "disk")} and {count(len(event.nics), "NIC")} are granted"
        case c.VmLaunchRequested():
            return f"{event.node} was ordered to run generation {event.spec.generation}"
        case c.VmStarted():
            return f"{event.node} saw generation {event.generation} running"
        case c.VmFound():
            return f"found running on {event.node} as generation {event.generation} after the database was restored"
        case c.VmStartFailed():
            tried = f" (tried: {', '.join(event.tried)})" if event.tried else ""
            return f"the start on {event.node} came to nothing: {event.sentence}{tried}"
        case _:
            return ""


def _of_lives(event: Any) -> str:
    match event:
        case c.VmStopRequested(cause=c.GoneCause.PANIC | c.GoneCause.HANG):
            return f"{event.node} was ordered to power it off, as its guest was found dead ({event.cause})"
        case c.VmStopRequested(deadline_s=0):
            return f"{event.node} was ordered to power it off"
        case c.VmStopRequested():
            return f"{event.node} was ordered to shut it down within {event.deadline_s} s, else to power it off"
        case c.VmStopped():
            said = f": {event.sentence}" if event.sentence else ""
            return f"{event.node} saw its process end ({event.cause}){said}"
        case c.VmPauseRequested():
            return "a pause was ordered"
        case c.VmPaused():
            return "seen paused"
        case c.VmResumeRequested():
            return "it was ordered to go on"
        case c.VmResumed():
            return "seen running again"
        case c.VmResetRequested():
            return f"reset {event.resets} was ordered"
        case c.VmReset():
            return f"reset {event.resets} was seen done"
        case c.VmStrangerSeen():
            return f"it runs on {event.node} as generation {event.generation}, though the restored database does not know it"
        case c.VmStrangerGone():
            return f"generation {event.generation}, which nobody had defined, was seen gone from {event.node}"
        case c.VmDeleted():
            return "deleted"
        case _:
            return ""


def _of_plans(event: Any) -> str:
    match event:
        case c.VmAllotmentRequested():
            own = event.allotment.memory_reserved_mib
            own_said = f", {own} MiB of memory reserved" if own else ""
            return f"{event.node}'s ledger was asked whether it may be worth more or less ({event.priority}{own_said})"
        case c.VmAllotmentDenied():
            return f"its new allotment was denied, and nothing changed: {event.sentence}"
        case c.VmAllotted():
            return f"its allotment was changed ({event.priority})"
        case plan.PlanMade(moved=moved) if moved:
            return f"{event.node} was planned anew for {event.gain_pct:g} % more of all demand: {event.sentence}"
        case plan.PlanMade(vms=(one,)):
            return f"{event.node}'s plan {event.revision}: {one.vm} {one.sentence}" + (f"; {one.fault}" if one.fault else "")
        case plan.PlanMade():
            changed = len(event.vms) + len(event.gone)
            return f"{event.node}'s plan {event.revision} changed for {count(changed, "VM")}"
        case plan.PlanApplied(partial=parts) if parts:
            return f"{event.node} has set its plan {event.revision} but for {', '.join(parts)}, and read it back"
        case plan.PlanLimited(lacking=()):
            return f"{event.node} can apply all of a plan again"
        case plan.PlanLimited():
            said = "; ".join(dict.fromkeys(lack.sentence for lack in event.lacking))
            return f"{event.node} can apply no {' and no '.join(lack.part for lack in event.lacking)}: {said}"
        case plan.PlanApplied():
            return f"{event.node} has set its plan {event.revision} and read it back"
        case plan.PlanFaulted():
            said = "; ".join(f"{fault.vm}: {fault.part}: {fault.sentence}" for fault in event.faults)
            return f"{event.node} could not set all of its plan {event.revision}: {said}"
        case _:
            return ""


def _of_migrations(event: Any) -> str:
    match event:
        case m.VmMigrationRequested():
            why = f" ({event.reason})" if event.reason else ""
            by = f" by the policy {event.placement.policy}"
            return f"to be migrated from {event.node} to {event.to} as generation {event.incoming}{by}{why}"
        case m.VmMigrationRefused():
            return f"a planned move{f' to {event.to}' if event.to else ''} was not begun: {event.sentence}"
        case m.VmIncomingRequested():
            return f"{event.to} was ordered to wait for generation {event.spec.generation}"
        case m.VmSendRequested():
            return f"{event.node} was ordered to send generation {event.generation} to {event.to}, which waits"
        case m.VmRecallRequested():
            return f"{event.node} was asked to stop sending: {event.sentence}"
        case m.VmMigrationFailed(source_gone=True):
            return f"the migration to {event.to} came to nothing, and its process on {event.node} ended: {event.sentence}"
        case m.VmMigrationFailed():
            return f"the migration to {event.to} came to nothing; it runs on on {event.node}: {event.sentence}"
        case m.VmIncomingGone():
            return f"nothing waits for it on {event.node} any more"
        case m.VmMigrated():
            return f"{event.source} saw it leave whole and ended its process; its node is {event.node} now"
        case m.VmMigrationEnded():
            took = f"{event.sent_mib} MiB in {event.total_ms} ms, downtime {event.downtime_ms} ms"
            return f"{event.node} saw generation {event.generation} go on ({took})"
        case _:
            return ""


def _of_others(event: Any) -> str:
    match event:
        case memory.MemoryReserved():
            sums = f"{event.reserved_mib} are guaranteed now, and {event.charged_mib} taken by nominal sizes"
            of = f"of {event.capacity_mib} MiB, {sums}"
            return f"{event.node}'s ledger reserved at most {event.memory_mib} MiB ({of})"
        case memory.MemoryDenied():
            free = event.capacity_mib - event.reserved_mib
            if event.sentence:
                return f"the ledger denied {event.memory_mib} MiB: {event.sentence}"
            return f"{event.node}'s ledger denied {event.memory_mib} MiB: {max(0, free)} of {event.capacity_mib} MiB are free"
        case memory.MemoryReleased():
            return f"{event.node}'s ledger took {event.released_mib} MiB back"
        case memory.CapacitySet():
            share = f", {event.share_mib} of them for failover" if event.share_mib else ""
            return f"{event.node} may promise {event.capacity_mib} MiB{share}"
        case memory.CapacityExceeded():
            fell = f"{event.before_mib} to {event.capacity_mib} MiB"
            going = f"; {', '.join(event.would_go)} would have to go" if event.would_go else ""
            more = "" if event.enough else ", and that would not be enough"
            return f"{event.node} lost memory ({fell}): {event.short_mib} MiB of what it promised are not there{going}{more}"
        case memory.MemoryPolicyWanted():
            whom = ", ".join(event.vms) or "some of its VMs"
            return f"{event.node} is to have another memory policy ({_policy(event.policy)}) once {whom} went elsewhere"
        case memory.MemoryPolicyDropped():
            return f"{event.node} keeps its memory policy: {event.sentence}"
        case ladder.LadderClimbed() | ladder.LadderDescended():
            return reclaim.said(event)
        case ladder.VmMoveWanted():
            return f"{event.vm} should run elsewhere: {event.sentence}"
        case ladder.VmPauseWanted():
            return f"{event.vm} should stand still for now: {event.sentence}"
        case memory.MemoryOrderReported(faults=()):
            return f"{event.node} applied its memory order whole again"
        case memory.MemoryOrderReported():
            return f"{event.node} could not apply all of its memory order: {'; '.join(event.faults)}"
        case mapping.VmRegionsMapped():
            regions = ", ".join(f"{r.name} {r.size_mib} MiB at {r.guest_address:#x}" for r in event.regions)
            return f"its memory on {event.node}: {regions or 'none'}"
        case mapping.VmRegionsUnmapped():
            return f"its memory on {event.node} is free again"
        case _:
            return of_network(event) or of_devices(event)


def _of_nodes(event: Any) -> str:
    match event:
        case NodeJoined():
            return "its agent joined with a one-time token"
        case NodeReported(capabilities=can):
            return f"it reported {can.pcpus} pCPUs, {can.memory_mib} MiB, {can.accelerator}, QEMU {can.qemu_version or '-'}"
        case NodeCordoned():
            return f"cordoned{': ' + event.reason if event.reason else ''}"
        case drain.NodeDrainRequested(plan=found):
            return f"to be drained: {len(found.moves)} VMs fit elsewhere, {len(found.unfit)} do not"
        case drain.NodeMoveWanted():
            return f"{event.vm} is to go, attempt {event.attempt}"
        case drain.NodeDrained(left=()):
            return "seen empty"
        case drain.NodeDrained():
            return f"drained but for {', '.join(event.left)}"
        case drain.NodeDrainEnded():
            return f"its drain ended: {event.sentence}"
        case NodeUncordoned():
            return "uncordoned"
        case NodeHealthChanged(reason=reason):
            return f"its health is {event.health_pct} %{': ' + reason if reason else ''}"
        case NodeGreetingRequested():
            return f"its agent is to say what it has and runs, as incarnation {event.incarnation} of the log has begun"
        case cluster.IncarnationBegan():
            return f"the database was restored: incarnation {event.incarnation} of the log began"
        case cluster.ClusterFinalized():
            return f"all speak protocol {event.protocol}: what is new in it is used from now on"
        case cluster.PlacementSet(rules=rules):
            return f"placement was set to {', '.join(said_rules(rules))}"
        case NodeLeaveRequested():
            return "its agent is to take away what it made of its host, and then it is removed"
        case NodeLeaveRefused(sentence=sentence):
            return f"its agent stays: {sentence}"
        case NodeRemoved(left=left):
            return "removed" + (f"; left on its host: {'; '.join(left)}" if left else "")
        case _:
            return ""


def _policy(policy: ladder.MemoryPolicy) -> str:
    classes = [f"{name} {pct} %" for name, pct in sorted(policy.class_ratio_pct.items())]
    return ", ".join([f"ratio {policy.ratio_pct} %", *classes])
