"""Files out of backups, by the real reader: what is in them, what is hostile in them, and what may befall whoever reads."""

from __future__ import annotations

import io
import lzma
import os
import select
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from proto.backup_files import FileKind
from proto.machine import Freeze
from services.node.drivers import DriverError
from services.node.drivers.backup_files import BackupFiles, NotRead
from services.node.drivers.qemu.backups.reader import Reader
from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.process import start_ticks
from tests.contract.backup_rig import Saved
from tests.contract.driver_rigs import QemuRig, rig_of
from tests.contract.saved_files import FIRST, FS_MIB, MIB, Node, a_disk, content, ext4, names, opened, parted
from tests.contract.test_driver_snapshots import mounted
from tests.guests import tiny_image

DATA, ROOT, JUNK, TORN = a_disk("data", FS_MIB, 1), a_disk("root", FS_MIB + 2, 2), a_disk("junk", 4, 3), a_disk("torn", FS_MIB, 4)
KINDS = {"btrfs": 256, "lvm": 64, "ntfs": 64, "xfs": 512}
"""MiB; as file_systems/README.md has it"""
BIG = bytes(range(256)) * 4 * 4096
HOSTILE = (b"a\nb\\c", b"\xff\xfe\x81\x1b[1m", b"-n", b"end\n", b"x\n81a4 5 0 0 0 y", b"*", b"'$(reboot)'")


def tree(top: Path) -> Path:
    (top / "etc" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "etc" / "word").write_bytes(b"first" * 1000)
    (top / "etc" / "deep" / "big").write_bytes(BIG)
    (top / "out").symlink_to("/dev")
    (top / "etc" / "up").symlink_to("../../../proc/version")
    os.mkfifo(top / "pipe")
    (top / "odd").mkdir()
    for name in HOSTILE:
        Path(os.fsdecode(os.fsencode(top / "odd") + b"/" + name)).write_bytes(name)
    return top


def torn(file: Path) -> Path:
    """Its superblock says that it is one; nothing behind is what it should be."""
    with ext4(file).open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xa5" * (2 * MIB))
    return file


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """With b1-1 of four disks, and b1-2 on it, in which a file is another."""
    top = tmp_path_factory.mktemp("files")
    made = Node(top)
    await made.driver.open()
    fs = ext4(top / "fs", tree(top / "tree"))
    made.put(DATA, fs)
    made.put(ROOT, parted(top / "disk", fs))
    (top / "junk").write_bytes(os.urandom(4 * MIB))
    made.put(JUNK, top / "junk")
    made.put(TORN, torn(top / "torn"))
    disks = (DATA, ROOT, JUNK, TORN)
    await made.back_up(*disks)
    made.write(DATA, fs.read_bytes().index(b"first" * 800), ord("B"), 4096)
    await made.back_up(*disks, parent="b1-1")
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def files(node: Node) -> AsyncIterator[BackupFiles]:
    reader = await opened(node.driver, "b1-2")
    yield reader
    await reader.close()
    assert not reader.is_of_use


