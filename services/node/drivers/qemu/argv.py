"""From a MachineSpec to QEMU's command line. Pure: the same spec and place give the same words (tests/model/golden).

What the guest sees is pinned by the spec; everything else is fixed here:

    pcie.0  1 VGA · 2 virtio-serial · 3 balloon · 4 rng · 5 i6300esb · 6 pvpanic · 7 virtio-mem · 16 + slot // 8 root ports
    root port of slot s: function s % 8 of device 16 + s // 8, so that a disk or NIC keeps its address whatever is plugged
    beside it. Function 0 of a group is always made: without it the guest would not look at the others.

QEMU works in a folder of its own (`vnc` is relative to it); the monitor, the guest agent's channel and the serial
console are listening sockets that the agent made and hands over by number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from proto import machine
from proto.machine import (
    DIMMS_MAX,
    SLOTS_MAX,
    Disk,
    DiskBus,
    DiskFormat,
    Firmware,
    MachineSpec,
    MemoryBy,
    Nic,
    NicKind,
    System,
    birth,
)
from services.node.drivers.qemu import devices
from services.node.drivers.qemu.devices import Backing as Backing
from services.node.drivers.qemu.devices import Handed
from services.node.drivers.qemu.stores.settings import Remote

MEMORY_UNIT_MIB = 2
"""memory by virtio-mem comes and goes in multiples of it"""
MEMORY_DEVICE = "growth"
DIMM = "dimm"
MIB = 1024 * 1024
SERIAL_LENGTH_MAX = 20
TB_MIB = 64
"""Translated code kept by TCG. QEMU's own choice is up to 1 GiB per VM."""
FIRMWARE_CODE, FIRMWARE_VARS = "firmware-code", "firmware-vars"
SATA_PORTS = 6
HYPER_V = (
    *("hv-relaxed=on", "hv-vapic=on", "hv-spinlocks=0x1fff", "hv-vpindex=on", "hv-runtime=on", "hv-time=on", "hv-synic=on"),
    *("hv-stimer=on", "hv-frequencies=on", "hv-ipi=on", "hv-tlbflush=on"),
    "hv-crash=on",  # a blue screen tells QEMU its stop code before it is painted
)
AGENT_CHANNEL = "org.qemu.guest_agent.0"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class BadSpec(ValueError):
    """The spec asks for what this driver cannot make; the sentence says what would be right."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are on this node, named as the QEMU process is to name them.

    pools    folder of each pool; remotes: of those that are no folder, where their disks are
    direct   the pools whose file system can do O_DIRECT
    bases    what each image is, by image name: a disk with `image` in qcow2 format stands on it
    layers   of disks with layers, by their name: what their file stands on, the image included
    *_fd     numbers of the listening sockets and of the queues of tap devices (by NIC name), as the process inherits them
    """

    accelerator: str
    pools: dict[str, str]
    remotes: Mapping[str, Remote] = {}
    direct: frozenset[str] = frozenset()
    bases: dict[str, Backing] = {}
    layers: dict[str, tuple[Backing, ...]] = {}
    boot_folder: str = ""
    monitor_fd: int = 3
    agent_fd: int = 4
    serial_fd: int = 5
    guard_fd: int = 6
    taps: dict[str, tuple[int, ...]] = {}
    handed: tuple[Handed, ...] = ()
    """files of backups that disks stand on"""
    keys: tuple[tuple[str, int], ...] = ()
    """by which these are encrypted: their ids, and open files that hold them"""
    firmware_code: str = ""
    firmware_vars: str = ""
    """of UEFI: the host's, and the VM's own"""
    firmware_direct: bool = False
    """the pool of these variables can do O_DIRECT"""
    incoming: bool = False
    """it waits for its guest from another process"""


def secret_words(key: str, fd: int) -> tuple[str, str]:
    """A key, of an open file that the process inherits and reads once."""
    return "-object", f"secret,id={devices.secret_id(key)},file=/proc/self/fd/{fd}"


