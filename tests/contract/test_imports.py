"""Disks of other hypervisors and appliances, made by the real qemu-img: what becomes of them, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from proto.images import ImageFormat, Suggestion
from proto.machine import DirectBoot, DiskFormat, Firmware
from services.node.drivers import BadImage
from services.node.drivers.qemu import foreign, images, ova_tar

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

VMDK, VHDX, VDI, VHD, OVA = (ImageFormat(word) for word in ("vmdk", "vhdx", "vdi", "vhd", "ova"))
SIZE = 8 << 20
NOISE = os.urandom(1 << 20)
GUEST = NOISE + bytes(2 << 20) + NOISE[::-1] + bytes(SIZE - (4 << 20))
"""what is on the disk"""

type Make = Callable[[Path], Path]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for name in ("images", "disks", "leases", "incoming"):
        (tmp_path / name).mkdir()
    return tmp_path


def disk(folder: Path, word: str, options: str = "", data: bytes = GUEST, name: str = "a") -> Path:
    raw, file = folder / "raw", folder / name
    raw.write_bytes(data)
    more = ["-o", options] if options else []
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", word, *more, str(raw), str(file)], check=True)
    raw.unlink()
    file.chmod(0o644)
    return file


def read_back(pool: Path) -> bytes:
    flat = pool / "flat"
    subprocess.run(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(pool / "images/web/disk.qcow2"), str(flat)], check=True
    )
    return flat.read_bytes()


@pytest.mark.parametrize(
    ("format", "word", "options"),
    [
        (VMDK, "vmdk", ""),
        (VMDK, "vmdk", "subformat=streamOptimized"),
        (VHDX, "vhdx", ""),
        (VHDX, "vhdx", "subformat=fixed"),
        (VDI, "vdi", ""),
        (VDI, "vdi", "static=on"),
        (VHD, "vpc", "force_size=on"),
        (VHD, "vpc", "subformat=fixed,force_size=on"),
    ],
)
async def test_what_comes_from_elsewhere_becomes_a_qcow2_with_the_same_bytes(
    pool: Path, format: ImageFormat, word: str, options: str
) -> None:
    file = disk(pool / "incoming", word, options)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    info = await images.import_image(pool, "web", "a", format, digest)
    assert (info.format, info.source, info.size_mib, info.sha256) == (DiskFormat.QCOW2, format, 8, digest)
    assert read_back(pool) == GUEST
    assert sorted(p.name for p in (pool / "images" / "web").iterdir()) == ["disk.qcow2", "manifest.json"]
    assert [p.name for p in (pool / "images").iterdir()] == ["web"]
    file.unlink()
    assert await images.import_image(pool, "web", "a", format, digest) == info
    with pytest.raises(BadImage, match="another image"):
        await images.import_image(pool, "web", "a", ImageFormat.QCOW2, digest)


# --- what is refused -----------------------------------------------------------------------------------------------------


def cut(file: Path, to: float = 0.6) -> Path:
    os.truncate(file, int(file.stat().st_size * to) // 512 * 512)
    return file


def patch(file: Path, at: int, data: bytes) -> Path:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)
    return file


def replaced(file: Path, old: bytes, new: bytes) -> Path:
    data = file.read_bytes()
    assert old in data and len(old) == len(new)
    file.write_bytes(data.replace(old, new, 1))
    return file


def flat_vmdk(folder: Path) -> Path:
    return disk(folder, "vmdk", "subformat=monolithicFlat")


def vmdk_of_secrets(folder: Path) -> Path:
    """A descriptor whose extent is a file of the host."""
    file = folder / "a"
    file.write_text('# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\nRW 8 FLAT "/etc/passwd" 0\n')
    return file


def vmdk_with_an_outer_descriptor(folder: Path) -> Path:
    """A sparse header that claims no data of its own: qemu-img would open what its descriptor names."""
    return patch(disk(folder, "vmdk"), 12, struct.pack("<Q", 0))


def vmdk_with_a_parent(folder: Path) -> Path:
    return replaced(disk(folder, "vmdk"), b"parentCID=ffffffff", b"parentCID=00000001")


def vmdk_with_a_hidden_parent(folder: Path) -> Path:
    """A name where only qemu-img looks for one."""
    return replaced(disk(folder, "vmdk"), b"ddb.virtualHWVersion", b"parentFileNameHint=x")


def vmdk_of_two_extents(folder: Path) -> Path:
    return replaced(disk(folder, "vmdk"), b"# The Disk Data Base", b'RW 8 FLAT "etc" 0 \n ')


def vhdx_with_a_parent(folder: Path) -> Path:
    file = disk(folder, "vhdx")
    at = file.read_bytes().index(foreign.VHDX_PARAMETERS)
    table = file.read_bytes().index(b"metadata")
    (offset,) = struct.unpack_from("<I", file.read_bytes(), at + 16)
    return patch(file, table + offset + 4, struct.pack("<I", 2))


def vdi_with_a_parent(folder: Path) -> Path:
    return patch(disk(folder, "vdi"), 440, b"\1" * 16)


def vhd_with_a_parent(folder: Path) -> Path:
    file = disk(folder, "vpc")
    return patch(file, file.stat().st_size - 512 + 60, struct.pack(">I", 4))


def huge_vdi(folder: Path) -> Path:
    return patch(disk(folder, "vdi"), 368, struct.pack("<Q", 1 << 50))


def huge_vmdk(folder: Path) -> Path:
    return patch(disk(folder, "vmdk"), 12, struct.pack("<Q", 1 << 45))


def bomb(folder: Path) -> Path:
    """A compressed disk a thousand times the size of its file."""
    return disk(folder, "vmdk", "subformat=streamOptimized", b"\x07" * (128 << 20))


def noise(folder: Path) -> Path:
    (folder / "a").write_bytes(NOISE)
    return folder / "a"


def begun_vmdk(folder: Path) -> Path:
    (folder / "a").write_bytes(b"KDMV" + bytes(40))
    return folder / "a"


@pytest.mark.parametrize(
    ("sample", "format", "words"),
    [
        (flat_vmdk, VMDK, "in other files"),
        (vmdk_of_secrets, VMDK, "in other files"),
        (vmdk_with_an_outer_descriptor, VMDK, "no data of its own"),
        (vmdk_with_a_parent, VMDK, "stands on a parent"),
        (vmdk_with_a_hidden_parent, VMDK, "names a parent"),
        (vmdk_of_two_extents, VMDK, "2 extents"),
        (huge_vmdk, VMDK, "TiB"),
        (begun_vmdk, VMDK, "not vmdk"),
        (bomb, VMDK, r"grows to more than \d\d MiB"),
        (lambda f: cut(disk(f, "vmdk")), VMDK, "points after EOF"),
        (lambda f: cut(disk(f, "vmdk", "subformat=streamOptimized")), VMDK, "points after EOF"),
        (vhdx_with_a_parent, VHDX, "stands on a parent"),
        (lambda f: cut(disk(f, "vhdx")), VHDX, "cut off|cannot be read|cannot be checked"),
        (lambda f: cut(disk(f, "vhdx"), 0.01), VHDX, "cut off"),
        (vdi_with_a_parent, VDI, "stands on a parent"),
        (huge_vdi, VDI, "1024 TiB"),
        (lambda f: cut(disk(f, "vdi")), VDI, "cut off"),
        (vhd_with_a_parent, VHD, "stands on a parent"),
        (lambda f: cut(disk(f, "vpc")), VHD, "cut off"),
        (lambda f: cut(disk(f, "vpc", "subformat=fixed")), VHD, "does not end as one"),
        (noise, VMDK, "name its true format"),
        (noise, VHDX, "name its true format"),
        (noise, VDI, "name its true format"),
        (noise, VHD, "name its true format"),
        (noise, OVA, "not a tar"),
        (lambda f: disk(f, "vmdk"), VDI, "name its true format"),
        (lambda f: disk(f, "vdi"), VMDK, "name its true format"),
    ],
)
async def test_a_bad_one_is_refused_and_nothing_is_left(pool: Path, sample: Make, format: ImageFormat, words: str) -> None:
    sample(pool / "incoming")
    with pytest.raises(BadImage, match=words):
        await images.import_image(pool, "web", "a", format)
    assert list((pool / "images").iterdir()) == []


async def test_one_disk_cannot_be_chosen_where_there_is_no_choice(pool: Path) -> None:
    disk(pool / "incoming", "vdi")
    with pytest.raises(BadImage, match="holds one only"):
        await images.import_image(pool, "web", "a", VDI, disk="vmdisk2")


async def test_what_was_converted_takes_boot_files_along(pool: Path) -> None:
    disk(pool / "incoming", "vdi")
    for name in ("vmlinux", "initrd"):
        (pool / "incoming" / name).write_bytes(name.encode())
    await images.import_image(pool, "web", "a", VDI, boot=DirectBoot(kernel="vmlinux", initrd="initrd"))
    assert (pool / "images/web/vmlinux").read_bytes() == b"vmlinux"


# --- appliances ----------------------------------------------------------------------------------------------------------

NAMESPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" '
    'xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" '
    'xmlns:vmw="http://www.vmware.com/schema/ovf"'
)
STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def item(kind: int, **more: object) -> str:
    fields = "".join(f"<rasd:{key}>{value}</rasd:{key}>" for key, value in more.items())
    return f"<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>{kind}</rasd:ResourceType>{fields}</Item>"


def described(*, files: str = "", disks: str = "", systems: int = 1, head: str = "", items: str = "") -> bytes:
    files = files or '<File ovf:id="f1" ovf:href="one.vmdk"/><File ovf:id="f2" ovf:href="two.vdi"/>'
    disks = disks or (
        f'<Disk ovf:capacity="8" ovf:diskId="vmdisk1" ovf:fileRef="f1" ovf:format="{STREAM}"/>'
        '<Disk ovf:capacity="8" ovf:diskId="vmdisk2" ovf:fileRef="f2" ovf:format="http://www.virtualbox.org/#vdi"/>'
        '<Disk ovf:capacity="8" ovf:diskId="empty"/>'
    )
    hardware = items or (
        item(3, VirtualQuantity=2) + item(4, VirtualQuantity=2, AllocationUnits="byte * 2^30")
        + item(10, Connection="VM Network") * 2
        + item(17, HostResource="ovf:/disk/vmdisk2") + item(17, HostResource="ovf:/disk/vmdisk1")
    )  # fmt: skip
    system = (
        '<VirtualSystem ovf:id="vm"><OperatingSystemSection><Description>Debian  12</Description></OperatingSystemSection>'
        f'<VirtualHardwareSection>{hardware}<vmw:Config vmw:key="firmware" vmw:value="efi"/></VirtualHardwareSection>'
        "</VirtualSystem>"
    )
    return (
        f"<?xml version='1.0'?>{head}<Envelope {NAMESPACES}><References>{files}</References>"
        f"<DiskSection>{disks}</DiskSection>{system * systems}</Envelope>"
    ).encode()


def packed(folder: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(folder / "a", "w", format=format) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # a fraction makes a header of its own in PAX
            out.addfile(info, io.BytesIO(data))
    (folder / "a").chmod(0o644)
    return folder / "a"


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "parts"
    folder.mkdir()
    one = disk(folder, "vmdk", "subformat=streamOptimized").read_bytes()
    two = disk(folder, "vdi", data=GUEST[::-1], name="b").read_bytes()
    return {"vm.ovf": described(), "one.vmdk": one, "two.vdi": two}


def manifest_of(parts: dict[str, bytes], algorithm: str = "sha256") -> dict[str, bytes]:
    lines = (f"{algorithm.upper()}({name})= {hashlib.new(algorithm, data).hexdigest()}\n" for name, data in parts.items())
    return parts | {"vm.mf": "".join(lines).encode()}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
async def test_an_appliance_gives_its_first_disk_and_says_what_it_ran_on(
    pool: Path, parts: dict[str, bytes], kind: int
) -> None:
    packed(pool / "incoming", manifest_of(parts), format=kind)
    info = await images.import_image(pool, "web", "a", OVA)
    assert (info.format, info.source, info.size_mib) == (DiskFormat.QCOW2, OVA, 8)
    assert info.suggests == Suggestion(
        vcpus=2, memory_mib=2048, nics=2, firmware=Firmware.UEFI, system="Debian 12", disks=("vmdisk2", "vmdisk1")
    )
    assert read_back(pool) == GUEST[::-1]
    assert await images.import_image(pool, "web", "a", OVA) == info


@pytest.mark.parametrize("wanted", ["vmdisk1", "one.vmdk"])
async def test_another_disk_of_an_appliance_is_taken_by_name(pool: Path, parts: dict[str, bytes], wanted: str) -> None:
    packed(pool / "incoming", manifest_of(parts, "sha1"))
    info = await images.import_image(pool, "web", "a", OVA, disk=wanted)
    assert info.suggests is not None and info.suggests.disks == ("vmdisk1", "vmdisk2")
    assert read_back(pool) == GUEST
    with pytest.raises(BadImage, match="another image"):
        await images.import_image(pool, "web", "a", OVA, disk="vmdisk2")


DISK = f'<Disk ovf:capacity="8" ovf:diskId="vmdisk1" ovf:fileRef="f1" ovf:format="{STREAM}"/>'
ENTITY = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
BAD: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "digest": (lambda p: manifest_of(p) | {"two.vdi": p["two.vdi"][:-1] + b"x"}, "is damaged"),
    "digest of the description": (lambda p: manifest_of(p) | {"vm.ovf": p["vm.ovf"] + b" "}, "is damaged"),
    "unnamed": (lambda p: p | {"vm.mf": b"SHA256(vm.ovf)= 00\n"}, "does not name 'two.vdi'"),
    "lost": (lambda p: {k: v for k, v in manifest_of(p).items() if k != "one.vmdk"}, "was not packed whole"),
    "no digest": (lambda p: p | {"vm.mf": b"MD5(vm.ovf)= 00\n"}, "no digest"),
    "above": (lambda p: p | {"../../etc/x": b"x"}, "no plain name"),
    "absolute": (lambda p: {"/vm.ovf": p["vm.ovf"]}, "no plain name"),
    "below": (lambda p: {"x/vm.ovf": p["vm.ovf"]}, "no plain name"),
    "no description": (lambda p: {"one.vmdk": p["one.vmdk"]}, "0 files that end in .ovf"),
    "two descriptions": (lambda p: p | {"other.ovf": p["vm.ovf"]}, "2 files that end in .ovf"),
    "entity": (lambda p: p | {"vm.ovf": described(head=ENTITY)}, "no plain XML"),
    "no XML": (lambda p: p | {"vm.ovf": b"<Envelope>"}, "no XML"),
    "two systems": (lambda p: p | {"vm.ovf": described(systems=2)}, "2 virtual machines"),
    "no file": (lambda p: {k: v for k, v in p.items() if k != "two.vdi"}, "not in the OVA"),
    "file of the host": (
        lambda p: p | {"vm.ovf": described(files='<File ovf:id="f1" ovf:href="/etc/passwd"/>', disks=DISK)}, "not in the OVA"
    ),
    "compressed": (
        lambda p: p | {"vm.ovf": described(files='<File ovf:id="f1" ovf:href="one.vmdk" ovf:compression="gzip"/>', disks=DISK)},
        "is compressed",
    ),
    "parent": (lambda p: p | {"vm.ovf": described(disks=DISK.replace("/>", ' ovf:parentRef="x"/>'))}, "stands on another"),
    "format": (lambda p: p | {"vm.ovf": described(disks=DISK.replace(STREAM, "urn:iso"))}, "is of the format 'urn:iso'"),
    "wrong format": (lambda p: p | {"vm.ovf": described(disks=DISK.replace(STREAM, "x#vdi"))}, "name its true format"),
    "no disk": (lambda p: p | {"vm.ovf": described(disks='<Disk ovf:diskId="d"/>')}, "names no disk"),
    "long description": (lambda p: p | {"vm.ovf": b" " * (2 << 20)}, "at most 1048576"),
    "many": (lambda p: p | {f"f{i}": b"" for i in range(80)}, "more than 64 files"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_appliance_is_refused_and_nothing_is_left(pool: Path, parts: dict[str, bytes], case: str) -> None:
    made, words = BAD[case]
    packed(pool / "incoming", made(parts))
    with pytest.raises(BadImage, match=words):
        await images.import_image(pool, "web", "a", OVA)
    assert list((pool / "images").iterdir()) == []


async def test_an_appliance_that_was_cut_off(pool: Path, parts: dict[str, bytes]) -> None:
    cut(packed(pool / "incoming", parts))
    with pytest.raises(BadImage, match="ends inside"):
        await images.import_image(pool, "web", "a", OVA)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
async def test_an_appliance_holds_no_links_or_devices(pool: Path, kind: bytes) -> None:
    with tarfile.open(pool / "incoming" / "a", "w") as out:
        info = tarfile.TarInfo("vm.ovf")
        info.type, info.linkname = kind, "/etc/passwd"
        out.addfile(info)
    with pytest.raises(BadImage, match="no plain file"):
        await images.import_image(pool, "web", "a", OVA)


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 10 << 30
    file = tmp_path / "a"
    file.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    os.truncate(file, 11 << 30)
    with file.open("rb") as opened, pytest.raises(BadImage, match="at most 65536 are read"):
        ova_tar.members(opened.fileno(), 11 << 30)
