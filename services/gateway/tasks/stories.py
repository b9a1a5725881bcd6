"""What an event means for the tasks: which it begins, carries on, or ends, in sentences. Pure."""

from __future__ import annotations

from typing import Any

from libs.common.messages import Meta, Recorded, decode_meta
from proto import compute as c
from proto import drain as d
from proto import growth as g
from proto import io, ladder, memory
from proto import migration as m
from proto.balance import BalanceSet, MoveEnded, MovePlanned
from proto.cluster import ClusterFinalized, PlacementSet
from proto.pools import PoolSet
from services.gateway.tasks import Task, Tasks, step
from services.gateway.tasks.backup_plans import backup_plans
from services.gateway.tasks.backups import backups
from services.gateway.tasks.devices import devices
from services.gateway.tasks.drills import drills
from services.gateway.tasks.fencing import fencing
from services.gateway.tasks.guards import guards
from services.gateway.tasks.leases import leases
from services.gateway.tasks.snapshots import snapshots
from services.gateway.tasks.waves import waves
from services.gateway.why.growing import cost
from services.gateway.words import count

BY_ITSELF = (memory.CapacityCause.HOST, memory.CapacityCause.RESERVE)
"""what of a node's memory changes without anybody's command"""


def tell(tasks: Tasks, recorded: Recorded, event: Any, project: str) -> None:
    """project: of the object the event speaks of."""
    story = _Story(tasks, recorded, event, project)
    for told in TELLING:
        if told(story):
            return


class _Story:
    """One event and what the telling functions need of it."""

    def __init__(self, tasks: Tasks, recorded: Recorded, event: Any, project: str) -> None:
        self.tasks = tasks
        self.recorded = recorded
        self.event = event
        self.project = project
        self.at_us = recorded.at_us
        self._meta: Meta | None = None

    @property
    def meta(self) -> Meta:
        if self._meta is None:
            self._meta = decode_meta(self.recorded.meta)
        return self._meta

    def begin(self, kind: str, object: str, text: str) -> Task:
        meta = self.meta
        id = meta.correlation or meta.command or f"position-{self.recorded.position}"
        new = Task(id=id, kind=kind, object=object, project=self.project, started=self.at_us, actor=meta.actor)
        task = self.tasks.begin(f"{kind}:{object}", new)
        step(task, text, self.at_us)
        return task

    def again(self, kind: str, object: str, text: str) -> None:
        """The open task goes on, though one of its attempts ended it."""
        task = self.tasks.opened(f"{kind}:{object}")
        if task is not None:
            task.state, task.sentence, task.ended = "running", "", 0
            step(task, text, self.at_us)

    def step(self, kind: str, object: str, text: str) -> None:
        if (task := self.tasks.opened(f"{kind}:{object}")) is not None:
            step(task, text, self.at_us)

    def done(self, kind: str, object: str, sentence: str) -> None:
        self.tasks.end(f"{kind}:{object}", "done", sentence, self.at_us)

    def failed(self, kind: str, object: str, sentence: str) -> None:
        self.tasks.end(f"{kind}:{object}", "failed", sentence, self.at_us)

    def by_other(self, kind: str, object: str) -> bool:
        """A person's other command led to this event than the one that began the open task."""
        task = self.tasks.opened(f"{kind}:{object}")
        return self.meta.actor.startswith("user:") and task is not None and self.meta.correlation != task.id

    def at_once(self, kind: str, object: str, sentence: str) -> None:
        self.begin(kind, object, sentence)
        self.done(kind, object, sentence)


def _start_begins(s: _Story) -> bool:
    match s.event:
        case c.VmDefined(vm=vm):
            task = s.begin("create", vm, "defined")
            if s.meta.command in ("", task.id):
                s.done("create", vm, f"{vm} is defined")
            else:
                task.awaits = task.id
        case c.VmStartRequested(vm=vm, node=node):
            s.begin("start", vm, f"placed on {node}")
            s.tasks.open.pop(f"create:{vm}", None)
        case _:
            return False
    return True