def build(qemu: str, spec: MachineSpec, place: Place) -> list[str]:
    """The command line. Raises BadSpec."""
    check(spec, place)
    return [
        qemu,
        *_board(spec, place),
        *_firmware(spec, place),
        *_cpu_and_memory(spec, place),
        *_channels(place),
        *_devices(),
        *_growth(spec),
        *_ports(spec),
        *[word for key, fd in place.keys for word in secret_words(key, fd)],
        *[word for one in place.handed for word in one.words()],
        *[word for disk in spec.disks if not disk.bus.is_cd for word in _disk(disk, place)],
        *_cds(spec, place),
        *[word for nic in spec.nics for word in _nic(nic, place)],
        *_boot(spec, place),
        *(("-incoming", "defer") if place.incoming else ()),
        "-S",
    ]


def check(spec: MachineSpec, place: Place) -> None:
    """Raises BadSpec for what QEMU would refuse unclearly, or take and do wrong."""
    shape, born = spec.shape, birth(spec)
    if shape.vcpus_max < shape.vcpus or shape.memory_max_mib < shape.memory_mib:
        raise BadSpec(f"{spec.vm}: vcpus_max and memory_max_mib must be at least vcpus and memory_mib")
    if shape.memory_mib < born.memory_mib or (shape.memory_mib - born.memory_mib) % MEMORY_UNIT_MIB:
        raise BadSpec(
            f"{spec.vm}: born with {born.memory_mib} MiB, wanted with {shape.memory_mib}: "
            f"more by a multiple of {MEMORY_UNIT_MIB} MiB, or as many"
        )
    if shape.memory_by is MemoryBy.DIMM and shape.memory_mib - born.memory_mib != sum(spec.dimms_mib):
        said = f"{spec.vm}: born with {born.memory_mib} MiB, wanted with {shape.memory_mib}, by modules of {spec.dimms_mib} MiB"
        raise BadSpec(said)
    if shape.firmware is Firmware.UEFI and not (place.firmware_code and place.firmware_vars):
        raise BadSpec(f"{spec.vm}: firmware uefi needs its code and a file of variables, and this node gave none")
    if (shape.firmware is Firmware.DIRECT) != (spec.boot is not None):
        raise BadSpec(f"{spec.vm}: firmware {shape.firmware} needs boot files if and only if it is direct")
    slots = [d.slot for d in spec.disks] + [n.slot for n in spec.nics]
    if len(set(slots)) != len(slots) or any(not 0 <= s < SLOTS_MAX for s in slots):
        raise BadSpec(f"{spec.vm}: PCI slots {sorted(slots)} must differ and lie in 0..{SLOTS_MAX - 1}")
    for disk in spec.disks:
        if len(disk.serial) > SERIAL_LENGTH_MAX:
            raise BadSpec(
                f"{spec.vm}: serial {disk.serial!r} is longer than the {SERIAL_LENGTH_MAX} characters a guest sees"
            )
        if disk.pool not in place.pools and (disk.image or disk.file):
            raise BadSpec(f"{spec.vm}: disk {disk.name} lies in pool {disk.pool!r}, which this node does not have")
        if disk.bus.is_cd and disk.image and disk.pool in place.remotes:
            raise BadSpec(f"{spec.vm}: the CD {disk.image} is in pool {disk.pool!r}, which is no folder: CDs are files")
    if sum(disk.bus is DiskBus.SATA_CDROM for disk in spec.disks) > SATA_PORTS:
        raise BadSpec(f"{spec.vm}: the board's SATA controller has {SATA_PORTS} ports: no more such CD drives than that")
    for nic in spec.nics:
        if nic.kind is NicKind.BRIDGE and nic.name not in place.taps:
            raise BadSpec(f"{spec.vm}: NIC {nic.name} wants bridge {nic.bridge!r}, which this node does not have")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _board(spec: MachineSpec, place: Place) -> list[str]:
    accelerator = f"tcg,thread=multi,tb-size={TB_MIB}" if place.accelerator == "tcg" else place.accelerator
    flash = f",pflash0={FIRMWARE_CODE},pflash1={FIRMWARE_VARS}" if spec.shape.firmware is Firmware.UEFI else ""
    return [
        *("-name", f"guest={spec.vm},debug-threads=on"),
        *("-uuid", spec.shape.uuid),
        *("-nodefaults", "-no-user-config"),
        *("-sandbox", SANDBOX),
        # Pages are merged with those of others only where an order says so.
        *("-machine", f"{spec.shape.machine},dump-guest-core=off,mem-merge=off{flash}"),
        *("-accel", accelerator),
        # The process outlives a guest's power-off and panic, so that an agent that was away still learns the cause. A watchdog that
        # ran out is one sign, upon which nothing is done without another (services/ha/verdict_rule.py).
        *("-action", "shutdown=pause,panic=pause,watchdog=none"),
        *("-rtc", f"base={'localtime' if spec.shape.system is System.WINDOWS else 'utc'},driftfix=slew"),
    ]


