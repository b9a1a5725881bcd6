"""A file reader: a small machine that has a backup's disks, for as long as somebody asks it (infra/guest/reader/init).

It is ended with its agent, whatever ends that; its record is nowhere, for nothing of it is worth finding again. What it writes is
in files that have no name.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from libs.memory.areas import STORAGE
from proto.backup_files import FileEntry, FileKind
from proto.machine import DiskFormat
from services.node.drivers import DriverError
from services.node.drivers.backup_files import NotRead, What
from services.node.drivers.file_names import BadPath, apart
from services.node.drivers.qemu import keyring
from services.node.drivers.qemu.backups import reader_argv, reader_words
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.backups.opened import OpenDisk, keys, open_chains
from services.node.drivers.qemu.backups.reader_argv import Given, Handles
from services.node.drivers.qemu.backups.reader_talk import Broken, Stream, Talk
from services.node.drivers.qemu.backups.reader_words import Part
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.process import Process, spawn, start_ticks, uid_for
from services.node.drivers.qemu.qemu_img import QemuImg
from services.node.host import areas

KERNEL, INITRD = "vmlinux", "reader.initrd"
FOLDER = "reading"
"""in the node's state"""
READY_S_MAX = 120.0
"""a boot takes 2 s where instructions are emulated, and many times that on a busy host"""
END_S_MAX = 10.0
LIST_BYTES_MAX = 8 << 20
PARTS_BYTES_MAX = 64 << 10
TAIL_BYTES = 1000


class Born(msgspec.Struct, frozen=True):
    pid: int
    ticks: int
    control: socket.socket
    data: socket.socket
    disks: dict[str, str]
    """by serial number, the name of the disk"""


class Reader:
    """As BackupFiles."""

    def __init__(self, born: Born, process: Process, folder: Path) -> None:
        self._process, self._folder = process, folder
        self._talk = Talk(Stream(born.control), Stream(born.data))
        self._disks = born.disks
        self._parts: tuple[Part, ...] = ()
        self._asking = asyncio.Lock()
        self._broken = False

    @property
    def is_of_use(self) -> bool:
        return not self._broken and not self._process.ended.is_set()

    async def ready(self) -> None:
        """Raises DriverError."""
        try:
            await self._talk.ready(READY_S_MAX)
            self._parts = reader_words.parts(await self._talk.small("parts", "-", PARTS_BYTES_MAX), self._disks)
        except TimeoutError:
            raise DriverError(f"the file reader was not there within {READY_S_MAX:g} s") from None
        except Broken as error:
            raise DriverError(f"{error} {self._said()}".strip()) from error

    async def list(self, path: str) -> tuple[FileEntry, ...]:
        part, names = self._meant(path)
        if part is None:
            return tuple(_plain(one) for one in self._parts)
        return reader_words.entries(await self._small("ls", reader_words.path_words(part.block, names)))

    async def what(self, path: str) -> What:
        part, names = self._meant(path)
        if part is None:
            raise NotRead("name a disk, as /DISK or /DISK:PARTITION (asvctl backup files ls)")
        return reader_words.what(await self._small("kind", reader_words.path_words(part.block, names)))

    async def content(self, path: str, what: What) -> AsyncGenerator[bytes]:
        part, names = self._meant(path)
        assert part is not None, "what() comes first"
        verb, left = ("cat", what.bytes) if what.kind is FileKind.FILE else ("tar", -1)
        async with self._asking:
            whole = False
            try:
                async for chunk in self._talk.ask(verb, reader_words.path_words(part.block, names)):
                    left -= len(chunk)
                    if what.kind is FileKind.FILE and left < 0:
                        raise Broken("the file is longer than was said: the file system may be damaged")
                    yield chunk
                whole = True
            except NotRead:
                whole = True
                raise
            finally:
                self._broken |= not whole
        if what.kind is FileKind.FILE and left:
            raise NotRead(f"the file ended {left} bytes before its end: the file system may be damaged")

    async def close(self) -> None:
        self._broken = True
        self._talk.close()
        self._process.kill()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(END_S_MAX):
                    await self._process.ended.wait()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _meant(self, path: str) -> tuple[Part | None, tuple[bytes, ...]]:
        """Raises NotRead."""
        try:
            at, names = apart(path)
        except BadPath as bad:
            raise NotRead(str(bad)) from bad
        if not at:
            return None, names
        part = next((one for one in self._parts if one.name == at), None)
        if part is None:
            has = ", ".join(f"/{one.name}" for one in self._parts)
            raise NotRead(f"the backup has no {at!r}; it has {has}")
        return part, names

    async def _small(self, verb: str, words: str) -> bytes:
        async with self._asking:
            whole = False
            try:
                found = await self._talk.small(verb, words, LIST_BYTES_MAX)
                whole = True
            except NotRead:
                whole = True
                raise
            finally:
                self._broken |= not whole
            return found

    def _said(self) -> str:
        with suppress(OSError):
            return (self._folder / "log").read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        return ""


