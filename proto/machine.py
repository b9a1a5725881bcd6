"""The shape of a virtual machine: values shared by the messages of several services and by the drivers.

Sizes are MiB (2**20 bytes). A definition pins everything the guest can see (machine type, CPU model, firmware, UUID, MACs,
PCI slots, disk serials), so that it is the same machine after a restart, a recovery or an upgrade.

What is wished carries its patterns, and is held to them when it comes in. What was decided (Disk, Nic, MachineSpec)
lies in events, which are read by the million, so its words are plain there; proto/words.py holds them to the patterns where they
are acted upon.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Final

import msgspec

from libs.common.messages import Name, Value
from proto.networks import USER, Queues

Vcpus = Annotated[int, msgspec.Meta(ge=1, le=512)]
MemoryMib = Annotated[int, msgspec.Meta(ge=64, le=16 * 1024 * 1024)]
CpuWeight = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
CpuPct = Annotated[int, msgspec.Meta(ge=0, le=51_200)]
ReservedMib = Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)]
Pin = Annotated[int, msgspec.Meta(ge=0, le=8191)]
PINS_MAX = 512
Pins = Annotated[tuple[Pin, ...], msgspec.Meta(max_length=PINS_MAX)]
DiskMib = Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)]
MAC = r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$"
BACKUP_NAME = r"^b[0-9]+-[0-9]+$"
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, msgspec.Meta(pattern=FILE_NAME)]


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
    """`direct`: the kernel of the image is started by QEMU itself (PVH). `uefi`: OVMF, where a node has it; without secure boot."""

    DIRECT = "direct"
    BIOS = "bios"
    UEFI = "uefi"


class System(StrEnum):
    """What runs inside, as far as the board is made for it."""

    LINUX = "linux"
    WINDOWS = "windows"
    OTHER = "other"


class NicKind(StrEnum):
    """`user`: isolated user-mode network; `bridge`: a tap in a bridge of the node, and in its VLAN."""

    USER = "user"
    BRIDGE = "bridge"


class DiskBus(StrEnum):
    """How the guest sees a disk; what each costs and when to choose it is in proto/models.py."""

    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    NVME = "nvme"
    CDROM = "cdrom"
    SATA_CDROM = "sata-cdrom"

    @property
    def is_cd(self) -> bool:
        """A drive: it has no file of its own, and its image (an ISO) is what lies in it, if anything."""
        return self is _CDROM or self is _SATA_CDROM


_CDROM, _SATA_CDROM = DiskBus.CDROM, DiskBus.SATA_CDROM
CDS = frozenset({_CDROM, _SATA_CDROM})
"""for those who ask it of many disks"""


class NicModel(StrEnum):
    VIRTIO = "virtio"
    E1000E = "e1000e"


class MemoryBy(StrEnum):
    """What memory that is added to a running VM comes by. `virtio-mem`: in units of 2 MiB, and goes again; its guest needs a
    driver (Linux 5.8 has one). `dimm`: in modules of 128 MiB and multiples, a few of them, and each goes whole where the guest can
    empty it; for every guest that knows hot plug by ACPI."""

    VIRTIO_MEM = "virtio-mem"
    DIMM = "dimm"


DIMM_UNIT_MIB = 128
"""what a guest's kernel adds and removes at once"""
DIMMS_MAX = 8
"""sockets for modules on the board of a running VM"""


class DiskLimits(Value):
    """What a disk may do at most, per second; 0: no limit. burst: for a moment, above the limit it belongs to."""

    iops: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    mibps: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    iops_burst: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    mibps_burst: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0


class Seed(Value):
    """What cloud-init in a guest begins with: where it lies, never what it says, which may hold passwords. file: in the `incoming`
    folder of the pool of its drive; sha256: of that file."""

    file: FileName
    sha256: Sha256


