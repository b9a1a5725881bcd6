"""io: the images of the cluster (streams `image-NAME`). A part of io.py."""

from __future__ import annotations

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value
from proto.machine import DirectBoot, DiskFormat, FileName, Sha256


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
    """The agent looked: `info` where it is acceptable, else `sentence` says what is wrong and what would be right. pool_ids: of the
    node's pools, by io's own view."""

    image: Name
    order_version: int
    info: ImageInfo | None = None
    sentence: str = ""
    order_incarnation: int = 1
    incarnation: int = 1
    pool_ids: dict[str, str] = {}


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
    """pool_id: which pool of that name it is in (as Disk.pool_id)."""

    image: str
    pool: str
    info: ImageInfo
    boot: DirectBoot | None = None
    pool_id: str = ""


class ImageRejected(Event):
    image: str
    sentence: str


class ImageDeleteRequested(Event):
    image: str
    node: NodeId
    pool: str


class ImageDeleted(Event):
    image: str


ImageCommand = ImportImage | DeleteImage | ReportImage | ReportImageRemoved
ImageEvent = ImageImportRequested | ImageImported | ImageRejected | ImageDeleteRequested | ImageDeleted
