"""compute: the life of VMs (streams `vm-NAME`) and the nodes of the cluster (streams `node-NAME`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value, VmId
from proto.machine import (
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
from proto.placement import Candidate as Candidate
from proto.placement import Filter as Filter
from proto.placement import Placement as Placement
from proto.placement import Rejected as Rejected

DeadlineS = Annotated[int, msgspec.Meta(ge=0, le=86_400)]


class Refusal(StrEnum):
    ALREADY_DEFINED = "ALREADY_DEFINED"
    NOT_DEFINED = "NOT_DEFINED"
    NOT_STOPPED = "NOT_STOPPED"
    NOT_RUNNING = "NOT_RUNNING"
    NOT_PAUSED = "NOT_PAUSED"
    BUSY = "BUSY"
    NO_IMAGE = "NO_IMAGE"
    NO_NODE_FITS = "NO_NODE_FITS"
    BAD_SHAPE = "BAD_SHAPE"
    NODE_KNOWN = "NODE_KNOWN"
    NODE_UNKNOWN = "NODE_UNKNOWN"
    NODE_NOT_EMPTY = "NODE_NOT_EMPTY"
    NOT_PERMITTED = "NOT_PERMITTED"
    NOT_YOURS = "NOT_YOURS"


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
    uuid: str = ""
    known: ImageFacts | None = None


class StartVm(Command):
    """`choice` is filled in by compute's placement policy just before it decides. `node`: only there, if given."""

    vm: Name
    node: str = ""
    choice: Placement | None = None


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
    vm: Name


class NoteMemory(Command):
    """What the memory service's ledger said to the reservation of this generation. On a denial `choice` holds the next
    placement without the nodes already tried."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    choice: Placement | None = None


class NoteDevices(Command):
    """What io said to the devices of this generation: granted with all of them, or denied."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()


class Seen(StrEnum):
    """How an agent sees a VM. `gone`: no process and none will come under that generation."""

    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"
    FAILED = "failed"


class GoneCause(StrEnum):
    """Why a VM's process ended."""

    ORDERED = "ordered"
    GUEST = "guest-shutdown"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


class ReportVm(Fact):
    """What the agent saw of one VM, repeated until it is answered. order_version: the latest order it has acted on;
    resets: how many resets it has carried out; failed: `sentence` says why it could not start."""

    vm: Name
    generation: int
    order_version: int
    seen: Seen
    cause: GoneCause = GoneCause.UNKNOWN
    sentence: str = ""
    resets: int = 0
    pid: int = 0
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()


# --- commands about nodes ----------------------------------------------------------------------------------------------


class Capabilities(Value):
    """What a node can do, probed by running code. share: how many embedded nodes divide this host."""

    accelerator: str
    cpu_model: str
    pcpus: int
    memory_mib: int
    qemu_version: str
    machine: str
    driver: str
    cells: tuple[tuple[int, ...], ...] = ()
    pools: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    hotplug: tuple[str, ...] = ()
    not_enforced: tuple[str, ...] = ()
    share: int = 1
    protocol: int = 1
    protocol_min: int = 1


class JoinNode(Command):
    """A node's agent presented a valid one-time token (checked by the gateway) and its public key."""

    node: Name
    key: str


class ReportNode(Fact):
    """The agent's hello: after each start of its own and each change. Decides nothing when nothing changed."""

    capabilities: Capabilities
    boot_id: str
    address: str = ""


class CordonNode(Command):
    node: Name
    reason: str = ""


class UncordonNode(Command):
    node: Name


class RemoveNode(Command):
    """`vms`: those on the node, filled in by compute's own view just before it decides."""

    node: Name
    vms: tuple[str, ...] = ()


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


class VmStartRequested(Event):
    """A node was chosen; the memory ledger and io are asked. Raises the generation."""

    vm: VmId
    node: NodeId
    generation: int
    memory_mib: int
    vcpus: int
    priority: Priority
    placement: Placement
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()


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
    """The start ended without a process: what was granted is to be given back. `tried`: nodes asked in this attempt."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str
    tried: tuple[NodeId, ...] = ()


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


# --- events about nodes ------------------------------------------------------------------------------------------------


class NodeJoined(Event):
    node: NodeId
    key: str


class NodeReported(Event):
    node: NodeId
    capabilities: Capabilities
    boot_id: str
    address: str = ""


class NodeCordoned(Event):
    node: NodeId
    reason: str = ""


class NodeUncordoned(Event):
    node: NodeId


class NodeRemoved(Event):
    node: NodeId


VmCommand = DefineVm | StartVm | StopVm | ResetVm | PauseVm | ResumeVm | DeleteVm | NoteMemory | NoteDevices | ReportVm
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
)
NodeCommand = JoinNode | ReportNode | CordonNode | UncordonNode | RemoveNode
NodeEvent = NodeJoined | NodeReported | NodeCordoned | NodeUncordoned | NodeRemoved
