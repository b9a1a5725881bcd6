"""QEMU's command line, word for word: one golden file per machine. Written anew with ASV_GOLDEN=write."""

import os
from pathlib import Path

import msgspec
import pytest

from proto.machine import (
    SLOTS_MAX,
    Born,
    DirectBoot,
    Disk,
    DiskBus,
    DiskFormat,
    Firmware,
    Layer,
    MachineSpec,
    MemoryBy,
    Nic,
    NicKind,
    Origin,
    Shape,
    System,
)
from services.node.drivers.qemu.argv import Backing, BadSpec, Place, build
from services.node.drivers.qemu.devices import Handed, fdset
from services.node.drivers.qemu.layers import ordered

GOLDEN = Path(__file__).parent / "golden"
TINY = DirectBoot(kernel="vmlinux", initrd="initrd", cmdline="console=ttyS0 quiet, with commas=too")
SHAPE = Shape(
    vcpus=1,
    memory_mib=256,
    vcpus_max=1,
    memory_max_mib=256,
    machine="pc-q35-7.2",
    cpu_model="qemu64",
    firmware=Firmware.DIRECT,
    uuid="6c0e5a4e-3f1d-5d5a-9d7e-0f6f3f0a1b2c",
)
ROOT = Disk(
    name="root",
    pool="default",
    file="web-1-root.qcow2",
    size_mib=256,
    format=DiskFormat.QCOW2,
    serial="s-root",
    slot=0,
    image="tiny",
)
DATA = Disk(
    name="data", pool="fast", file="web-1-data.raw", size_mib=64, format=DiskFormat.RAW, serial="s-data", slot=9
)
USER = Nic(name="lan", kind=NicKind.USER, mac="52:54:00:aa:bb:01", slot=8)
BRIDGED = Nic(name="wan", kind=NicKind.BRIDGE, mac="52:54:00:aa:bb:02", slot=17, bridge="br0", mtu=1400, queues=2)
PLACE = Place(
    accelerator="tcg",
    pools={"default": "/pools/default", "fast": "/proc/self/fd/9"},
    direct=frozenset({"default"}),
    bases={"tiny": Backing("images/tiny/disk.qcow2", DiskFormat.QCOW2), "iso": Backing("images/iso/disk.raw", DiskFormat.RAW)},
    boot_folder="/pools/default/images/tiny",
    taps={"wan": (12, 13)},
)
MINIMAL = MachineSpec(vm="web-1", generation=1, shape=SHAPE, boot=TINY, boot_image="tiny")
FULL = MachineSpec(
    vm="web-1",
    generation=7,
    shape=msgspec.structs.replace(SHAPE, vcpus=2, vcpus_max=8, memory_max_mib=4096),
    disks=(ROOT, DATA),
    nics=(USER, BRIDGED),
    boot=TINY,
    boot_image="tiny",
)
BIOS = msgspec.structs.replace(
    FULL,
    boot=None,
    boot_image="",
    nics=(),
    shape=msgspec.structs.replace(SHAPE, firmware=Firmware.BIOS, cpu_model="Nehalem"),
)
MODULES = msgspec.structs.replace(
    MINIMAL,
    shape=msgspec.structs.replace(SHAPE, memory_by=MemoryBy.DIMM, memory_mib=640, memory_max_mib=1024),
    born=Born(vcpus=1, memory_mib=256),
    dimms_mib=(128, 256),
)

