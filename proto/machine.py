"""The shape of a virtual machine: values shared by the messages of several services and by the drivers.

Sizes are MiB (2**20 bytes). A definition pins everything the guest can see (machine type, CPU model, firmware, UUID, MACs,
PCI slots, disk serials), so that it is the same machine after a restart, a recovery or an upgrade.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Name, Value

Vcpus = Annotated[int, msgspec.Meta(ge=1, le=512)]
MemoryMib = Annotated[int, msgspec.Meta(ge=64, le=16 * 1024 * 1024)]
DiskMib = Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)]
Mac = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Priority(StrEnum):
    """What a VM is worth when there is not enough for all. Critical ones are placed and served first."""

    CRITICAL = "critical"
    IMPORTANT = "important"
    NORMAL = "normal"
    BEST_EFFORT = "best-effort"


class DiskFormat(StrEnum):
    QCOW2 = "qcow2"
    RAW = "raw"


class Firmware(StrEnum):
    """`direct`: the kernel of the image is started by QEMU itself (PVH)."""

    DIRECT = "direct"
    BIOS = "bios"
    UEFI = "uefi"


class NicKind(StrEnum):
    """`user`: isolated user-mode network; `bridge`: a tap in the named bridge of the node."""

    USER = "user"
    BRIDGE = "bridge"


class DiskWish(Value):
    """A disk as asked for: an overlay on an image, or a blank one. size_mib 0: as large as the image."""

    size_mib: Annotated[int, msgspec.Meta(ge=0, le=64 * 1024 * 1024)] = 0
    image: str = ""
    format: DiskFormat = DiskFormat.QCOW2
    pool: Name = "default"


class NicWish(Value):
    kind: NicKind = NicKind.USER
    bridge: str = ""


class Disk(Value):
    """A disk as it is: `file` lies in the pool's `disks` folder; `serial` is what the guest sees; `slot` is its PCI root port."""

    name: Name
    pool: Name
    file: FileName
    size_mib: DiskMib
    format: DiskFormat
    serial: str
    slot: int
    image: str = ""


class Nic(Value):
    name: Name
    kind: NicKind
    mac: Mac
    slot: int
    bridge: str = ""


class Shape(Value):
    """What the guest sees of CPU, memory and board. The head-room (…_max) is fixed at each start."""

    vcpus: Vcpus
    memory_mib: MemoryMib
    vcpus_max: Vcpus
    memory_max_mib: MemoryMib
    machine: str
    cpu_model: str
    firmware: Firmware
    uuid: str


class DirectBoot(Value):
    """Files of the image's folder: an uncompressed PVH kernel, an initrd, and the kernel's command line."""

    kernel: FileName
    initrd: FileName
    cmdline: str = ""


class MachineSpec(Value):
    """All a driver needs to run one VM. `images` names the image each overlay stands on; boot is None for disk boots."""

    vm: Name
    generation: int
    shape: Shape
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    boot: DirectBoot | None = None
    boot_image: str = ""
    priority: Priority = Priority.NORMAL
    protected: bool = True
