"""compute: the life of VMs (streams `vm-NAME`), as events tell of it. What is asked of VMs is in vms.py; the nodes of the cluster
are in nodes.py, the cluster itself in cluster.py."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Event, NodeId, VmId
from proto.growth import GrowthCommand as GrowthCommand
from proto.growth import GrowthEvent as GrowthEvent
from proto.machine import (
    ALL_BY_CLASS,
    Allotment,
    DirectBoot,
    Disk,
    DiskWish,
    MachineSpec,
    Nic,
    NicWish,
    Priority,
    Shape,
    Taking,
)
from proto.migration import MigrationCommand as MigrationCommand
from proto.migration import MigrationEvent as MigrationEvent
from proto.nodes import Capabilities as Capabilities
from proto.nodes import CordonNode as CordonNode
from proto.nodes import GreetNode as GreetNode
from proto.nodes import JoinNode as JoinNode
from proto.nodes import NodeCommand as NodeCommand
from proto.nodes import NodeCordoned as NodeCordoned
from proto.nodes import NodeEvent as NodeEvent
from proto.nodes import NodeGreetingRequested as NodeGreetingRequested
from proto.nodes import NodeHealthChanged as NodeHealthChanged
from proto.nodes import NodeJoined as NodeJoined
from proto.nodes import NodeLeaveRefused as NodeLeaveRefused
from proto.nodes import NodeLeaveRequested as NodeLeaveRequested
from proto.nodes import NodeRemoved as NodeRemoved
from proto.nodes import NodeReported as NodeReported
from proto.nodes import NodeUncordoned as NodeUncordoned
from proto.nodes import RemoveNode as RemoveNode
from proto.nodes import ReportLeft as ReportLeft
from proto.nodes import ReportNode as ReportNode
from proto.nodes import UncordonNode as UncordonNode
from proto.panics import EndVm as EndVm
from proto.panics import PanicEvent as PanicEvent
from proto.placement import Candidate as Candidate
from proto.placement import Filter as Filter
from proto.placement import Placement as Placement
from proto.placement import Rejected as Rejected
from proto.plan import NoteAllotment as NoteAllotment
from proto.plan import SetAllotment as SetAllotment
from proto.plan import VmAllotmentDenied as VmAllotmentDenied
from proto.plan import VmAllotmentRequested as VmAllotmentRequested
from proto.plan import VmAllotted as VmAllotted
from proto.recovery import PrepareRecovery as PrepareRecovery
from proto.recovery import VmRecoveryEvent as VmRecoveryEvent
from proto.recovery import VmRecoveryPrepared as VmRecoveryPrepared
from proto.recovery import VmRecoveryRefused as VmRecoveryRefused
from proto.recovery import VmRecoveryWaits as VmRecoveryWaits
from proto.restart import LoseVm as LoseVm
from proto.restart import ProtectVm as ProtectVm
from proto.restart import RestartCommand as RestartCommand
from proto.restart import RestartEvent as RestartEvent
from proto.restart import RestartVm as RestartVm
from proto.restart import VmGuarded as VmGuarded
from proto.restart import VmGuardRequested as VmGuardRequested
from proto.restart import VmLeftStopped as VmLeftStopped
from proto.restart import VmRestartDenied as VmRestartDenied
from proto.seen import GoneCause as GoneCause
from proto.seen import ReportVm as ReportVm
from proto.seen import Seen as Seen
from proto.space import SpaceEvent as SpaceEvent
from proto.vms import AbandonStart as AbandonStart
from proto.vms import DefineVm as DefineVm
from proto.vms import DeleteVm as DeleteVm
from proto.vms import ImageFacts as ImageFacts
from proto.vms import NoteDevices as NoteDevices
from proto.vms import NoteMemory as NoteMemory
from proto.vms import PauseVm as PauseVm
from proto.vms import ResetVm as ResetVm
from proto.vms import ResumeVm as ResumeVm
from proto.vms import StartVm as StartVm
from proto.vms import StopVm as StopVm


class Refusal(StrEnum):
    ALREADY_DEFINED = "ALREADY_DEFINED"
    NOT_DEFINED = "NOT_DEFINED"
    NOT_STOPPED = "NOT_STOPPED"
    NOT_RUNNING = "NOT_RUNNING"
    NOT_PAUSED = "NOT_PAUSED"
    NOT_MIGRATING = "NOT_MIGRATING"
    BUSY = "BUSY"
    NO_IMAGE = "NO_IMAGE"
    NO_NETWORK = "NO_NETWORK"
    NO_NODE_FITS = "NO_NODE_FITS"
    BAD_SHAPE = "BAD_SHAPE"
    NODE_KNOWN = "NODE_KNOWN"
    NODE_UNKNOWN = "NODE_UNKNOWN"
    NODE_NOT_EMPTY = "NODE_NOT_EMPTY"
    NOT_PERMITTED = "NOT_PERMITTED"
    NOT_YOURS = "NOT_YOURS"
    RECONCILING = "RECONCILING"
    CPU_SHORT = "CPU_SHORT"
    CELL_SHORT = "CELL_SHORT"
    PROTOCOL = "PROTOCOL"
    HAS_SNAPSHOTS = "HAS_SNAPSHOTS"


class VmDefined(Event):
    vm: VmId
    shape: Shape
    disks: tuple[DiskWish, ...]
    nics: tuple[NicWish, ...]
    priority: Priority
    sizes_mib: dict[str, int] = {}
    boot: DirectBoot | None = None
    boot_image: str = ""
    allotment: Allotment = Allotment()


class VmStartRequested(Event, omit_defaults=True):
    """A node was chosen; the memory ledger and io are asked. Raises the generation. The log's most frequent large event, so what
    was not said is not written. attempt: of its guard, which asked for it (0: somebody else did); failover: it may use the memory
    that is kept for VMs of lost nodes."""

    vm: VmId
    node: NodeId
    generation: int
    memory_mib: int
    vcpus: int
    priority: Priority
    placement: Placement
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    allotment: Allotment = ALL_BY_CLASS
    attempt: int = 0
    failover: bool = False


class VmMemoryNoted(Event):
    vm: VmId
    generation: int


class VmDevicesNoted(Event):
    """changed: io changed them, at rest (generation 0) or while it runs; its definition follows. leaving: slots to be unplugged.
    protected: other nodes reach all that it writes, so that it may start elsewhere (MachineSpec.protected); of a change: False
    where that was so, and is no more with these."""

    vm: VmId
    generation: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    leaving: tuple[int, ...] = ()
    changed: bool = False
    taking: Taking | None = None
    protected: bool = True


class VmLaunchRequested(Event):
    """All that was needed is granted: the agent is ordered to run this machine."""

    vm: VmId
    node: NodeId
    spec: MachineSpec


class VmStarted(Event):
    """epoch: of the lease that its node had then."""

    vm: VmId
    node: NodeId
    generation: int
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()
    epoch: int = 0


class VmStartFailed(Event):
    """The start ended without a process: what was granted is to be given back. `tried`: nodes asked in this attempt. abandoned:
    decided before the database was restored; a process may have come up after all, and is then found. again: another node is asked
    at once."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str
    tried: tuple[NodeId, ...] = ()
    abandoned: bool = False
    again: bool = False