UEFI = msgspec.structs.replace(
    BIOS,
    disks=(msgspec.structs.replace(ROOT, vars="web-1-root-vars.fd"), DATA),
    shape=msgspec.structs.replace(SHAPE, firmware=Firmware.UEFI),
)
DRIVE = Disk(
    name="cd2", pool="default", file="", size_mib=1, format=DiskFormat.RAW, serial="s-cd", slot=2, image="iso", bus=DiskBus.CDROM,
)  # fmt: skip
MEDIA = msgspec.structs.replace(
    BIOS,
    disks=(
        ROOT,
        msgspec.structs.replace(DRIVE, first=True),
        msgspec.structs.replace(DRIVE, slot=3, image="", pool="nowhere"),
        msgspec.structs.replace(DRIVE, slot=4, bus=DiskBus.SATA_CDROM, image=""),
        msgspec.structs.replace(DRIVE, slot=5, bus=DiskBus.SATA_CDROM),
    ),
)
WINDOWS = msgspec.structs.replace(
    MEDIA,
    disks=(msgspec.structs.replace(ROOT, vars="web-1-root-vars.fd"), msgspec.structs.replace(DRIVE, bus=DiskBus.SATA_CDROM)),
    shape=msgspec.structs.replace(SHAPE, firmware=Firmware.UEFI, system=System.WINDOWS),
)
ORIGIN = Origin(vm="old-1", backup="b1-2", pool="safe")
OLDER = msgspec.structs.replace(ORIGIN, backup="b1-1")
SAVED = tuple(
    Layer(file=f"old-1-root.{origin.backup}.qcow2", format=DiskFormat.QCOW2, leaving=True, origin=origin)
    for origin in (ORIGIN, OLDER)
)
RECOVERED = msgspec.structs.replace(BIOS, disks=(msgspec.structs.replace(ROOT, image="", layers=SAVED), DATA))
FLASH = msgspec.structs.replace(
    PLACE,
    firmware_code="/usr/share/OVMF/OVMF_CODE_4M.fd",
    firmware_vars="/pools/default/disks/web-1-root-vars.fd",
)

@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("minimal", MINIMAL),
        ("full", FULL),
        ("bios", BIOS),
        ("modules", MODULES),
        ("uefi", UEFI),
        ("media", MEDIA),
        ("windows", WINDOWS),
        ("recovered", RECOVERED),
    ],
)
def test_the_same_spec_gives_the_same_words(name: str, spec: MachineSpec) -> None:
    place = msgspec.structs.replace(FLASH, accelerator="kvm") if spec is WINDOWS else FLASH
    if spec is RECOVERED:
        beneath = ordered(spec.disks[0], None)
        handed = tuple(Handed(20 + depth, fdset(0, depth), layer.file) for depth, layer in enumerate(SAVED))
        place = msgspec.structs.replace(place, layers={"root": beneath}, handed=handed)
    words = build("qemu-system-x86_64", spec, place)
    lines = "\n".join(words) + "\n"
    golden = GOLDEN / f"{name}.argv"
    if os.environ.get("ASV_GOLDEN") == "write":
        golden.write_text(lines, encoding="utf-8")
    assert lines == golden.read_text(encoding="utf-8")


def test_a_device_keeps_its_address_whatever_is_plugged_beside_it() -> None:
    alone = build("q", msgspec.structs.replace(FULL, disks=(DATA,), nics=()), PLACE)
    both = build("q", FULL, PLACE)
    port = next(word for word in both if word.startswith("pcie-root-port,id=port9,"))
    assert port in alone
    assert "addr=0x11.1" in port
    assert any(word.startswith("pcie-root-port,id=port8,") for word in alone), "function 0 of the group is always there"


def test_a_generation_is_nothing_that_a_guest_sees() -> None:
    assert build("q", FULL, PLACE) == build("q", msgspec.structs.replace(FULL, generation=8), PLACE)


def bad(**changes: object) -> MachineSpec:
    return msgspec.structs.replace(FULL, **changes)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (bad(shape=msgspec.structs.replace(FULL.shape, vcpus_max=1)), "vcpus_max"),
        (bad(boot=None, shape=msgspec.structs.replace(FULL.shape, firmware=Firmware.UEFI)), "uefi needs its code"),
        (bad(boot=None), "boot files"),
        (bad(nics=(msgspec.structs.replace(USER, slot=0),)), "must differ"),
        (bad(disks=(msgspec.structs.replace(ROOT, slot=SLOTS_MAX),)), "0..63"),
        (bad(disks=(msgspec.structs.replace(ROOT, serial="x" * 21),)), "20 characters"),
        (bad(disks=(msgspec.structs.replace(ROOT, pool="slow"),)), "'slow'"),
        (bad(disks=tuple(msgspec.structs.replace(DRIVE, slot=i, bus=DiskBus.SATA_CDROM) for i in range(1, 9)), nics=()), "6 ports"),
        (bad(nics=(msgspec.structs.replace(BRIDGED, name="lost"),)), "br0"),
        (msgspec.structs.replace(MODULES, dimms_mib=(128,)), "by modules of"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(spec: MachineSpec, says: str) -> None:
    with pytest.raises(BadSpec, match=says):
        build("q", spec, PLACE)