class DiskWish(Value):
    """A disk as asked for: an overlay on an image, or a blank one. size_mib 0: as large as the image. Or a CD drive, empty or with
    an image in it, or with the VM's seed. first: the guest is started from it before all others."""

    size_mib: Annotated[int, msgspec.Meta(ge=0, le=64 * 1024 * 1024)] = 0
    image: str = ""
    format: DiskFormat = DiskFormat.QCOW2
    pool: Name = "default"
    bus: DiskBus = DiskBus.VIRTIO_BLK
    limits: DiskLimits = DiskLimits()
    first: bool = False
    seed: Seed | None = None


class NicWish(Value):
    """network: the name of one, or `user`. queues: pairs of them, of a virtio NIC; more let several vCPUs send at once."""

    network: Name = USER
    model: NicModel = NicModel.VIRTIO
    queues: Queues = 1


LAYERS_MAX = 16
"""files beneath one disk, and snapshots of one VM"""


KEY_ID = r"^([a-z0-9][a-z0-9-]{0,30}-[0-9a-f]{16})?$"
"""of a key of backups; empty: of none"""


class Origin(Value):
    """Where a file is that lies in a backup: `<pool>/backups/<vm>/<backup>/`; pool_id: as Disk.pool_id. bytes: how many the file
    has (SavedDisk.bytes); 0: not known. key: by which it is encrypted; empty: it is not."""

    vm: str
    backup: str
    pool: str
    pool_id: str = ""
    bytes: int = 0
    key: str = ""


class Layer(Value):
    """A file beneath a disk, which nobody writes any more. leaving: it is to be merged into the file above it, or was already: that
    one's header says which. origin: it lies in a backup, and is not this VM's; None: beside the disk's own file."""

    file: str
    format: DiskFormat
    leaving: bool = False
    origin: Origin | None = None


class Freeze(StrEnum):
    """Whether a guest's file systems stand still while a snapshot is taken. auto: if its agent answers in time."""

    AUTO = "auto"
    REQUIRE = "require"
    NO = "no"


class Taking(Value):
    """A snapshot that a running VM is to take now. token: which attempt it is; each is made once."""

    token: str
    freeze: Freeze = Freeze.AUTO


class Disk(Value):
    """A disk as it is: `file` lies in the pool's `disks` folder; `serial` is what the guest sees; `slot` is its PCI root port.
    pool_id: which pool it is, as nodes may have others of that name (Capabilities.pool_ids); empty: not known. made: a guest has
    run with it: where its file is not, nothing is made in its place. vars: the file, beside it, in which UEFI firmware keeps its
    variables: of the first disk of a VM that has that firmware. A CD drive has no file and no size of its own; force: what is in
    it comes out even where the guest holds the drive locked. first: started from before all others. seed: an ISO is made
    of it, `file`, which lies in the drive. layers: what `file` stands on, the newest first; the image, if any, is beneath the
    last. vars_of: of a recovered disk, the file in the folder of its first layer (RecoveredDisk.vars) as which its variables
    begin. home_mibps: how fast what it stands on is copied at most, where that lies in a backup; 0: as its guest lets it."""

    name: str
    pool: str
    file: str
    size_mib: DiskMib
    format: DiskFormat
    serial: str
    slot: int
    image: str = ""
    bus: DiskBus = DiskBus.VIRTIO_BLK
    limits: DiskLimits = DiskLimits()
    pool_id: str = ""
    made: bool = False
    vars: str = ""
    force: bool = False
    first: bool = False
    seed: Seed | None = None
    layers: tuple[Layer, ...] = ()
    vars_of: str = ""
    home_mibps: int = 0


class Nic(Value):
    """link: the cable is in. network: its name; what it was when the VM was started, or came here last: bridge, vlan (0:
    untagged), trusted (Network), and mtu, as the guest was told at its start (0: nothing)."""

    name: str
    kind: NicKind
    mac: str
    slot: int
    bridge: str = ""
    model: NicModel = NicModel.VIRTIO
    link: bool = True
    network: str = USER
    vlan: int = 0
    mtu: int = 0
    trusted: bool = False
    queues: int = 1


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
    memory_by: MemoryBy = MemoryBy.VIRTIO_MEM
    system: System = System.LINUX


