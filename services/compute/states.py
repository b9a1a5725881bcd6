"""The states of a VM, one Struct each. The machine is drawn in model.py, the way from one to the next is in evolving.py."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from msgspec.structs import replace

from libs.common.messages import NodeId, Value, VmId
from proto.compute import (
    Filter,
    GoneCause,
    Placement,
    VmAllotmentRequested,
    VmDefined,
    VmStopped,
)
from proto.growth import VmResizeRequested
from proto.hardware import Drift, Hardware
from proto.machine import Disk, MachineSpec, Nic
from proto.migration import Way
from proto.space import FullDisk


class Devices(Value):
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    protected: bool = True


class State(Value, tag=True, kw_only=True):
    """generation: that of its process, or of the latest; given: the highest ever decided for this name where that is
    above it, as a migration that came to nothing leaves it (both are kept over deletion); version: events folded so far."""

    word: ClassVar[str]
    generation: int = 0
    given: int = 0
    version: int = 0

    @property
    def highest(self) -> int:
        return max(self.generation, self.given)


class Absent(State, kw_only=True):
    """stranger: the node where a VM of this name runs all the same, as its definition was lost in a restore."""

    word = "not defined"
    stranger: NodeId = NodeId("")


class Stopped(State, kw_only=True):
    """No process. node: where it last was, or was last tried; sentence: why it is here, if it did not go well. abandoned: its last
    start was cut short by a restore, so that a process of this very generation may be found. unwished: it is to run, as far as
    anybody said. prepared: for which recovery, SOURCE/RECOVERY, while nothing else has happened to it."""

    word = "stopped"
    definition: VmDefined
    node: NodeId = NodeId("")
    sentence: str = ""
    abandoned: bool = False
    unwished: bool = False
    prepared: str = ""

    @property
    def id(self) -> VmId:
        return self.definition.vm


class Placed(State, kw_only=True):
    """On a node, or on its way there."""

    definition: VmDefined
    node: NodeId

    @property
    def id(self) -> VmId:
        return self.definition.vm


class Reserving(Placed, kw_only=True):
    """Memory and devices are asked for; no agent knows of it. attempt, failover: as in VmStartRequested. unwished: as before."""

    word = "starting"
    placement: Placement
    memory_noted: bool = False
    devices: Devices | None = None
    attempt: int = 0
    failover: bool = False
    unwished: bool = False

    @property
    def tried(self) -> tuple[NodeId, ...]:
        return tried(self.placement)


class Launching(Placed, kw_only=True):
    """The agent is ordered to run it and has not yet said that it does."""

    word = "starting"
    placement: Placement
    spec: MachineSpec
    attempt: int = 0
    failover: bool = False
    unwished: bool = False

    @property
    def changed(self) -> bool:
        """Its devices are others than it was, or is being, born with: what it has is to be seen first."""
        spec = self.spec
        if spec.born is None:
            return False
        return {*[d.slot for d in spec.disks], *[n.slot for n in spec.nics]} != set(spec.born.slots)

    @property
    def tried(self) -> tuple[NodeId, ...]:
        return tried(self.placement)


class Running(Placed, kw_only=True):
    """asked_version: the stream's version at the last pause or resume; reports on older orders say nothing about it. wish: what
    the ledger is asked for. hardware: what it was last seen to have. growth: the size it is to have, growing once that is
    ordered, at growth_version. full: it stands still, as these disks' pools are full. drifts:
    what of it was last seen otherwise than ordered. stilled: it is the memory ladder that wants it paused. epoch: of the lease that
    its node had when it was first seen running, or guarded. guarding: it is to be guarded, and was not seen to be, as ordered
    at guard_version."""

    word = "running"
    spec: MachineSpec
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()
    pause_wanted: bool = False
    paused: bool = False
    asked_version: int = 0
    resets_wanted: int = 0
    resets: int = 0
    wish: VmAllotmentRequested | None = None
    hardware: Hardware | None = None
    growth: VmResizeRequested | None = None
    growing: bool = False
    growth_version: int = 0
    full: tuple[FullDisk, ...] = ()
    panic: str = ""
    drifts: tuple[Drift, ...] = ()
    stilled: bool = False
    epoch: int = 0
    guarding: bool = False
    guard_version: int = 0

    @property
    def covered(self) -> bool:
        """By its node's lease: what is spent or given up says that it runs no more."""
        return self.spec.protected and not self.guarding

    @property
    def held(self) -> bool:
        """Somebody wants it paused."""
        return self.pause_wanted and not self.stilled


