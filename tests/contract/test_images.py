"""Images against the real qemu-img: what is made, and what is refused of what comes from outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from proto.images import ImageFormat
from proto.machine import DirectBoot, DiskFormat
from services.node.drivers import BadImage, CannotStart
from services.node.drivers.qemu import images
from services.node.drivers.qemu.qemu_img import Limits, QemuImg

QCOW2, RAW = DiskFormat.QCOW2, DiskFormat.RAW
COW, FLAT = ImageFormat.QCOW2, ImageFormat.RAW
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def make(file: Path, *options: str, size: str = "8M", written: str = "1M") -> Path:
    """A qcow2 file with `written` bytes in it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(file), size], check=True)
    if written:
        subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {written}", str(file)], check=True, capture_output=True
        )
    file.chmod(0o644)
    return file


def patch(file: Path, at: int, data: bytes) -> Path:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)
    return file


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    for name in ("images", "disks", "leases", "incoming"):
        (tmp_path / name).mkdir()
    return tmp_path


def backing(folder: Path) -> Path:
    return make(folder / "a", "-u", "-b", "/etc/passwd", "-F", "raw", written="")


def data_file(folder: Path) -> Path:
    return make(folder / "a", "-o", f"data_file={folder / 'outside'}", written="")


def hidden_data_file(folder: Path) -> Path:
    """The name of a data file without the feature bit that says there is one."""
    file = data_file(folder)
    return patch(file, 72, bytes(8))


def truncated(folder: Path) -> Path:
    file = make(folder / "a")
    os.truncate(file, file.stat().st_size - (512 << 10))
    return file


def cut_in_header(folder: Path) -> Path:
    file = make(folder / "a")
    os.truncate(file, 90)
    return file


def no_tables(folder: Path) -> Path:
    file = make(folder / "a")
    os.truncate(file, 65536)
    return file


def raw_called_qcow2(folder: Path) -> Path:
    file = folder / "a"
    file.write_bytes(b"\x55" * 65536)
    return file


def empty(folder: Path) -> Path:
    file = folder / "a"
    file.touch()
    return file


def giant(folder: Path) -> Path:
    return make(folder / "a", size="1P", written="")


def lying_size(folder: Path) -> Path:
    return patch(make(folder / "a"), 24, struct.pack(">Q", 1 << 44))


def snapshots(folder: Path) -> Path:
    file = make(folder / "a")
    subprocess.run(["qemu-img", "snapshot", "-c", "s", str(file)], check=True)
    return file


def encrypted(folder: Path) -> Path:
    return patch(make(folder / "a"), 32, struct.pack(">I", 2))


def encryption_header(folder: Path) -> Path:
    """Keys without the field that says they are needed."""
    return patch(make(folder / "a"), 112, struct.pack(">IIQQII", 0x0537BE77, 16, 0, 0, 0, 0))


def unknown_feature(folder: Path) -> Path:
    return patch(make(folder / "a"), 72, struct.pack(">Q", 1 << 40))


def endless_extensions(folder: Path) -> Path:
    return patch(make(folder / "a"), 112, struct.pack(">II", 0x12345678, 0xFFFFFFF0))


def scrambled_table(folder: Path) -> Path:
    """The first table points to where the file has long ended."""
    file = make(folder / "a")
    at = struct.unpack(">Q", file.read_bytes()[40:48])[0]
    return patch(file, at, struct.pack(">Q", (1 << 63) | (1 << 40)))


def link(folder: Path) -> Path:
    (folder / "a").symlink_to("/etc/passwd")
    return folder / "a"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a")
    return folder / "a"


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (backing, "backing file"),
        (data_file, "another file"),
        (hidden_data_file, "another file"),
        (truncated, "cut off"),
        (cut_in_header, "cut off"),
        (no_tables, "cut off"),
        (raw_called_qcow2, "name its true format"),
        (empty, "no bytes"),
        (giant, "1024 TiB"),
        (lying_size, "too short"),
        (snapshots, "1 internal snapshots"),
        (encrypted, "encrypted"),
        (encryption_header, "encrypted"),
        (unknown_feature, "unknown here"),
        (endless_extensions, "no end"),
        (scrambled_table, "cut off"),
        (link, "not a link"),
        (pipe, "not a plain file"),
    ],
)
async def test_a_hostile_qcow2_is_refused_and_nothing_is_left(pool: Path, sample: object, words: str) -> None:
    sample(pool / "incoming")  # type: ignore[operator]
    with pytest.raises(BadImage, match=words):
        await images.import_image(pool, "web", "a", COW)
    assert list((pool / "images").iterdir()) == []


async def test_a_sound_qcow2_is_imported_whole_and_a_second_time_changes_nothing(pool: Path) -> None:
    file = make(pool / "incoming" / "a", size="8M")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    info = await images.import_image(pool, "web", "a", COW, digest)
    assert (info.format, info.size_mib, info.sha256) == (QCOW2, 8, digest)
    copy = pool / "images" / "web" / "disk.qcow2"
    assert copy.read_bytes() == file.read_bytes()
    before = copy.stat()
    file.unlink()
    assert await images.import_image(pool, "web", "a", COW, digest) == info
    assert copy.stat().st_ino == before.st_ino
    assert [p.name for p in (pool / "images").iterdir()] == ["web"]


