"""One running VM: its monitor, its guest agent, its console, and what they say about it.

    (prelaunch) --cont--> running <--stop/cont--> paused
                             |--GUEST_PANICKED--> panicked
                             |--SHUTDOWN(guest)-> shutdown     (the process waits to be reaped)
    any --process ends--> gone

Events that a verb of ours caused change the status in silence; all others are told. One reset makes two or three RESET
events (the firmware resets once more): those within RESET_QUIET_S of the first belong to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from proto.compute import GoneCause
from services.node.drivers import SCREENSHOT_BYTES_MAX, DriverError, Machine, MachineChanged
from services.node.drivers.qemu.console import SerialHub
from services.node.drivers.qemu.folder import Folder, Record
from services.node.drivers.qemu.guest import GuestAgent
from services.node.drivers.qemu.process import Process
from services.node.drivers.qemu.qmp import Qmp, QmpError, QmpEvent
from services.node.host.threads import threads_of

RESET_QUIET_S = 1.0
HANDSHAKE_S_MAX = 30.0
RECONNECT_S_MAX = 5.0
QUIT_S_MAX = 2.0
END_S_MAX = 10.0
SCREEN = "screen.png"
STATUS = {
    "running": "running",
    "paused": "paused",
    "io-error": "paused",
    "guest-panicked": "panicked",
    "shutdown": "shutdown",
}
"""QEMU's run states as the agent's; any other of a VM that has run means it is stopped for a while: `paused`"""


class RunningVm:
    def __init__(
        self, folder: Folder, record: Record, process: Process, tell: Callable[[MachineChanged], None]
    ) -> None:
        self.record = record
        self.folder = folder
        self.process = process
        self.status = "prelaunch"
        self.agent = GuestAgent(lambda: folder.dial("agent"))
        self.console = SerialHub()
        self._qmp = Qmp(self._hear)
        self._tell = tell
        self._verbs = 0
        self._why = ""
        self._killed = False
        self._reset_at = -RESET_QUIET_S
        self._threads: tuple[int, ...] = ()
        self._tasks: tuple[int, ...] = ()

    def machine(self) -> Machine:
        return Machine(self.record.vm, self.record.generation, self.process.pid, self.status, self.record.resets)

    async def connect(self, timeout_s: float = HANDSHAKE_S_MAX) -> None:
        """Handshake and the true status. Raises QmpError, OSError; ends early when the process does."""
        await self._qmp.close()
        self._qmp = Qmp(self._hear)
        greeting = asyncio.ensure_future(self._qmp.connect(self.folder.dial("monitor"), timeout_s))
        ended = asyncio.ensure_future(self.process.ended.wait())
        try:
            await asyncio.wait({greeting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not greeting.done():
                raise ChildProcessError("QEMU ended")
            await greeting
        finally:
            ended.cancel()
            greeting.cancel()
        status = str((await self._qmp.execute("query-status", timeout_s=timeout_s))["status"])
        self.status = status if status == "prelaunch" else STATUS.get(status, "paused")
        await self.console.connect(lambda: self.folder.dial("serial"))

    async def revive(self, timeout_s: float) -> None:
        """Ask a monitor again that was lost or never answered; what it says is told where it is new."""
        if self._qmp.ready or self.process.ended.is_set():
            return
        before = self.status
        try:
            await self.connect(timeout_s)
        except (QmpError, OSError):
            return  # still mute: at the next sweep
        if self.status != before:
            self._become(self.status, GoneCause.GUEST if self.status == "shutdown" else GoneCause.UNKNOWN)

    async def run(self) -> None:
        """The first instruction. Raises QmpError."""
        name = await self._qmp.execute("query-name")
        if name.get("name") != self.record.vm:
            raise DriverError(f"the monitor is that of {name.get('name')!r}, not of {self.record.vm}")
        with self._by_verb():
            await self._qmp.execute("cont")
            self.status = "running"

    async def pause(self) -> None:
        if self.status == "running":
            with self._by_verb():
                await self._do("stop")
                self.status = "paused"

    async def resume(self) -> None:
        """Raises DriverError for a guest that panicked or powered off: only a reset brings it back."""
        if self.status != "running":
            with self._by_verb():
                await self._do("cont")
                self.status = "running"

    async def reset(self) -> None:
        with self._by_verb():
            self._reset_at = asyncio.get_running_loop().time()
            await self._do("system_reset")
            if self.status != "paused":
                await self._do("cont")
                self.status = "running"
            self._reset_at = asyncio.get_running_loop().time()
            self.record = msgspec.structs.replace(self.record, resets=self.record.resets + 1)
            await asyncio.to_thread(self.folder.save, self.record)

    async def shutdown(self) -> None:
        """The guest agent is asked, else the power button is pressed. A stopped guest hears neither: it is resumed first."""
        if self.status == "shutdown":
            return
        if self.status == "paused":
            await self.resume()
        if not await self.agent.shutdown():
            await self._do("system_powerdown")

    async def kill(self) -> None:
        """Power off: by word, then by signal. Raises DriverError when the process does not end."""
        self._killed = True
        try:
            if self._qmp.ready and not self.process.ended.is_set():
                await self._qmp.execute("quit", timeout_s=QUIT_S_MAX)
                async with asyncio.timeout(QUIT_S_MAX):
                    await self.process.ended.wait()
        except (QmpError, TimeoutError):
            pass  # then by signal
        self.process.kill()
        try:
            async with asyncio.timeout(END_S_MAX):
                await self.process.ended.wait()
        except TimeoutError:
            pid = self.process.pid
            raise DriverError(f"process {pid} of {self.record.vm} has not ended {END_S_MAX} s after SIGKILL") from None

    async def threads(self) -> tuple[int, ...]:
        """The thread of each vCPU."""
        found = await self._do("query-cpus-fast")
        ids = sorted((int(cpu["cpu-index"]), int(cpu["thread-id"])) for cpu in found)
        self._threads = tuple(thread for _, thread in ids)
        self._tasks = threads_of(self.process.pid)
        return self._threads

    async def known_threads(self) -> tuple[int, ...]:
        """As `threads`, and QEMU is asked only when its process has other threads than the last time."""
        same = self._threads and threads_of(self.process.pid) == self._tasks
        return self._threads if same else await self.threads()

    async def screenshot(self) -> bytes:
        """The screen as PNG; QEMU writes it into its own folder, since 7.1. Raises DriverError."""
        await self._do("screendump", {"filename": SCREEN, "format": "png"})
        try:
            return await asyncio.to_thread(self.folder.take_own, SCREEN, SCREENSHOT_BYTES_MAX)
        except OSError as error:
            raise DriverError(f"{self.record.vm}: the screenshot cannot be read: {error.strerror or error}") from error

    async def close(self) -> None:
        """Let go of all connections; the process is not touched."""
        await self._qmp.close()
        await self.console.close()
        self.agent.close()

    def gone(self) -> MachineChanged:
        """How it ended, to be said once the process has."""
        vm, generation, code = self.record.vm, self.record.generation, self.process.code
        if self.status == "shutdown":
            return MachineChanged(vm, generation, "gone", GoneCause.GUEST)
        if self._killed:
            return MachineChanged(vm, generation, "gone", GoneCause.ORDERED)
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with code {code}"
        sentence = f"QEMU ended{how}: {self.folder.tail() or 'it said nothing'}"
        return MachineChanged(vm, generation, "gone", GoneCause.CRASHED, sentence)

    @property
    def heard(self) -> bool:
        """Its monitor is connected: a question will not wait for it to come back."""
        return self._qmp.ready

    async def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A question to the monitor that changes nothing here. Raises DriverError."""
        return await self._do(command, arguments)

    async def _do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        try:
            if not self._qmp.ready:
                await self.connect(RECONNECT_S_MAX)
            return await self._qmp.execute(command, arguments)
        except (QmpError, OSError) as error:
            raise DriverError(f"{self.record.vm}: {command}: {error}") from error

    @contextmanager
    def _by_verb(self) -> Iterator[None]:
        self._verbs += 1
        try:
            yield
        finally:
            self._verbs -= 1

    def _hear(self, event: QmpEvent) -> None:
        match event.name:
            case "SHUTDOWN" if event.data.get("guest"):
                self._become("shutdown", GoneCause.GUEST)
            case "STOP" if self.status == "running":
                self._become("paused")
            case "RESUME" if self.status != "running":
                self._become("running")
            case "GUEST_PANICKED":
                self._become("panicked")
            case "WATCHDOG":
                self._why = "the watchdog ran out; "
            case "BLOCK_IO_ERROR":
                self._why = f"disk {event.data.get('node-name')}: {str(event.data.get('reason'))[:200]}; "
            case "RESET":
                self._hear_reset(str(event.data.get("reason")))

    def _hear_reset(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._reset_at >= RESET_QUIET_S:
            self._why += f"the guest was reset ({reason})"
            self._become(self.status)
        self._reset_at = now

    def _become(self, status: str, cause: GoneCause = GoneCause.UNKNOWN) -> None:
        self.status, why, self._why = status, self._why, ""
        if self._verbs == 0:
            self._tell(MachineChanged(self.record.vm, self.record.generation, status, cause, why))