class Allotment(Value):
    """What a VM gets of its node beside its size; what is 0 or empty follows from its class (Priority).

    cpu_weight           its part of CPU time where VMs compete, by the ratio of weights
    cpu_cap_pct          at most so much CPU time, in percent of one pCPU (250: two and a half); 0: no cap
    cpu_reserved_pct     CPU time that is always its own, in percent of one pCPU
    memory_reserved_mib  guest memory that is never taken back from it
    pins                 host pCPUs that its vCPUs keep to; none: they float
    together, apart      group names: VMs of one `together` run on one node, no two of one `apart` do
    one_cell             all of it lies in one NUMA cell, or it is not started
    """

    cpu_weight: CpuWeight = 0
    cpu_cap_pct: CpuPct = 0
    cpu_reserved_pct: CpuPct = 0
    memory_reserved_mib: ReservedMib = 0
    pins: Pins = ()
    together: str = ""
    apart: str = ""
    one_cell: bool = False


ALL_BY_CLASS: Final = Allotment()
"""Nothing said. The one value that an event with omit_defaults leaves out: defaults are told by identity."""


class DirectBoot(Value):
    """Files of the image's folder: an uncompressed PVH kernel, an initrd, and the kernel's command line."""

    kernel: FileName
    initrd: FileName
    cmdline: str = ""


class Born(Value):
    """How a process was started. A VM that grew since is the same machine only in a process that was born like the first: with
    these CPUs and this memory, with PCI ports for these slots and `spare` more, and the rest plugged."""

    vcpus: int
    memory_mib: int
    slots: tuple[int, ...] = ()
    spare: int = 4


class MachineSpec(Value):
    """All a driver needs to run one VM. `images` names the image each overlay stands on; boot is None for disk boots.
    allotment: at its birth; what is changed later comes with the node's plan. born: None: now, as it is wanted (of one that runs:
    it is not known, and its size is left alone). plugged_vcpus: how many CPUs a process that takes the guest over has to have,
    where that is more than the shape says. leaving: slots whose disk or NIC is to be unplugged. dimms_mib: the modules that it was
    given since its birth, in order; its memory is that of its birth and these, where it grows by modules. taking: how the newest
    snapshot is to be taken, where a disk does not stand on its first layer yet."""

    vm: str
    generation: int
    shape: Shape
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    boot: DirectBoot | None = None
    boot_image: str = ""
    priority: Priority = Priority.NORMAL
    protected: bool = True
    allotment: Allotment = Allotment()
    born: Born | None = None
    plugged_vcpus: int = 0
    leaving: tuple[int, ...] = ()
    dimms_mib: tuple[int, ...] = ()
    taking: Taking | None = None


def birth(spec: MachineSpec) -> Born:
    """How its process is, or would be, started."""
    slots = (*(d.slot for d in spec.disks), *(n.slot for n in spec.nics))
    born = Born(vcpus=spec.shape.vcpus, memory_mib=spec.shape.memory_mib, slots=slots, spare=SPARE_PORTS)
    return spec.born or born


SLOTS_MAX = 64
"""PCI ports of a VM at most: each disk and NIC has one of its own"""
DISKS_MAX = 32
NICS_MAX = 8
PORTS_KNOWN_MAX = 4096
SPARE_PORTS = 9
"""Ports beside those in use. Slot 0 is one of them, which no device takes: 8 more disks and NICs until the next restart. A port
costs some 18 ms of CPU time at each boot (emulated)."""


@lru_cache(PORTS_KNOWN_MAX)
def ports_of(slots: tuple[int, ...], spare: int) -> tuple[int, ...]:
    """As `ports`, in order. Few sets of slots are in use, and many VMs have the same."""
    return tuple(sorted(ports(slots, spare)))


def ports(slots: Iterable[int], spare: int) -> set[int]:
    """The slots that have a PCI port in a process born with these used: those, `spare` more, function 0 of each group."""
    used = set(slots)
    every = used.union([s for s in range(SLOTS_MAX) if s not in used][:spare])
    return every | {s - s % 8 for s in every}