def _start_goes_on(s: _Story) -> bool:
    match s.event:
        case memory.MemoryReserved(vm=vm, node=node, memory_mib=mib):
            s.step("migrate", vm, f"{mib} MiB reserved on {node}")
            s.step("start", vm, f"{mib} MiB reserved on {node}")
        case memory.MemoryDenied(vm=vm, node=node, memory_mib=mib, reserved_mib=held, capacity_mib=all):
            s.step("start", vm, f"{node} has no {mib} MiB left ({held} of {all} MiB are promised)")
        case io.DevicesGranted(vm=vm):
            s.tasks.with_disks.add(vm)
            s.step("start", vm, f"{count(len(s.event.disks), "disk")} and {count(len(s.event.nics), "NIC")} granted")
        case io.DevicesDenied(vm=vm, sentence=sentence):
            s.step("start", vm, f"devices denied: {sentence}")
        case c.VmLaunchRequested(vm=vm, node=node):
            s.step("start", vm, f"{node} was told to launch it")
        case c.VmStarted(vm=vm, node=node):
            s.done("start", vm, f"{vm} runs on {node}")
        case c.VmStartFailed(vm=vm, sentence=sentence):
            s.failed("start", vm, sentence)
            if s.meta.actor.startswith("user:") and s.meta.correlation not in s.tasks.all:
                s.at_once("stop", vm, f"the start of {vm} was given up")
        case _:
            return False
    return True


def _migrates(s: _Story) -> bool:
    match s.event:
        case m.VmMigrationRequested(vm=vm, node=node, to=to):
            s.begin("migrate", vm, f"from {node} to {to}")
        case m.VmIncomingRequested(vm=vm, to=to):
            s.step("migrate", vm, f"{to} was told to wait for it")
        case m.VmSendRequested(vm=vm, node=node, to=to):
            s.step("migrate", vm, f"{node} sends its memory to {to}, and it runs meanwhile")
        case m.VmRecallRequested(vm=vm, node=node, sentence=sentence):
            s.step("migrate", vm, f"{node} was told to stop sending: {sentence}")
            if s.by_other("migrate", vm):
                s.begin("cancel-migration", vm, f"{node} was told to stop sending")
        case m.VmMigrated(vm=vm, node=node):
            s.step("migrate", vm, f"all of it is on {node}, which was told to let it go on")
            s.failed("cancel-migration", vm, f"{vm} had left already")
        case m.VmMigrationEnded(vm=vm, node=node, sent_mib=sent, total_ms=total, downtime_ms=down):
            s.done("migrate", vm, f"{vm} runs on {node}: {sent} MiB in {total} ms, downtime {down} ms")
        case m.VmMigrationFailed(vm=vm, node=node, sentence=sentence, source_gone=gone):
            other = s.by_other("migrate", vm)
            s.failed("migrate", vm, sentence if gone else f"{sentence}; it runs on on {node}")
            if other:
                s.at_once("cancel-migration", vm, f"{vm} stays on {node}")
            s.done("cancel-migration", vm, f"{vm} stays on {node}")
        case m.VmIncomingGone():
            pass
        case _:
            return False
    return True