async def test_another_image_under_a_taken_name_is_refused(pool: Path) -> None:
    make(pool / "incoming" / "a")
    await images.import_image(pool, "web", "a", COW)
    with pytest.raises(BadImage, match="another image"):
        await images.import_image(pool, "web", "a", FLAT)


async def test_a_digest_that_differs_is_refused(pool: Path) -> None:
    make(pool / "incoming" / "a")
    with pytest.raises(BadImage, match="damaged on its way"):
        await images.import_image(pool, "web", "a", COW, "0" * 64)
    assert list((pool / "images").iterdir()) == []


async def test_a_qcow2_called_raw_stays_raw(pool: Path) -> None:
    file = backing(pool / "incoming")
    os.truncate(file, 196 << 10)
    info = await images.import_image(pool, "web", "a", FLAT)
    assert info.size_mib == -(-file.stat().st_size >> 20)
    base, overlay, tool = pool / "images/web/disk.raw", pool / "disks/d", QemuImg()
    tool.overlay(overlay, base, RAW, QCOW2, 4)
    assert tool.info(base, RAW).backing_filename == ""
    assert tool.info(overlay, QCOW2).backing_filename == "../images/web/disk.raw"


async def test_a_raw_disk_of_broken_sectors_is_refused(pool: Path) -> None:
    (pool / "incoming" / "a").write_bytes(b"\x01" * 1000)
    with pytest.raises(BadImage, match="multiple of 512"):
        await images.import_image(pool, "web", "a", FLAT)


async def test_boot_files_are_taken_along_under_their_names(pool: Path) -> None:
    make(pool / "incoming" / "a")
    for name in ("vmlinux", "initrd"):
        (pool / "incoming" / name).write_bytes(name.encode())
    boot = DirectBoot(kernel="vmlinux", initrd="initrd", cmdline="quiet")
    await images.import_image(pool, "tiny", "a", COW, boot=boot)
    assert (pool / "images/tiny/initrd").read_bytes() == b"initrd"
    manifest = images.read_manifest(pool, "tiny")
    assert manifest is not None
    assert manifest.boot == boot


async def test_missing_boot_files_leave_nothing(pool: Path) -> None:
    make(pool / "incoming" / "a")
    with pytest.raises(BadImage, match="vmlinux is not in incoming"):
        await images.import_image(pool, "tiny", "a", COW, boot=DirectBoot(kernel="vmlinux", initrd="initrd"))
    assert list((pool / "images").iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "", ".hidden", "a/b"])
async def test_names_stay_in_their_folder(pool: Path, name: str) -> None:
    with pytest.raises(BadImage, match="no name for a file"):
        await images.import_image(pool, "web", name, COW)


async def test_removing_an_image_twice(pool: Path) -> None:
    make(pool / "incoming" / "a")
    await images.import_image(pool, "web", "a", COW)
    for _ in range(2):
        await images.remove_image(pool, "web")
        assert list((pool / "images").iterdir()) == []


async def test_disks_are_made_grown_and_never_overwritten(pool: Path) -> None:
    make(pool / "incoming" / "a", size="8M")
    await images.import_image(pool, "web", "a", COW)
    base, tool = pool / "images/web/disk.qcow2", QemuImg()
    tool.overlay(pool / "disks/o", base, QCOW2, QCOW2, 16)
    tool.overlay(pool / "disks/r", base, QCOW2, RAW, 16)
    tool.blank(pool / "disks/b", QCOW2, 32)
    tool.convert(base, QCOW2, pool / "disks/c", RAW)
    assert tool.info(pool / "disks/b", QCOW2).virtual_size == 32 << 20
    assert (pool / "disks/r").stat().st_size == 16 << 20
    assert (pool / "disks/r").read_bytes()[: 1 << 20] == b"\x07" * (1 << 20)
    assert (pool / "disks/c").stat().st_size == 8 << 20
    assert tool.info(pool / "disks/o", QCOW2).backing_filename == "../images/web/disk.qcow2"
    tool.resize(pool / "disks/b", QCOW2, 64)
    assert tool.info(pool / "disks/b", QCOW2).virtual_size == 64 << 20
    with pytest.raises(CannotStart, match="shrink"):
        tool.resize(pool / "disks/b", QCOW2, 32)
    with pytest.raises(CannotStart, match="never overwritten"):
        tool.blank(pool / "disks/b", QCOW2, 32)
    assert sorted(p.name for p in (pool / "disks").iterdir()) == ["b", "c", "o", "r"]


def test_a_tool_that_wants_too_much_is_stopped(pool: Path) -> None:
    with pytest.raises(CannotStart):
        QemuImg(limits=Limits(memory_mib=4)).blank(pool / "disks/b", QCOW2, 32)
    with pytest.raises(CannotStart, match="longer than"):
        QemuImg(limits=Limits(wall_s=0.0)).blank(pool / "disks/b", QCOW2, 32)
    assert list((pool / "disks").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_what_root_cannot_be_trusted_with_is_read_by_nobody(pool: Path) -> None:
    """A file that only root may read is not readable for the tool, which thus is not root."""
    file = make(pool / "incoming" / "a")
    file.chmod(0o600)
    with pytest.raises(BadImage, match="Permission denied"):
        QemuImg().info(file, QCOW2)
