"""VMs as the events tell of them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded, decode_meta
from proto import compute as c
from proto import growth as g
from proto import migration as m
from proto.hardware import Drift, Hardware
from proto.machine import Allotment, Disk, DiskWish, MemoryBy, Nic, NicWish
from proto.node import Sending
from proto.panics import VmPanicked, VmPanicOver
from proto.space import FullDisk, VmRanOutOfSpace, VmSpaceRegained
from proto.space import said as said_full
from services.gateway.views import left, unplugging
from services.gateway.views.guards import Owed, Rules

REASONS_MAX = 8
"""How many of its latest reasons an object keeps."""

VmState = Literal["stopped", "starting", "running", "out-of-space", "pausing", "paused", "resuming", "stopping"]


class Reason(msgspec.Struct):
    """Something worth telling an operator, and when (microseconds since the epoch)."""

    at_us: int
    text: str


class Vm(msgspec.Struct):
    """A VM as the events tell. pcpus and addresses hold only while it runs. disk_wishes and nic_wishes: as asked for;
    disks and nics: as io granted them (empty before the first start). placement: how its node was chosen last. migrating_to: where
    it is on its way to; `node` is where it runs; disks_there: as they are granted to that node. hardware: what it
    was last seen to have. sending: how far, as its node says right now. full: disks whose pools have no room: it stands still since
    full_us. drifts: what its process has otherwise than ordered; unplugging: what
    its guest is still to let go of. Of one that is shown alone: its guard; owed: it is to run, and does not; let_go: why its guard
    does not start it; stays: why it could be started again only where its disks are; node_lost: its node is lost, why, and what
    became of it there is not known; recovering: from which backup, while its disks stand on it."""

    name: str
    project: str
    owner: str
    state: VmState
    vcpus: int
    memory_mib: int
    vcpus_max: int
    memory_max_mib: int
    priority: str
    machine: str
    cpu_model: str
    firmware: str
    uuid: str
    defined_us: int
    changed_us: int
    memory_by: str = MemoryBy.VIRTIO_MEM
    allotment: Allotment = Allotment()
    disk_wishes: tuple[DiskWish, ...] = ()
    nic_wishes: tuple[NicWish, ...] = ()
    node: str = ""
    generation: int = 0
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    pcpus: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    boot_id: str = ""
    reason: str = ""
    system: str = "linux"
    panic: str = ""
    panic_us: int = 0
    reasons: list[Reason] = []
    placement: c.Placement | None = None
    hardware: Hardware | None = None
    migrating_to: str = ""
    disks_there: tuple[Disk, ...] = ()
    sending: Sending | None = None
    full: tuple[FullDisk, ...] = ()
    full_us: int = 0
    drifts: tuple[Drift, ...] = ()
    unplugging: tuple[unplugging.Unplugging, ...] = ()
    left: tuple[left.LeftDisk, ...] = ()
    guard: Rules | None = None
    owed: Owed | None = None
    let_go: str = ""
    node_lost: str = ""
    stays: str = ""
    recovering: str = ""


@dataclass(slots=True)
class VmsView:
    """`all`: the VMs that exist, by name."""

    all: dict[str, Vm] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        kind = type(event)
        if kind not in HEARD:
            return
        if kind is c.VmDefined:
            self.all[event.vm] = _defined(recorded, event)
            return
        vm = self.all.get(event.vm)
        if vm is None:
            return
        if kind in OF_DEVICES:
            vm.left = left.after(vm.left, vm.disks, event)
            vm.unplugging = unplugging.after(vm.unplugging, event, recorded.at_us)
        does = DOES.get(kind)
        if does is not None:
            does(vm, event, recorded.at_us)
            vm.changed_us = recorded.at_us
            if kind in TOLD and (text := _reason(event)):
                vm.reason = text
                vm.reasons = [*vm.reasons[1 - REASONS_MAX :], Reason(recorded.at_us, text)]
        elif kind is c.VmDeleted:
            del self.all[vm.name]

    def on(self, node: str) -> tuple[str, ...]:
        """Names of the VMs that are placed on a node, sorted."""
        return tuple(sorted(v.name for v in self.all.values() if v.node == node))


def _defined(recorded: Recorded, event: c.VmDefined) -> Vm:
    meta, shape = decode_meta(recorded.meta), event.shape
    return Vm(
        name=event.vm,
        project=meta.project,
        owner=meta.owner,
        state="stopped",
        vcpus=shape.vcpus,
        memory_mib=shape.memory_mib,
        vcpus_max=shape.vcpus_max,
        memory_max_mib=shape.memory_max_mib,
        priority=event.priority,
        allotment=event.allotment,
        machine=shape.machine,
        cpu_model=shape.cpu_model,
        firmware=shape.firmware,
        system=shape.system,
        uuid=shape.uuid,
        defined_us=recorded.at_us,
        changed_us=recorded.at_us,
        memory_by=shape.memory_by,
        disk_wishes=event.disks,
        nic_wishes=event.nics,
    )


def _starting(vm: Vm, event: Any, at_us: int) -> None:
    """From the request to a running VM."""
    match event:
        case c.VmStartRequested():
            vm.state, vm.node, vm.generation, vm.placement = "starting", event.node, event.generation, event.placement
        case c.VmDevicesNoted(changed=False) if vm.migrating_to:
            vm.disks_there = event.disks
        case c.VmDevicesNoted():
            vm.disks, vm.nics = event.disks, event.nics
        case c.VmStarted():
            vm.state, vm.node, vm.generation = "running", event.node, event.generation
            vm.boot_id, vm.pcpus = event.boot_id, event.pcpus
        case c.VmFound():
            vm.state, vm.node, vm.generation = "running", event.node, event.generation
            vm.boot_id, vm.pcpus = event.boot_id, event.pcpus
        case c.VmStartFailed():
            _nowhere(vm)


def _living(vm: Vm, event: Any, at_us: int) -> None:
    """What happens to a VM that runs."""
    match event:
        case c.VmStopRequested():
            vm.state = "stopping"
        case c.VmStopped():
            _nowhere(vm)
        case c.VmPauseRequested():
            vm.state = "pausing"
        case c.VmPaused():
            vm.state = "paused"
        case c.VmResumeRequested():
            vm.state = "resuming"
        case c.VmResumed():
            vm.state = "running"
        case c.VmResetRequested() | c.VmReset() | g.VmResizeRequested() | g.VmResizeOrdered() | g.VmResizeDenied():
            pass
        case g.VmResized():
            vm.vcpus, vm.memory_mib = event.vcpus, event.memory_mib
        case g.VmHardwareSeen():
            vm.hardware = event.hardware
        case g.VmDrifted():
            vm.drifts = event.drifts
        case g.VmAgreed():
            vm.drifts = ()


def _migrating(vm: Vm, event: Any, at_us: int) -> None:
    """It runs on meanwhile."""
    match event:
        case m.VmMigrationRequested():
            vm.migrating_to, vm.placement = event.to, event.placement
        case m.VmIncomingGone():
            vm.migrating_to, vm.disks_there = "", ()
        case m.VmMigrated():
            vm.node, vm.generation, vm.pcpus = event.node, event.generation, ()
            vm.disks, vm.disks_there = vm.disks_there or vm.disks, ()
        case m.VmMigrationEnded():
            vm.migrating_to, vm.pcpus, vm.drifts = "", event.pcpus, ()
            vm.boot_id = event.boot_id or vm.boot_id
        case m.VmMigrationFailed(source_gone=True):  # it ends once nothing waits for it on the other node
            vm.state, vm.boot_id, vm.pcpus, vm.addresses = "stopping", "", (), ()
        case m.VmMigrationFailed():
            pass


def _waiting(vm: Vm, event: Any, at_us: int) -> None:
    """For room in a pool, or for somebody who looks at what its guest died of."""
    match event:
        case VmPanicked():
            vm.panic, vm.panic_us = event.sentence, at_us
        case VmPanicOver():
            vm.panic = ""
        case VmRanOutOfSpace():
            vm.state, vm.full, vm.full_us = "out-of-space", event.disks, vm.full_us or at_us
        case VmSpaceRegained():
            vm.state, vm.full, vm.full_us = "running", (), 0


def _shaped(vm: Vm, event: g.VmReshaped | c.VmAllotted, at_us: int) -> None:
    match event:
        case g.VmReshaped(shape=shape):
            vm.vcpus, vm.memory_mib = shape.vcpus, shape.memory_mib
            vm.vcpus_max, vm.memory_max_mib, vm.memory_by = shape.vcpus_max, shape.memory_max_mib, shape.memory_by
        case c.VmAllotted():
            vm.priority, vm.allotment = event.priority, event.allotment


def _nowhere(vm: Vm) -> None:
    vm.full, vm.full_us, vm.panic = (), 0, ""
    vm.migrating_to, vm.disks_there, vm.drifts = "", (), ()
    vm.state, vm.node, vm.boot_id, vm.pcpus, vm.addresses = "stopped", "", "", (), ()


def _reason(event: Any) -> str:
    match event:
        case c.VmStartRequested():
            return f"placed on {event.node} (generation {event.generation}, policy {event.placement.policy})"
        case c.VmStartFailed():
            return f"did not start on {event.node}: {event.sentence}"
        case c.VmStarted():
            return f"running on {event.node}"
        case m.VmMigrationRequested():
            why = f": {event.reason}" if event.reason else ""
            return f"migrating from {event.node} to {event.to} (generation {event.incoming}){why}"
        case m.VmMigrationEnded():
            took = f"{event.sent_mib} MiB in {event.total_ms} ms, downtime {event.downtime_ms} ms"
            return f"migrated to {event.node}: {took}"
        case m.VmMigrationFailed(source_gone=True):
            waits = f"it can be started once {event.to}, where it was to go, has ended what waits for it there"
            return f"its process on {event.node} ended while it was migrated ({event.sentence}); {waits}"
        case m.VmMigrationFailed():
            return f"not migrated to {event.to}: {event.sentence}"
        case g.VmResizeRequested(vcpus=vcpus, memory_mib=mib):
            return f"to have {vcpus} vCPUs and {mib} MiB ({event.was_vcpus} and {event.was_memory_mib} until then)"
        case g.VmResized(vcpus=vcpus, memory_mib=mib, sentence=said):
            return f"has {vcpus} vCPUs and {mib} MiB" + (f": {said}" if said else "")
        case g.VmDrifted(drifts=drifts):
            return f"otherwise than ordered: {'; '.join(drift.sentence for drift in drifts)}"
        case g.VmAgreed():
            return "all of its process is as ordered again"
        case g.VmResizeDenied(sentence=said):
            return f"not resized: {said}"
        case VmPanicked():
            return f"{event.sentence}; `asvctl vm reset` brings it back"
        case VmPanicOver():
            return "it runs again"
        case VmRanOutOfSpace():
            return f"stands still: {said_full(event.disks)}"
        case VmSpaceRegained():
            return "goes on: there is room again"
        case c.VmStopped():
            return f"stopped ({event.cause})" + (f": {event.sentence}" if event.sentence else "")
        case _:
            return ""


DOES: dict[type, Callable[[Vm, Any, int], None]] = {
    **dict.fromkeys((c.VmStartRequested, c.VmDevicesNoted, c.VmStarted, c.VmFound, c.VmStartFailed), _starting),
    **dict.fromkeys((c.VmStopRequested, c.VmStopped, c.VmPauseRequested, c.VmPaused, c.VmResumeRequested, c.VmResumed), _living),
    **dict.fromkeys((c.VmResetRequested, c.VmReset, g.VmResizeRequested, g.VmResizeOrdered, g.VmResizeDenied), _living),
    **dict.fromkeys((g.VmResized, g.VmHardwareSeen, g.VmDrifted, g.VmAgreed), _living),
    **dict.fromkeys((m.VmMigrationRequested, m.VmIncomingGone, m.VmMigrated, m.VmMigrationEnded, m.VmMigrationFailed), _migrating),
    **dict.fromkeys((VmPanicked, VmPanicOver, VmRanOutOfSpace, VmSpaceRegained), _waiting),
    **dict.fromkeys((g.VmReshaped, c.VmAllotted), _shaped),
}
OF_DEVICES = frozenset({*left.HEARD, *unplugging.HEARD})
TOLD = frozenset({
    c.VmStartRequested, c.VmStartFailed, c.VmStarted, c.VmStopped, m.VmMigrationRequested, m.VmMigrationEnded,
    m.VmMigrationFailed, g.VmResizeRequested, g.VmResized, g.VmResizeDenied, g.VmDrifted, g.VmAgreed, VmPanicked, VmPanicOver,
    VmRanOutOfSpace, VmSpaceRegained,
})  # fmt: skip
"""of which there is a reason to tell"""
HEARD = frozenset({c.VmDefined, c.VmDeleted, *DOES, *OF_DEVICES})
"""all else changes nothing here, and is most of the log: it is passed over by one look"""