def _firmware(spec: MachineSpec, place: Place) -> list[str]:
    """Two flash chips: code that is never written, and variables."""
    if spec.shape.firmware is not Firmware.UEFI:
        return []
    code = devices.flash_nodes(FIRMWARE_CODE, place.firmware_code, read_only=True)
    own = devices.flash_nodes(FIRMWARE_VARS, place.firmware_vars, read_only=False, direct=place.firmware_direct)
    return _each("-blockdev", [*code, *own])


def _enlightened(spec: MachineSpec, place: Place) -> tuple[str, ...]:
    """What Windows knows of running on a hypervisor. Only KVM answers it: emulated, such a guest runs without."""
    return HYPER_V if spec.shape.system is System.WINDOWS and place.accelerator == "kvm" else ()


def _cpu_and_memory(spec: MachineSpec, place: Place) -> list[str]:
    shape, born = spec.shape, birth(spec)
    vcpus = f"cpus={born.vcpus},maxcpus={shape.vcpus_max},sockets=1,cores={shape.vcpus_max},threads=1"
    memory = f"size={born.memory_mib}M"
    if shape.memory_max_mib > born.memory_mib:
        memory += f",slots={DIMMS_MAX},maxmem={shape.memory_max_mib}M"
    return ["-cpu", ",".join([shape.cpu_model, *_enlightened(spec, place)]), "-smp", vcpus, "-m", memory]


def growth_mib(spec: MachineSpec) -> int:
    """How much memory may be plugged by virtio-mem; 0: the VM has no such device."""
    if spec.shape.memory_by is MemoryBy.DIMM:
        return 0
    born = birth(spec)
    left = (spec.shape.memory_max_mib - born.memory_mib) // MEMORY_UNIT_MIB * MEMORY_UNIT_MIB
    return max(0, left)


def _growth(spec: MachineSpec) -> list[str]:
    """What a VM can grow by, and has grown by where another process is to take its guest over. The memory is a hole in QEMU's
    address space until the guest asks for it."""
    born = birth(spec)
    words: list[str] = []
    for number in range(born.vcpus, max(spec.shape.vcpus, spec.plugged_vcpus) if spec.born else 0):
        words += _each("-device", [vcpu(spec.shape.cpu_model, number)])
    if most := growth_mib(spec):
        device = {
            "driver": "virtio-mem-pci", "id": MEMORY_DEVICE, "bus": "pcie.0", "addr": "0x7", "memdev": "growth-memory",
            "requested-size": (spec.shape.memory_mib - born.memory_mib) * MIB, "block-size": MEMORY_UNIT_MIB * MIB,
        }  # fmt: skip
        words += ["-object", f"memory-backend-ram,id=growth-memory,size={most}M,reserve=off"]
        words += _each("-device", [device])
    for number, mib in enumerate(spec.dimms_mib):
        words += ["-object", ",".join(f"{key}={_word(value)}" for key, value in dimm_memory(number, mib).items())]
        words += _each("-device", [dimm(number)])
    return words


def dimm_memory(number: int, mib: int) -> dict[str, Any]:
    """What a module's memory is made of."""
    return {"qom-type": "memory-backend-ram", "id": f"{DIMM}{number}-memory", "size": mib * MIB}


def dimm(number: int) -> dict[str, Any]:
    return {"driver": "pc-dimm", "id": f"{DIMM}{number}", "memdev": f"{DIMM}{number}-memory"}


def vcpu(cpu_model: str, number: int) -> dict[str, Any]:
    """A CPU to be plugged: the board has one socket of single-threaded cores."""
    place = {"socket-id": 0, "core-id": number, "thread-id": 0}
    return {"driver": f"{cpu_model}-x86_64-cpu", "id": f"vcpu{number}", **place}