class VmStopRequested(Event):
    vm: VmId
    node: NodeId
    generation: int
    deadline_s: int
    cause: GoneCause = GoneCause.ORDERED


class VmStopped(Event):
    """Seen, or proven: no process of this generation is left. unwished: it was to run on."""

    vm: VmId
    node: NodeId
    generation: int
    cause: GoneCause
    sentence: str = ""
    unwished: bool = False


class VmPauseRequested(Event):
    """stilled: by the memory ladder, for want of memory; nobody wants it to stand still."""

    vm: VmId
    generation: int
    stilled: bool = False


class VmPaused(Event):
    vm: VmId
    generation: int


class VmResumeRequested(Event):
    vm: VmId
    generation: int


class VmResumed(Event):
    vm: VmId
    generation: int


class VmResetRequested(Event):
    vm: VmId
    generation: int
    resets: int


class VmReset(Event):
    vm: VmId
    generation: int
    resets: int


class VmDeleted(Event):
    vm: VmId
    node: str = ""


class VmFound(Event):
    """After a restore: it runs there under a generation that the log had lost. resets: those carried out so far. has_disks,
    has_nics: what it runs with, and `disks`, `nics` are its wishes as of that; empty: its agent did not know."""

    vm: VmId
    node: NodeId
    generation: int
    memory_mib: int
    vcpus: int
    priority: Priority
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    resets: int = 0
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()
    allotment: Allotment = Allotment()
    has_disks: tuple[Disk, ...] = ()
    has_nics: tuple[Nic, ...] = ()


class VmStrangerSeen(Event):
    """After a restore: a VM runs there whose definition the log had lost. It runs on; its name is taken while it does. has_disks:
    what it runs with; empty: its agent did not know."""

    vm: VmId
    node: NodeId
    generation: int
    has_disks: tuple[Disk, ...] = ()


class VmStrangerGone(Event):
    vm: VmId
    node: NodeId
    generation: int


VmCommand = (
    DefineVm
    | StartVm
    | StopVm
    | EndVm
    | ResetVm
    | PauseVm
    | ResumeVm
    | DeleteVm
    | NoteMemory
    | NoteDevices
    | ReportVm
    | AbandonStart
    | SetAllotment
    | NoteAllotment
    | GrowthCommand
    | MigrationCommand
    | RestartCommand
    | PrepareRecovery
)
VmEvent = (
    VmDefined
    | VmStartRequested
    | VmMemoryNoted
    | VmDevicesNoted
    | VmLaunchRequested
    | VmStarted
    | VmStartFailed
    | VmStopRequested
    | VmStopped
    | VmPauseRequested
    | VmPaused
    | VmResumeRequested
    | VmResumed
    | VmResetRequested
    | VmReset
    | VmDeleted
    | VmFound
    | VmStrangerSeen
    | VmStrangerGone
    | VmAllotted
    | VmAllotmentRequested
    | VmAllotmentDenied
    | GrowthEvent
    | MigrationEvent
    | SpaceEvent
    | PanicEvent
    | RestartEvent
    | VmRecoveryEvent
)