class Stopping(Placed, kw_only=True):
    """The agent is ordered to end it: by the guest's own shutdown within deadline_s, else by power-off. cause: panic or hang upon a
    verdict. protected: as its spec is."""

    word = "stopping"
    deadline_s: int
    cause: GoneCause = GoneCause.ORDERED
    protected: bool = False


class Phase(StrEnum):
    """How far a migration is. recalling: the source is asked to stop sending, and its word is waited for; ending: it runs on, and
    the end of the target's process is waited for."""

    RESERVING = "reserving"
    PREPARING = "preparing"
    SENDING = "sending"
    RECALLING = "recalling"
    ENDING = "ending"


class Migrating(Placed, kw_only=True):
    """On its way to `to` as `incoming`; `node` and `generation` are the source's. asked_version: the stream's version at the last
    wish to it. devices: as they are granted to the target; way: what goes along. target_gone: no process waits there any more.
    source_gone: the guest's process ended, with `cause`. protected: as the spec of the target's process is."""

    word = "migrating"
    running: Running
    to: NodeId
    incoming: int
    placement: Placement
    deadline_s: int
    phase: Phase = Phase.RESERVING
    memory_noted: bool = False
    devices: Devices | None = None
    address: str = ""
    asked_version: int = 0
    sentence: str = ""
    target_gone: bool = False
    source_gone: bool = False
    cause: str = ""
    way: Way = Way()
    protected: bool = False

    @property
    def spec(self) -> MachineSpec:
        """Of the process that the guest is to come into, born as what the VM is worth by now."""
        running, worth = self.running, self.definition
        plugged = running.hardware.plugged_vcpus if running.hardware is not None else 0
        plugged = max(plugged, running.spec.plugged_vcpus)
        more = plugged if plugged > running.spec.shape.vcpus else 0
        has = self.devices or running.spec
        return replace(
            running.spec, generation=self.incoming, plugged_vcpus=more, leaving=(), taking=None, disks=has.disks, nics=has.nics,
            priority=worth.priority, allotment=worth.allotment,
            protected=self.devices.protected if self.devices else running.spec.protected,
        )  # fmt: skip


class Arriving(Placed, kw_only=True):
    """The source's process is gone: the target, `node` by now, is ordered to let the guest go on."""

    word = "migrating"
    spec: MachineSpec
    pause_wanted: bool = False
    stilled: bool = False
    boot_id: str = ""
    sent_mib: int = 0
    total_ms: int = 0
    paused_us: int = 0


Defined = Stopped | Reserving | Launching | Running | Stopping | Migrating | Arriving
Vm = Absent | Defined


INTENDED = (GoneCause.ORDERED, GoneCause.GUEST, GoneCause.MIGRATED)


def stopped(vm: Placed, cause: GoneCause, sentence: str = "") -> VmStopped:
    """No process of its generation is left. A guest that somebody had paused was not to run on; nor is one that ended as it was
    told to, or shut itself down."""
    match vm:
        case Running():
            held = vm.held
        case Migrating():
            held = vm.running.held
        case Arriving():
            held = vm.pause_wanted and not vm.stilled
        case _:
            held = isinstance(vm, Stopping) and vm.cause is GoneCause.ORDERED
    unwished = cause not in INTENDED and not held
    return VmStopped(
        vm=vm.id, node=vm.node, generation=vm.generation, cause=cause, sentence=sentence, unwished=unwished
    )  # fmt: skip


def tried(placement: Placement) -> tuple[NodeId, ...]:
    """Nodes asked earlier in the same start: a retry's placement names them."""
    return tuple(r.node for r in placement.rejected if r.filter is Filter.TRIED)