def _channels(place: Place) -> list[str]:
    def listening(id: str, fd: int) -> list[str]:
        return ["-chardev", f"socket,id={id},fd={fd},server=on,wait=off"]

    return [
        *listening("monitor", place.monitor_fd),
        *("-mon", "chardev=monitor,mode=control"),
        *listening("guard", place.guard_fd),
        *("-mon", "chardev=guard,mode=control"),
        *listening("serial", place.serial_fd),
        *("-serial", "chardev:serial"),
        *listening("agent", place.agent_fd),
        *("-device", "virtio-serial-pci,id=channels,bus=pcie.0,addr=0x2"),
        *("-device", f"virtserialport,id=agent0,bus=channels.0,nr=1,chardev=agent,name={AGENT_CHANNEL}"),
        *("-display", "none", "-vnc", "unix:vnc"),
    ]


def _devices() -> list[str]:
    return [
        *("-device", "VGA,id=vga,bus=pcie.0,addr=0x1"),
        *("-device", "virtio-balloon-pci,id=balloon,bus=pcie.0,addr=0x3,deflate-on-oom=on,free-page-reporting=on"),
        *("-object", "rng-random,id=entropy,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,id=rng,rng=entropy,bus=pcie.0,addr=0x4,max-bytes=65536,period=1000"),
        *("-device", "i6300esb,id=watchdog,bus=pcie.0,addr=0x5"),
        *("-device", "pvpanic-pci,id=panic,bus=pcie.0,addr=0x6"),
    ]


def ports(spec: MachineSpec) -> set[int]:
    """The slots that have a PCI port: those used at its birth, a few more, and function 0 of each group."""
    born = birth(spec)
    return machine.ports(born.slots, born.spare)


def _ports(spec: MachineSpec) -> list[str]:
    words: list[str] = []
    for s in sorted(ports(spec)):
        function0 = ",multifunction=on" if s % 8 == 0 else ""
        # No I/O window: modern virtio needs none, and the board has room for a few only.
        words += [
            "-device",
            f"pcie-root-port,id=port{s},bus=pcie.0,chassis={s + 1},addr={16 + s // 8:#x}.{s % 8}{function0},io-reserve=0",
        ]
    return words


def _disk(disk: Disk, place: Place) -> list[str]:
    remote = place.remotes.get(disk.pool)
    image = place.bases.get(disk.image) if disk.format is DiskFormat.QCOW2 and remote is None else None
    beneath = place.layers[disk.name] if disk.layers else (image,) if image is not None else ()
    nodes = devices.disk_nodes(disk, place.pools[disk.pool], disk.pool in place.direct, beneath, remote)
    made = devices.disk_devices(disk)
    return [*_each("-blockdev", nodes), *_each("-device", made)]


def _cds(spec: MachineSpec, place: Place) -> list[str]:
    words: list[str] = []
    on_board = [disk.slot for disk in spec.disks if disk.bus is DiskBus.SATA_CDROM]
    for disk in (disk for disk in spec.disks if disk.bus.is_cd):
        if disk.image or disk.file:
            words += _each("-blockdev", devices.medium_nodes(disk, place.pools[disk.pool], place.bases.get(disk.image)))
        number = on_board.index(disk.slot) if disk.slot in on_board else 0
        words += _each("-device", devices.cd_devices(disk, number))
    return words


def _nic(nic: Nic, place: Place) -> list[str]:
    queues = [str(queue) for queue in place.taps[nic.name]] if nic.kind is NicKind.BRIDGE else []
    backend = devices.nic_backend(nic, queues)
    net = ",".join([str(backend.pop("type")), *(f"{key}={_word(value)}" for key, value in backend.items())])
    return ["-netdev", net, *_each("-device", [devices.nic_device(nic)])]


def _each(option: str, words: list[dict[str, Any]]) -> list[str]:
    return [word for made in words for word in (option, _json(made))]


def _word(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _boot(spec: MachineSpec, place: Place) -> list[str]:
    if spec.boot is None:
        return ["-boot", "menu=off,strict=on"]
    return [
        *("-kernel", f"{place.boot_folder}/{spec.boot.kernel}"),
        *("-initrd", f"{place.boot_folder}/{spec.boot.initrd}"),
        *("-append", spec.boot.cmdline),
    ]
