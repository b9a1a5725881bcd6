"""A QEMU without a machine: block nodes and jobs for the disks of a VM at rest, under the VM's own user.

    async with still(host, vm, nodes, handed, inherit) as qemu:     it ends with the block, and with the agent
        await qemu.done("block-stream", "job", {...})

A shell stands between: it ends QEMU when the agent's end of its standard input is closed, by whatever. Both hold what they inherit
(the VM's lock), so that nobody starts the VM while it goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO, Any

from libs.memory.areas import STORAGE
from services.node.drivers import DriverError, Locked
from services.node.drivers.qemu.devices import Handed, Words
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.process import uid_for
from services.node.drivers.qemu.qmp import Qmp, QmpError, QmpEvent
from services.node.host import areas

GREETS_S_MAX = 20.0
QUIT_S_MAX = 10.0
"""what it has not written yet has to reach the disk"""
GUARD = 'ulimit -c 0; read -r _ || exit; "$@" </dev/null & read -r _; kill -9 $! 2>/dev/null; wait'
LOCK_WORDS = 'Failed to get "write" lock'
SAID_BYTES = 2000


class Still:
    """Made by `still`."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._qmp = Qmp(self._hear)

    async def connect(self, sock: socket.socket) -> None:
        """Raises QmpError."""
        await self._qmp.connect(sock, GREETS_S_MAX)

    async def do(self, command: str, words: dict[str, Any] | None = None) -> Any:
        """Raises DriverError."""
        try:
            return await self._qmp.execute(command, words)
        except (QmpError, OSError) as error:
            raise DriverError(f"the disks of {self._vm}, at rest: {command}: {error}") from error

    async def done(self, command: str, job: str, words: dict[str, Any], within_s: float) -> None:
        """Begins a block job of that name and waits until it has ended well. Raises DriverError."""
        end = self._ends[job] = asyncio.get_running_loop().create_future()
        closed = asyncio.ensure_future(self._qmp.closed.wait())
        try:
            await self.do(command, {"job-id": job, **words})
            await asyncio.wait({end, closed}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            said = end.result() if end.done() else "it was ended" if closed.done() else f"it took longer than {within_s:.0f} s"
            if said:
                raise DriverError(f"the disks of {self._vm}, at rest: {command}: {said}")
        finally:
            closed.cancel()
            del self._ends[job]

    async def quit(self) -> None:
        """Orderly, as far as it answers."""
        if self._qmp.ready:
            with suppress(QmpError, TimeoutError):
                await self._qmp.execute("quit")
                async with asyncio.timeout(QUIT_S_MAX):
                    await self._qmp.closed.wait()
        await self._qmp.close()

    def _hear(self, event: QmpEvent) -> None:
        end = self._ends.get(str(event.data.get("device", "")))
        if end is not None and not end.done() and event.name in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"):
            cancelled = "it was cancelled" if event.name == "BLOCK_JOB_CANCELLED" else ""
            end.set_result(cancelled or str(event.data.get("error") or ""))


@asynccontextmanager
async def still(
    host: Host, vm: str, nodes: Sequence[Words], handed: Sequence[Handed], inherit: Sequence[int]
) -> AsyncIterator[Still]:
    """nodes: in the order in which they are made; inherit: what it is to hold beside `handed`. Raises Locked, DriverError."""
    ours, its = socket.socketpair()
    with ours, tempfile.TemporaryFile() as said:
        with its:
            words = _words(host, nodes, handed, its.fileno())
            fds = (its.fileno(), *(one.fd for one in handed), *inherit)
            shell = await _spawned(words, uid_for(vm), fds, said)
        assert shell.stdin is not None
        qemu = Still(vm)
        try:
            await asyncio.to_thread(areas.join, host.groups, STORAGE, shell.pid)
            shell.stdin.write(b"\n")
            try:
                await qemu.connect(ours.dup())
            except (QmpError, OSError) as error:
                raise _refused(vm, said, error) from error
            yield qemu
            await qemu.quit()
        finally:
            shell.stdin.close()
            await qemu.quit()
            await shell.wait()


def _words(host: Host, nodes: Sequence[Words], handed: Sequence[Handed], monitor: int) -> list[str]:
    return [
        host.qemu, "-machine", "none", "-S", "-nodefaults", "-no-user-config", "-display", "none",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        *(word for one in handed for word in one.words()),
        *(word for node in nodes for word in ("-blockdev", json.dumps(node, separators=(",", ":")))),
    ]  # fmt: skip


async def _spawned(words: list[str], uid: int | None, fds: tuple[int, ...], said: IO[bytes]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", GUARD, "guard", *words,
        stdin=asyncio.subprocess.PIPE, stdout=said, stderr=said, pass_fds=fds, cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C"}, start_new_session=True, umask=0o077,
        user=uid, group=uid, extra_groups=None if uid is None else [],
    )  # fmt: skip


def _refused(vm: str, said: IO[bytes], error: Exception) -> DriverError:
    told = os.pread(said.fileno(), SAID_BYTES, 0).decode(errors="replace").strip() or str(error)
    kind = Locked if LOCK_WORDS in told else DriverError
    return kind(f"the disks of {vm} cannot be opened at rest: {told}")
