"""io: the devices of each VM (streams `devices-VM`) and the images of the cluster (streams `image-NAME`)."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value, VmId
from proto.machine import DirectBoot, Disk, DiskFormat, DiskWish, FileName, Nic, NicWish, Sha256


class Refusal(StrEnum):
    IMAGE_KNOWN = "IMAGE_KNOWN"
    IMAGE_UNKNOWN = "IMAGE_UNKNOWN"
    IMAGE_IN_USE = "IMAGE_IN_USE"
    IMAGE_BUSY = "IMAGE_BUSY"
    NO_NODE = "NO_NODE"
    NOT_PERMITTED = "NOT_PERMITTED"


# --- devices -----------------------------------------------------------------------------------------------------------


class GrantDevices(Command):
    """A start of this generation on this node wants the VM's devices. The first grant makes them (names, serials, MACs,
    PCI slots: derived from the VM's uuid-like `vm` name and index, never by chance); later ones return the same. running: it was
    found running under that generation after a restore."""

    vm: Name
    node: NodeId
    generation: int
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    sizes_mib: dict[str, int] = {}
    running: bool = False


class RevokeDevices(Command):
    """That generation, and all before it, writes no more."""

    vm: Name
    generation: int


class ReturnDevices(Command):
    """A migration came to nothing: what was granted to `generation` is the source's again."""

    vm: Name
    generation: int
    source: NodeId
    source_generation: int


class RemoveDevices(Command):
    """The VM was deleted: its disks are to be removed by the agent of `node`."""

    vm: Name
    node: str = ""


class ReportDisksRemoved(Fact):
    """order_incarnation: of the order that was done; one of a lost timeline counts for nothing (so in all reports here)."""

    vm: Name
    order_version: int
    order_incarnation: int = 1
    incarnation: int = 1


class DevicesGranted(Event):
    vm: VmId
    node: NodeId
    generation: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]


class DevicesDenied(Event):
    vm: VmId
    node: NodeId
    generation: int
    sentence: str


class DevicesRevoked(Event):
    vm: VmId
    generation: int


class DevicesReturned(Event):
    """node and holder: who writes again; generation: the one that does not."""

    vm: VmId
    node: NodeId
    generation: int
    holder: int


class DisksRemovalRequested(Event):
    vm: VmId
    node: NodeId
    disks: tuple[Disk, ...]


class DevicesRemoved(Event):
    vm: VmId


# --- images ------------------------------------------------------------------------------------------------------------


class ImportImage(Command):
    """Take in a file that lies in the pool's `incoming` folder. The agent of `node` inspects and copies it. `boot` names files
    beside it for images that are started by QEMU directly (the built-in `tiny`)."""

    image: Name
    file: FileName
    format: DiskFormat
    node: str = ""
    pool: Name = "default"
    sha256: Sha256 | None = None
    boot: DirectBoot | None = None


class DeleteImage(Command):
    """`used_by`: VMs whose disks stand on it; `node`: whose agent is to remove it. Filled in by io's own view."""

    image: Name
    used_by: tuple[str, ...] = ()
    node: str = ""


class ImageInfo(Value):
    """What inspection found. `size_mib` is the virtual size, rounded up."""

    format: DiskFormat
    size_mib: int
    sha256: Sha256


class ReportImage(Fact):
    """The agent looked: `info` where it is acceptable, else `sentence` says what is wrong and what would be right."""

    image: Name
    order_version: int
    info: ImageInfo | None = None
    sentence: str = ""
    order_incarnation: int = 1
    incarnation: int = 1


class ReportImageRemoved(Fact):
    image: Name
    order_version: int
    order_incarnation: int = 1
    incarnation: int = 1


class ImageImportRequested(Event):
    image: str
    node: NodeId
    pool: str
    file: str
    format: DiskFormat
    sha256: str = ""
    boot: DirectBoot | None = None


class ImageImported(Event):
    image: str
    pool: str
    info: ImageInfo
    boot: DirectBoot | None = None


class ImageRejected(Event):
    image: str
    sentence: str


class ImageDeleteRequested(Event):
    image: str
    node: NodeId
    pool: str


class ImageDeleted(Event):
    image: str


DevicesCommand = GrantDevices | RevokeDevices | ReturnDevices | RemoveDevices | ReportDisksRemoved
DevicesEvent = (
    DevicesGranted | DevicesDenied | DevicesRevoked | DevicesReturned | DisksRemovalRequested | DevicesRemoved
)
ImageCommand = ImportImage | DeleteImage | ReportImage | ReportImageRemoved
ImageEvent = ImageImportRequested | ImageImported | ImageRejected | ImageDeleteRequested | ImageDeleted