def _plain(part: Part) -> FileEntry:
    return FileEntry(name=part.name, kind=part.kind, bytes=part.bytes, type=part.type, label=part.label)


def sweep(state: Path) -> None:
    """What an agent left that was killed: its readers ended with it."""
    shutil.rmtree(state / FOLDER, ignore_errors=True)


async def open_reader(host: Host, tool: QemuImg, shelf: Shelf, backup: str) -> Reader:
    """One that answers. Raises DriverError; then nothing is left."""
    appliance = host.appliance
    if appliance is None or not all((appliance / name).is_file() for name in (KERNEL, INITRD)):
        said = f"{host.node} has no file reader ({KERNEL} and {INITRD} in the folder of ASV_APPLIANCE)"
        raise DriverError(f"{said}: files of backups cannot be read there")
    top = host.state / FOLDER
    await asyncio.to_thread(top.mkdir, mode=0o700, exist_ok=True)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="r-", dir=top))
    bearing = asyncio.ensure_future(asyncio.to_thread(_born, host, tool, appliance, shelf, backup, folder))
    try:
        born = await asyncio.shield(bearing)
    except asyncio.CancelledError:
        with suppress(DriverError, OSError):
            await Reader(found := await bearing, Process(found.pid, found.ticks, born=True), folder).close()
        raise
    except (DriverError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise error if isinstance(error, DriverError) else DriverError(f"the file reader could not be started: {error}") from error
    reader = Reader(born, Process(born.pid, born.ticks, born=True), folder)
    try:
        await reader.ready()
    except BaseException:
        await reader.close()
        raise
    return reader


def _born(host: Host, tool: QemuImg, appliance: Path, shelf: Shelf, backup: str, folder: Path) -> Born:
    """Raises DriverError, OSError."""
    with ExitStack() as open_files, ExitStack() as ours:
        disks = open_chains(shelf, backup, open_files)
        if len(disks) > reader_argv.DISKS_MAX:
            raise DriverError(f"the backup {backup} has {len(disks)} disks; files are read of at most {reader_argv.DISKS_MAX}")
        boot = [os.open(appliance / name, os.O_RDONLY | os.O_CLOEXEC) for name in (KERNEL, INITRD)]
        for fd in boot:
            open_files.callback(os.close, fd)
        pairs = [socket.socketpair() for _ in range(2)]
        for mine, theirs in pairs:
            ours.callback(mine.close)
            open_files.callback(theirs.close)
        known = keyring.handed(host.ring, keys(disks), open_files)
        given = [Given(_scratch(tool, folder, disk, open_files), disk.files) for disk in disks]
        handles = Handles(boot[0], boot[1], pairs[0][1].fileno(), pairs[1][1].fileno(), given, known)
        ticks: list[int] = []

        def before(pid: int) -> None:
            areas.join(host.groups, STORAGE, pid)
            ticks.append(start_ticks(pid) or 0)

        kvm = Path("/dev/kvm")
        groups = [kvm.stat().st_gid] if host.accelerator == "kvm" and kvm.exists() else []
        words = reader_argv.build(host.qemu, host.accelerator, handles)
        uid = uid_for(f"reader/{shelf.vm}/{backup}")
        pid = spawn(words, folder=folder, log=folder / "log", uid=uid, groups=groups, inherit=handles.fds(), before=before)
        ours.pop_all()
    names = {reader_argv.SERIAL.format(index): disk.name for index, disk in enumerate(disks)}
    return Born(pid, ticks[0], pairs[0][0], pairs[1][0], names)


def _scratch(tool: QemuImg, folder: Path, disk: OpenDisk, open_files: ExitStack) -> int:
    """What is written of the disk, journals above all; it has no name any more."""
    path = folder / f"{disk.name}.qcow2"
    tool.blank(path, DiskFormat.QCOW2, disk.size_mib)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    open_files.callback(os.close, fd)
    path.unlink()
    return fd
