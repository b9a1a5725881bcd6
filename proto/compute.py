"""compute: the life of VMs (streams `vm-NAME`); the nodes of the cluster are in nodes.py, the cluster itself in cluster.py."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Value, VmId
from proto.machine import (
    ALL_BY_CLASS,
    Allotment,
    DirectBoot,
    Disk,
    DiskWish,
    MachineSpec,
    MemoryMib,
    Nic,
    NicWish,
    Priority,
    Shape,
    Vcpus,
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
from proto.nodes import NodeRemoved as NodeRemoved
from proto.nodes import NodeReported as NodeReported
from proto.nodes import NodeUncordoned as NodeUncordoned
from proto.nodes import RemoveNode as RemoveNode
from proto.nodes import ReportNode as ReportNode
from proto.nodes import UncordonNode as UncordonNode
from proto.placement import Candidate as Candidate
from proto.placement import Filter as Filter
from proto.placement import Placement as Placement
from proto.placement import Rejected as Rejected
from proto.plan import SetAllotment as SetAllotment
from proto.plan import VmAllotted as VmAllotted
from proto.seen import GoneCause as GoneCause
from proto.seen import ReportVm as ReportVm
from proto.seen import Seen as Seen

DeadlineS = Annotated[int, msgspec.Meta(ge=0, le=86_400)]


class Refusal(StrEnum):
    ALREADY_DEFINED = "ALREADY_DEFINED"
    NOT_DEFINED = "NOT_DEFINED"
    NOT_STOPPED = "NOT_STOPPED"
    NOT_RUNNING = "NOT_RUNNING"
    NOT_PAUSED = "NOT_PAUSED"
    NOT_MIGRATING = "NOT_MIGRATING"
    BUSY = "BUSY"
    NO_IMAGE = "NO_IMAGE"
    NO_NODE_FITS = "NO_NODE_FITS"
    BAD_SHAPE = "BAD_SHAPE"
    NODE_KNOWN = "NODE_KNOWN"
    NODE_UNKNOWN = "NODE_UNKNOWN"
    NODE_NOT_EMPTY = "NODE_NOT_EMPTY"
    NOT_PERMITTED = "NOT_PERMITTED"
    NOT_YOURS = "NOT_YOURS"
    RECONCILING = "RECONCILING"
    CPU_SHORT = "CPU_SHORT"
    PROTOCOL = "PROTOCOL"


# --- commands about VMs ------------------------------------------------------------------------------------------------


class ImageFacts(Value):
    """What compute's view knew of the images when it decided: those it has, by name, with size and boot files."""

    missing: tuple[str, ...] = ()
    sizes_mib: dict[str, int] = {}
    boot: DirectBoot | None = None
    boot_image: str = ""


class DefineVm(Command):
    """Create a VM, stopped. `uuid`, `macs`, `serials` come with the command (made at the edge); image facts are filled in by
    compute's own view (`boot`, `boot_image`, `image_mib`) before it decides and are ignored from outside."""

    vm: Name
    vcpus: Vcpus = 1
    memory_mib: MemoryMib = 256
    vcpus_max: int = 0
    memory_max_mib: int = 0
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    priority: Priority = Priority.NORMAL
    allotment: Allotment = Allotment()
    uuid: str = ""
    known: ImageFacts | None = None


class StartVm(Command):
    """`choice` is filled in by compute's placement policy just before it decides. `node`: only there, if given. unheard: nodes that
    have not spoken since the database was restored, filled in by compute's own view; incarnation: by its host."""

    vm: Name
    node: str = ""
    choice: Placement | None = None
    unheard: tuple[str, ...] = ()
    incarnation: int = 1


class StopVm(Command):
    """Ask the guest to shut down; power off after deadline_s. 0: power off at once."""

    vm: Name
    deadline_s: DeadlineS = 60


class ResetVm(Command):
    vm: Name


class PauseVm(Command):
    vm: Name


class ResumeVm(Command):
    vm: Name


class DeleteVm(Command):
    """unheard: as for StartVm."""

    vm: Name
    unheard: tuple[str, ...] = ()
    incarnation: int = 1


class AbandonStart(Command):
    """The database was restored while this start was being prepared: what became of it afterwards is not known, so it ends."""

    vm: Name
    generation: int
    incarnation: int = 1


class NoteMemory(Command):
    """What the memory service's ledger said to the reservation of this generation. On a denial `choice` holds the next
    placement without the nodes already tried."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    choice: Placement | None = None
    incarnation: int = 1


class NoteDevices(Command):
    """What io said to the devices of this generation: granted with all of them, or denied."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    incarnation: int = 1


# --- events about VMs --------------------------------------------------------------------------------------------------


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
    was not said is not written."""

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


class VmMemoryNoted(Event):
    vm: VmId
    generation: int


class VmDevicesNoted(Event):
    vm: VmId
    generation: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]


class VmLaunchRequested(Event):
    """All that was needed is granted: the agent is ordered to run this machine."""

    vm: VmId
    node: NodeId
    spec: MachineSpec


class VmStarted(Event):
    vm: VmId
    node: NodeId
    generation: int
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()


class VmStartFailed(Event):
    """The start ended without a process: what was granted is to be given back. `tried`: nodes asked in this attempt. abandoned:
    decided before the database was restored; a process may have come up after all, and is then found."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str
    tried: tuple[NodeId, ...] = ()
    abandoned: bool = False


class VmStopRequested(Event):
    vm: VmId
    node: NodeId
    generation: int
    deadline_s: int


class VmStopped(Event):
    """Seen: no process of this generation is left."""

    vm: VmId
    node: NodeId
    generation: int
    cause: GoneCause
    sentence: str = ""


class VmPauseRequested(Event):
    vm: VmId
    generation: int


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
    """After a restore: it runs there under a generation that the log had lost. resets: those carried out so far."""

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


class VmStrangerSeen(Event):
    """After a restore: a VM runs there whose definition the log had lost. It runs on; its name is taken while it does."""

    vm: VmId
    node: NodeId
    generation: int


class VmStrangerGone(Event):
    vm: VmId
    node: NodeId
    generation: int


VmCommand = (
    DefineVm
    | StartVm
    | StopVm
    | ResetVm
    | PauseVm
    | ResumeVm
    | DeleteVm
    | NoteMemory
    | NoteDevices
    | ReportVm
    | AbandonStart
    | SetAllotment
    | MigrationCommand
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
    | MigrationEvent
)