def _running_changes(s: _Story) -> bool:
    match s.event:
        case c.VmStopRequested(vm=vm, deadline_s=deadline_s):
            s.begin("stop", vm, f"guest asked to shut down within {deadline_s} s" if deadline_s else "powering off")
            s.failed("allot", vm, f"{vm} is being stopped; nothing was changed")
        case c.VmPauseRequested(vm=vm):
            s.begin("pause", vm, "pausing")
        case c.VmResumeRequested(vm=vm):
            s.begin("resume", vm, "resuming")
        case c.VmResetRequested(vm=vm):
            s.begin("reset", vm, "resetting")
        case c.VmPaused(vm=vm):
            s.done("pause", vm, f"{vm} is paused")
            s.failed("resume", vm, f"{vm} was paused again")
        case c.VmResumed(vm=vm):
            s.done("resume", vm, f"{vm} runs again")
            s.failed("pause", vm, f"{vm} was resumed before it paused")
        case c.VmAllotted(vm=vm):
            s.at_once("allot", vm, f"{vm} has its new allotment")
        case c.VmAllotmentRequested(vm=vm, node=node):
            s.begin("allot", vm, f"the ledger of {node} is asked for its memory")
        case c.VmAllotmentDenied(vm=vm, sentence=sentence):
            s.failed("allot", vm, f"{sentence}; nothing was changed")
        case g.VmReshaped(vm=vm, shape=shape):
            s.at_once("resize", vm, f"{vm} will start with {count(shape.vcpus, "vCPU")} and {shape.memory_mib} MiB")
        case g.VmResizeRequested(vm=vm, node=node, memory_mib=mib, was_memory_mib=was):
            s.begin("resize", vm, f"the ledger of {node} is asked for {mib - was} MiB" if mib > was else "asked for")
        case g.VmResizeOrdered(vm=vm, node=node):
            s.step("resize", vm, f"{node} was told to do it{cost(s.event)}")
        case g.VmResizeDenied(vm=vm, sentence=said):
            s.failed("resize", vm, f"{said}; {vm} has the size it had")
        case g.VmResized(vm=vm, vcpus=vcpus, memory_mib=mib, sentence=said):
            has = f"{vm} has {count(vcpus, "vCPU")} and {mib} MiB"
            (s.failed if said else s.done)("resize", vm, f"{has}: {said}" if said else has)
        case g.VmHardwareSeen() | g.VmDrifted() | g.VmAgreed():
            pass
        case c.VmReset(vm=vm):
            s.done("reset", vm, f"{vm} was reset")
        case _:
            return False
    return True


def _ends(s: _Story) -> bool:
    match s.event:
        case c.VmStopped(vm=vm, cause=cause):
            s.done("stop", vm, f"{vm} is stopped ({cause})")
            for kind in ("start", "pause", "resume", "reset", "migrate", "allot", "resize"):
                s.failed(kind, vm, f"{vm} stopped first ({cause})")
        case c.VmDeleted(vm=vm):
            s.begin("delete", vm, "definition removed")
            if vm not in s.tasks.with_disks:
                s.done("delete", vm, f"{vm} is gone; it had no disks yet")
        case io.DisksRemovalRequested(vm=vm, node=node):
            s.step("delete", vm, f"{node} was told to remove {count(len(s.event.disks), "disk")}")
        case io.DevicesRemoved(vm=vm):
            s.tasks.with_disks.discard(vm)
            s.done("delete", vm, f"{vm} and its disks are gone")
        case _:
            return False
    return True


def _images(s: _Story) -> bool:
    match s.event:
        case io.ImageImportRequested(image=image, node=node, source=source) if source is not None:
            s.begin("import", image, f"{node} makes it of {source.disk.file} of {source.vm}")
        case io.ImageImportRequested(image=image, node=node):
            s.begin("import", image, f"{node} inspects and copies it")
        case io.ImageImported(image=image, info=info):
            s.done("import", image, f"{image} is ready ({info.format}, {info.size_mib} MiB)")
        case io.ImageRejected(image=image, sentence=sentence):
            s.failed("import", image, sentence)
        case io.ImageDeleteRequested(image=image, node=node):
            s.begin("delete-image", image, f"{node} was told to remove it")
            s.failed("import", image, f"{image} was deleted first")
        case io.ImageDeleted(image=image):
            s.done("delete-image", image, f"{image} is gone")
        case _:
            return False
    return True


def _networks(s: _Story) -> bool:
    match s.event:
        case io.NetworkCreated(network=network):
            s.at_once("create-network", network, f"NICs can be put into {network}")
        case io.NetworkChanged(network=network):
            s.at_once("set-network", network, f"{network} is so from now on; running VMs keep it as it was till they start or move")
        case io.NetworkDeleted(network=network):
            s.at_once("delete-network", network, f"{network} is gone")
        case _:
            return False
    return True


def _node_leaves(s: _Story) -> bool:
    match s.event:
        case c.NodeLeaveRequested(node=node):
            s.begin("remove-node", node, f"{node} is to take away what its agent made of its host")
        case c.NodeLeaveRefused(node=node, sentence=sentence):
            s.failed("remove-node", node, sentence)
        case c.NodeRemoved(node=node, left=left) if s.tasks.opened(f"remove-node:{node}") is not None:
            s.done("remove-node", node, f"{node} was removed" + (f"; left on its host: {'; '.join(left)}" if left else ""))
        case c.NodeRemoved(node=node):
            s.at_once("remove-node", node, f"{node} was removed; what its agent made of its host is still there")
        case _:
            return False
    return True


