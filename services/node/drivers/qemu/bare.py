"""A QEMU without a machine (`-machine none`): block nodes and jobs, for disks whose VM is at rest and for files of backups. The
same words do there what they do in a running VM.

It ends with its agent, as a good QEMU does (SIGTERM), so no lock is held by one that nobody knows: `setpriv` asks the kernel for
that. What is to be written to a header at the end, as bitmaps are, is written then.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from services.node.drivers import DriverError
from services.node.drivers.qemu.argv import SANDBOX
from services.node.drivers.qemu.process import Process, enterable, spawn, start_ticks
from services.node.drivers.qemu.qmp import Qmp, QmpError, QmpEvent

GREET_S_MAX, QUIT_S_MAX, END_S_MAX = 20.0, 60.0, 10.0
"""to quit, it writes what its nodes have left to write"""
COMMAND_S_MAX = 60.0
TAIL_BYTES = 2000


class Wanted(msgspec.Struct, frozen=True):
    """program: which QEMU; uid: whom it is to be (None: as we are); pools: folders that it opens files in, by name; held: open
    files that it is to have as long as it lives, as the locks of the VM; stand: puts the process that waits into its group."""

    program: str
    uid: int | None
    pools: Mapping[str, Path] = {}
    held: tuple[int, ...] = ()
    stand: Callable[[int], object] = lambda pid: None


class Bare:
    """pools: by name, as it is to name them."""

    def __init__(self, process: Process, pools: dict[str, str], log: Path) -> None:
        self.pools = pools
        self.hears: list[Callable[[QmpEvent], object]] = []
        self._tells: list[Callable[[], object]] = []
        self._process = process
        self._log = log
        self.qmp = Qmp(self._hear)

    @property
    def ended(self) -> asyncio.Event:
        return self._process.ended

    def at_end(self, told: Callable[[], object]) -> None:
        """Once it has ended, however it did."""
        self._tells.append(told)

    async def until_ended(self) -> None:
        await self.ended.wait()
        for tell in self._tells:
            tell()

    async def do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Raises DriverError."""
        try:
            return await self.qmp.execute(command, arguments, timeout_s=COMMAND_S_MAX)
        except (QmpError, OSError) as error:
            raise DriverError(f"{command}: {error}") from error

    async def give(self, name: str, fd: int) -> None:
        """As Qmp.give. Raises DriverError."""
        try:
            await self.qmp.give(name, fd)
        except (QmpError, OSError) as error:
            raise DriverError(f"an open file could not be handed over: {error}") from error

    async def give_set(self, fd: int, opaque: str, into: int | None = None) -> int:
        """As Qmp.give_set. Raises DriverError."""
        try:
            return await self.qmp.give_set(fd, opaque, into)
        except (QmpError, OSError) as error:
            raise DriverError(f"an open file could not be handed over: {error}") from error

    async def quit(self) -> None:
        """Raises DriverError where it did not end well."""
        try:
            await self.qmp.execute("quit", timeout_s=QUIT_S_MAX)
            async with asyncio.timeout(QUIT_S_MAX):
                await self.ended.wait()
        except (QmpError, TimeoutError) as error:
            raise DriverError(f"the QEMU that read disks at rest did not end well: {self.said() or error}") from error

    def said(self) -> str:
        try:
            return self._log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""

    def _hear(self, event: QmpEvent) -> None:
        for hear in self.hears:
            hear(event)


@asynccontextmanager
async def bare(wanted: Wanted) -> AsyncIterator[Bare]:
    """One that answers. It is gone at the end; where it did not quit by then, by force. Raises DriverError."""
    folder = Path(tempfile.mkdtemp(prefix="asv-bare-"))
    born = asyncio.ensure_future(asyncio.to_thread(_born, wanted, folder))
    try:
        try:
            found, pools, ours = await asyncio.shield(born)
        except asyncio.CancelledError:
            process, _, ours = await born  # a thread cannot be cancelled: what it made is ended
            ours.close()
            await _end(Process(*process, born=True))
            raise
        except OSError as error:
            raise DriverError(f"a QEMU without a machine could not be started: {error}") from error
        running = Bare(Process(*found, born=True), pools, folder / "log")
        telling = asyncio.ensure_future(running.until_ended())
        try:
            await _greeted(running, ours)
            yield running
        finally:
            telling.cancel()
            await running.qmp.close()
            await _end(running._process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _greeted(running: Bare, ours: socket.socket) -> None:
    greeting = asyncio.ensure_future(running.qmp.connect(ours, GREET_S_MAX))
    ended = asyncio.ensure_future(running.ended.wait())
    try:
        await asyncio.wait({greeting, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not greeting.done():
            raise DriverError(f"a QEMU without a machine ended at once: {running.said()}")
        await greeting
    except (QmpError, OSError) as error:
        raise DriverError(f"a QEMU without a machine does not answer: {running.said() or error}") from error
    finally:
        ended.cancel()
        greeting.cancel()


def _born(wanted: Wanted, folder: Path) -> tuple[tuple[int, int], dict[str, str], socket.socket]:
    """Process id and start time; how pools are named; our end of its monitor."""
    ours, theirs = socket.socketpair()
    with ExitStack() as kept:
        kept.enter_context(theirs)
        inherit = [theirs.fileno(), *wanted.held]
        named = {name: _named(path, wanted.uid, inherit, kept) for name, path in wanted.pools.items()}
        ticks: list[int] = []

        def before(pid: int) -> None:
            wanted.stand(pid)
            ticks.append(start_ticks(pid) or 0)

        words = _words(wanted.program, theirs.fileno())
        try:
            pid = spawn(
                words, folder=folder, log=folder / "log", uid=wanted.uid, groups=(), inherit=inherit, before=before
            )
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    return (pid, ticks[0]), named, ours


def _words(program: str, monitor: int) -> Sequence[str]:
    return (
        *("setpriv", "--pdeathsig", "TERM", program, "-machine", "none", "-accel", "tcg,tb-size=1", "-nodefaults"),
        *("-no-user-config", "-display", "none", "-S", "-sandbox", SANDBOX),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
    )


def _named(path: Path, uid: int | None, inherit: list[int], kept: ExitStack) -> str:
    if enterable(path, uid):
        return str(path)
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    kept.callback(os.close, fd)
    inherit.append(fd)
    return f"/proc/self/fd/{fd}"


async def _end(process: Process) -> None:
    """By force, where it has not ended by itself."""
    process.kill()
    try:
        async with asyncio.timeout(END_S_MAX):
            await process.ended.wait()
    except TimeoutError:
        raise DriverError(f"process {process.pid} has not ended {END_S_MAX:g} s after SIGKILL") from None
