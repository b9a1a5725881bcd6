"""io: the images of the cluster (streams `image-NAME`). A part of io.py."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Name, NodeId, Value
from proto.machine import DirectBoot, Disk, DiskFormat, FileName, Firmware, Sha256
from proto.pools import PoolKind


class ImageFormat(StrEnum):
    """What a file is that comes in. Raw and qcow2 are kept as they are; of all others a qcow2 is made. ova: an appliance, of which
    one disk is taken. iso: what CD drives read; no disk stands on it."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHDX = "vhdx"
    VDI = "vdi"
    VHD = "vhd"
    OVA = "ova"
    ISO = "iso"

    @property
    def kept(self) -> DiskFormat:
        """How it lies in the pool."""
        return DiskFormat.RAW if self in (ImageFormat.RAW, ImageFormat.ISO) else DiskFormat.QCOW2

    @property
    def stays(self) -> bool:
        """It is kept as it came."""
        return self in (ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.ISO)


DiskOfMany = Annotated[str, msgspec.Meta(max_length=128)]


class ImportImage(Command):
    """Take in a file that lies in the pool's `incoming` folder. The agent of `node` inspects and copies it. `boot` names files
    beside it for images that are started by QEMU directly (the built-in `tiny`). disk: which of an appliance's disks; empty: its
    first."""

    image: Name
    file: FileName
    format: ImageFormat
    node: str = ""
    pool: Name = "default"
    sha256: Sha256 | None = None
    boot: DirectBoot | None = None
    disk: DiskOfMany = ""


class DiskSource(Value):
    """A VM's disk that an image is made of. disk: as it is to be read, with the layers beneath; it is not written meanwhile.
    resting: it is the file that the VM's guest writes, so the VM must not run. boot_image: whose boot files go along; empty:
    none."""

    vm: Name
    disk: Disk
    resting: bool = False
    boot_image: str = ""


class TemplateKnown(Value):
    """By io's own view, of the VM that an image is to be made of. defined: there is such a VM; node: that reaches the disk's pool,
    by disk; snapshots: those taken, with the files that they hold."""

    defined: bool = False
    running: bool = False
    disks: tuple[Disk, ...] = ()
    nodes: dict[str, str] = {}
    kinds: dict[str, PoolKind] = {}
    snapshots: dict[str, tuple[str, ...]] = {}
    boot: DirectBoot | None = None
    boot_image: str = ""


class MakeImage(Command):
    """Of a disk of a VM that is stopped, or of what a snapshot holds of it. disk: empty: the VM's first."""

    image: Name
    vm: Name
    disk: DiskOfMany = ""
    snapshot: Annotated[str, msgspec.Meta(max_length=63)] = ""
    known: TemplateKnown = TemplateKnown()


class DeleteImage(Command):
    """`used_by`: VMs whose disks stand on it; `node`: whose agent is to remove it. Filled in by io's own view."""

    image: Name
    used_by: tuple[str, ...] = ()
    node: str = ""


class Suggestion(Value):
    """What an appliance says of the machine that it was made on; nothing follows from it by itself. 0 or empty: it says nothing.
    disks: all that it holds, by name, the one that was taken first."""

    vcpus: int = 0
    memory_mib: int = 0
    nics: int = 0
    firmware: Firmware | None = None
    system: str = ""
    disks: tuple[str, ...] = ()


class ImageInfo(Value):
    """What inspection found. format: how it lies in the pool; source: what came, where that is another one. `size_mib` is the
    virtual size, rounded up; sha256: of the file that came."""

    format: DiskFormat
    size_mib: int
    sha256: Sha256
    source: ImageFormat | None = None
    suggests: Suggestion | None = None

    @property
    def is_iso(self) -> bool:
        return self.source is ImageFormat.ISO


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
    """source: it is made of a disk of a VM, and `file` is that disk's."""

    image: str
    node: NodeId
    pool: str
    file: str
    format: ImageFormat
    sha256: str = ""
    boot: DirectBoot | None = None
    disk: str = ""
    source: DiskSource | None = None


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


ImageCommand = ImportImage | MakeImage | DeleteImage | ReportImage | ReportImageRemoved
ImageEvent = ImageImportRequested | ImageImported | ImageRejected | ImageDeleteRequested | ImageDeleted