@pytest.mark.asyncio(loop_scope="module")
class TestOneBackup:
    async def test_its_disks_and_partitions_are_listed_with_what_is_on_them(self, files: BackupFiles) -> None:
        parts = [(one.name, one.kind, one.bytes, one.type, one.label) for one in await files.list("/")]
        assert parts == [
            ("data", FileKind.PART, FS_MIB * MIB, "ext4", "the-label"),
            ("junk", FileKind.PART, 4 * MIB, "", ""),
            ("root", FileKind.PART, (FS_MIB + 2) * MIB, "", ""),
            ("root:1", FileKind.PART, FS_MIB * MIB, "ext4", "the-label"),
            ("torn", FileKind.PART, FS_MIB * MIB, "ext4", "the-label"),
        ]
        assert FIRST == MIB

    async def test_a_folder_is_listed_and_a_file_is_what_it_was(self, files: BackupFiles) -> None:
        assert await names(files, "/root:1") == ["empty", "etc", "lost+found", "odd", "out", "pipe"]
        found = {one.name: one for one in await files.list("/root:1/etc")}
        assert {name: one.kind for name, one in found.items()} == {
            "deep": FileKind.FOLDER, "up": FileKind.LINK, "word": FileKind.FILE,
        }  # fmt: skip
        assert (found["word"].bytes, found["word"].mode & 0o400, found["deep"].bytes) == (5000, 0o400, 0)
        assert await files.list("/root:1/empty") == ()
        assert await content(files, "/root:1/etc/deep/big") == BIG
        assert await content(files, "/root:1/etc/word") == b"first" * 1000

    async def test_it_is_the_backup_that_was_named_with_all_that_it_stands_on(self, files: BackupFiles) -> None:
        assert await content(files, "/data/etc/word") == b"B" * 4096 + (b"first" * 1000)[4096:]

    async def test_a_folder_comes_as_a_tar_in_which_links_are_links(self, files: BackupFiles) -> None:
        with tarfile.open(fileobj=io.BytesIO(await content(files, "/data/etc"))) as tar:
            assert sorted(tar.getnames()) == ["./etc", "./etc/deep", "./etc/deep/big", "./etc/up", "./etc/word"]
            assert tar.getmember("./etc/up").linkname == "../../../proc/version"
            big = tar.extractfile("./etc/deep/big")
            assert big is not None and big.read() == BIG
        with tarfile.open(fileobj=io.BytesIO(await content(files, "/data"))) as tar:
            assert {"./out", "./pipe", "./etc/word"} < set(tar.getnames())

    async def test_a_name_may_be_any_bytes(self, files: BackupFiles) -> None:
        found = await files.list("/data/odd")
        assert [one.kind for one in found] == [FileKind.FILE] * len(HOSTILE), "none is taken for another's line"
        assert {await content(files, f"/data/odd/{one.name}") for one in found} == set(HOSTILE)
        assert all(one.name.isprintable() for one in found)

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            *[(path, "a link") for path in ("/data/out", "/data/out/vda", "/data/etc/up")],
            *[(path, "names no file") for path in ("/data/etc/../etc/word", "/data/./etc", "/data/\\x00", "/data/\\x2f")],
            *[("/data/none", "no such file"), ("/data/etc/word/x", "not in a folder"), ("/", "name a disk")],
            *[("/data/pipe", "neither a file nor a folder"), ("/vda", "has no"), ("/data:1", "has no")],
            *[(path, "no file system that is known") for path in ("/junk", "/root")],
        ],
    )
    async def test_what_leads_out_or_nowhere_is_refused_in_a_sentence(self, files: BackupFiles, path: str, why: str) -> None:
        with pytest.raises(NotRead, match=why):
            await content(files, path)
        assert files.is_of_use

    async def test_a_file_system_that_is_damaged_is_said_to_be(self, files: BackupFiles) -> None:
        with pytest.raises(NotRead, match="cannot be mounted, it may be damaged"):
            await files.list("/torn")
        assert await content(files, "/root:1/etc/word") == b"first" * 1000, "the others are read on"