def _nodes(s: _Story) -> bool:
    match s.event:
        case c.NodeJoined(node=node):
            s.at_once("join", node, f"{node} may take part")
        case d.NodeDrainRequested(node=node, plan=plan):
            s.begin("drain", node, _to_go(len(plan.moves), len(plan.unfit)))
        case d.NodeMoveWanted(node=node, vm=vm, attempt=attempt):
            s.step("drain", node, f"{vm} is to go" + (f" (attempt {attempt})" if attempt > 1 else ""))
        case d.NodeDrained(node=node, left=()):
            s.done("drain", node, f"{node} is empty and takes no new VMs")
        case d.NodeDrained(node=node, left=left):
            s.failed("drain", node, f"{count(len(left), "VM")} left on {node}: {', '.join(left[:5])}")
        case d.NodeDrainEnded(node=node, sentence=sentence):
            s.failed("drain", node, sentence)
        case c.NodeCordoned(node=node) if s.tasks.opened(f"drain:{node}") is not None:
            s.step("drain", node, f"{node} takes no new VMs")
        case c.NodeCordoned(node=node):
            s.at_once("cordon", node, f"{node} takes no new VMs")
        case c.NodeUncordoned(node=node):
            s.at_once("uncordon", node, f"{node} takes new VMs again")
        case memory.MemoryPolicyWanted(node=node, vms=vms):
            s.begin("memory-policy", node, f"{', '.join(vms)} have to go first")
        case ladder.VmMoveWanted(node=node, vm=vm) if s.event.at_us:
            s.step("memory-policy", node, f"{vm} is to go")
        case memory.MemoryPolicyDropped(node=node, sentence=sentence):
            s.failed("memory-policy", node, sentence)
        case memory.CapacitySet(node=node, cause=memory.CapacityCause.POLICY) if s.tasks.opened(f"memory-policy:{node}"):
            s.done("memory-policy", node, f"{node} has its new policy: all that it promised fits")
        case memory.CapacitySet(node=node, cause=cause) if cause not in BY_ITSELF:
            s.at_once(f"memory-{cause.value}", node, f"{node} may promise {s.event.capacity_mib - s.event.share_mib} MiB to starts")
        case ClusterFinalized(protocol=protocol):
            s.at_once("finalize", "cluster", f"all speak protocol {protocol}")
        case PoolSet(pool=pool):
            s.at_once("pool", pool, f"the pool {pool} has its new rules")
        case PlacementSet():
            s.at_once("placement", "cluster", "placement has its new rules")
        case BalanceSet(mode=mode):
            s.at_once("balance", "cluster", f"the rebalancer's mode is {mode}")
        case MovePlanned(vm=vm, target=target):
            if (open := s.tasks.opened("balance:cluster")) is not None and open.state == "running":
                step(open, f"{vm} is to move to {target}", s.at_us)
            else:
                s.begin("balance", "cluster", f"{vm} is to move to {target}")
        case MoveEnded(vm=vm, moved=moved, left=left, failed=failed):
            said = f"{vm} has moved" if moved else f"{vm} did not move: {s.event.sentence}"
            s.step("balance", "cluster", said)
            if left == 0 and failed:
                s.failed("balance", "cluster", said if failed == 1 and not moved else f"{failed} moves came to nothing; {said}")
            elif left == 0:
                s.done("balance", "cluster", said)
        case _:
            return False
    return True


def _to_go(fit: int, unfit: int) -> str:
    if not fit + unfit:
        return "no VM is there"
    return f"to go: {count(fit + unfit, 'VM')}" + (f", {unfit} of which fit nowhere" if unfit else "")


TELLING = (
    guards, drills, backups, _start_begins, _start_goes_on, _migrates, _running_changes, _ends, snapshots, devices, _images,
    _networks, _nodes, _node_leaves, fencing, leases, backup_plans, waves,
)  # fmt: skip