@pytest.mark.asyncio(loop_scope="module")
class TestWhatMayBefallIt:
    async def test_whoever_does_not_read_to_the_end_leaves_nothing(self, node: Node) -> None:
        reader = await opened(node.driver, "b1-1")
        taking = reader.content("/data/etc/deep/big", await reader.what("/data/etc/deep/big"))
        assert await anext(taking)
        await taking.aclose()
        assert not reader.is_of_use, "what is still to come would be taken for the next answer"
        with pytest.raises(DriverError):
            await reader.list("/data")
        await reader.close()
        await reader.close()

    async def test_a_reader_that_dies_says_so(self, node: Node) -> None:
        reader = await opened(node.driver, "b1-1")
        assert isinstance(reader, Reader)
        taking = reader.content("/data", await reader.what("/data"))
        assert await anext(taking)
        os.kill(reader._process.pid, signal.SIGKILL)
        with pytest.raises(DriverError, match="file reader ended"):
            async for _ in taking:
                pass
        assert not reader.is_of_use
        await reader.close()

    async def test_a_backup_that_is_not_whole_is_not_opened(self, node: Node) -> None:
        file = node.pool / "backups" / "web-1" / "b1-1" / "web-1-data.b1-1.qcow2"
        whole = file.read_bytes()
        try:
            file.chmod(0o600)
            for said, bytes in (("were written", whole[:-512]), ("damaged", b"\0" * 512 + whole[512:])):
                file.write_bytes(bytes)
                with pytest.raises(DriverError, match=said):
                    await opened(node.driver, "b1-2")
            file.unlink()
            with pytest.raises(DriverError, match="cannot be opened"):
                await opened(node.driver, "b1-2")
        finally:
            file.write_bytes(whole)
        with pytest.raises(DriverError, match="is not there"):
            await opened(node.driver, "b1-9")

    async def test_a_reader_ends_with_its_agent_whatever_ends_that(self, node: Node) -> None:
        code = (
            "import asyncio, sys\nfrom pathlib import Path\nfrom tests.contract.saved_files import Node, opened\n"
            "async def main():\n  node = Node(Path(sys.argv[1]), Path(sys.argv[2]), 'n2')\n  await node.driver.open()\n"
            "  reader = await opened(node.driver, 'b1-1')\n  print(reader._process.pid, flush=True)\n  await asyncio.sleep(600)\n"
            "asyncio.run(main())\n"
        )
        with subprocess.Popen([sys.executable, "-c", code, str(node.top), str(tiny_image())], stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            pid = int(agent.stdout.readline())
            handle = os.pidfd_open(pid)
            agent.kill()
        assert select.select([handle], [], [], 20)[0], "it outlived its agent"
        os.close(handle)
        again = Node(node.top, name="n2")
        assert start_ticks(pid) is None and len(again.left()) == 1, "its log is there still"
        await again.driver.open()
        assert not (node.top / "n2" / "reading").exists()
        await again.close()

    async def test_a_node_without_a_reader_says_so(self, node: Node) -> None:
        bare = QemuDriver("n1", node.top / "n1", {"default": node.pool}, share=2, cache=node.top / "probes")
        await bare.open()
        with pytest.raises(DriverError, match="ASV_APPLIANCE"):
            await opened(bare, "b1-1")
        await bare.close()


async def test_each_file_system_that_is_promised_is_read(tmp_path: Path) -> None:
    made = Node(tmp_path)
    await made.driver.open()
    disks = tuple(a_disk(name, size, slot) for slot, (name, size) in enumerate(KINDS.items(), 1))
    for disk in disks:
        made.put(disk, unpacked(tmp_path, disk.name, disk.size_mib))
    files = await opened(made.driver, await made.back_up(*disks))
    assert [(one.name, one.type) for one in await files.list("/")] == [
        ("btrfs", "btrfs"), ("lvm", "LVM2_member"), ("lvm:vg--0-root.lv", "ext4"), ("ntfs", "ntfs"), ("xfs", "xfs"),
    ]  # fmt: skip
    for path in ("btrfs/etc/fstab", "lvm:vg--0-root.lv/etc/fstab", "ntfs/fstab", "xfs/etc/fstab"):
        assert await content(files, f"/{path}") == b"hello\n", path
    with pytest.raises(NotRead, match="holds LVM2_member, which is not read here"):
        await files.list("/lvm")
    await files.close()
    await made.close()


def unpacked(top: Path, name: str, size_mib: int) -> Path:
    raw = top / name
    raw.write_bytes(lzma.decompress((Path(__file__).parent / "file_systems" / f"{name}.xz").read_bytes()))
    if name == "lvm":
        (top / "tree" / "etc").mkdir(parents=True)
        (top / "tree" / "etc" / "fstab").write_text("hello\n")
        with raw.open("ab") as stream:
            stream.write(ext4(top / "inside", top / "tree").read_bytes())
    os.truncate(raw, size_mib * MIB)
    return raw


async def test_what_a_running_guest_wrote_is_read_though_its_file_system_was_not_at_rest(tmp_path: Path) -> None:
    for rig in rig_of("qemu", tmp_path):
        assert isinstance(rig, QemuRig)
        async with mounted(rig) as vm:
            await vm.sh("echo so-it-was | dd of=/data/new conv=fsync 2>/dev/null")  # so far its name is in the journal alone
            await Saved(vm).take(freeze=Freeze.NO)
            driver = QemuDriver("n9", tmp_path / "n9", {"default": rig.pool}, share=2, cache=tmp_path, appliance=tiny_image())
            await driver.open()
            files = await opened(driver, "b1-1")
            assert await content(files, "/".join(("", "root", "new"))) == b"so-it-was\n"
            await files.close()
            await driver.close()
