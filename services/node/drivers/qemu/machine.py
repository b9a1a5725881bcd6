"""One running VM: its monitor, its guest agent, its console, and what they say about it.

    (prelaunch) --cont--> running <--stop/cont--> paused
                             |--GUEST_PANICKED--> panicked
                             |--ENOSPC----------> no-space    (cont makes the write again: full.py)
                             |--SHUTDOWN(guest)-> shutdown     (the process waits to be reaped)
    (incoming) --activate--> paused        running, paused --sent whole--> sent        (mover.py)
    any --process ends--> gone

Events that a verb of ours caused change the status in silence; all others, and a stop for want of room, are told. One reset makes
two or three RESET events (the firmware resets once more): those within RESET_QUIET_S of the first belong to it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from proto.compute import GoneCause
from services.node.drivers import (
    FRAME_BYTES_MAX,
    NO_SPACE,
    SCREENSHOT_BYTES_MAX,
    CannotMove,
    DriverError,
    Machine,
    MachineChanged,
)
from services.node.drivers.qemu import fit_emulated, panics
from services.node.drivers.qemu.announce import announce
from services.node.drivers.qemu.backups.jobs import Jobs
from services.node.drivers.qemu.console import SerialHub
from services.node.drivers.qemu.fitting import Fitting
from services.node.drivers.qemu.folder import Folder, Record
from services.node.drivers.qemu.freezer import Freezer
from services.node.drivers.qemu.full import Full
from services.node.drivers.qemu.guest import GuestAgent
from services.node.drivers.qemu.homing import Homing
from services.node.drivers.qemu.merges import Merges
from services.node.drivers.qemu.mover import Mover
from services.node.drivers.qemu.process import Process
from services.node.drivers.qemu.pulse import Pulse
from services.node.drivers.qemu.qmp import Qmp, QmpError, QmpEvent
from services.node.host.threads import threads_of

RESET_QUIET_S = 1.0
HANDSHAKE_S_MAX = 30.0
RECONNECT_S_MAX = 5.0
QUIT_S_MAX = 2.0
END_S_MAX = 10.0
DIAL_S = 0.02
SCREEN = "screen.png"
STATUS = {
    "running": "running",
    "paused": "paused",
    "io-error": NO_SPACE,
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
        self.mover = Mover(self)
        self.fitting = Fitting(self)
        self.full = Full()
        self.merges = Merges(self)
        self.homing = Homing(self)
        self.backups = Jobs()
        self.pulse = Pulse()
        self.freezer = Freezer(self)
        self.qmp = Qmp(self._hear)
        self.tell = tell
        self.grouping = asyncio.Lock()
        """held while its control group, or a limit of that, is changed"""
        self.still = False
        """its guest stands still for a moment, of which nobody is told"""
        self._saving = asyncio.Lock()
        self._verbs = 0
        self._why = ""
        self._killed = False
        self._reset_at = -RESET_QUIET_S
        self._threads: tuple[int, ...] = ()
        self._tasks: tuple[int, ...] = ()

    def machine(self) -> Machine:
        record = self.record
        return Machine(
            record.vm,
            record.generation,
            self.process.pid,
            self.status,
            record.resets,
            record.incoming if self.status == "incoming" else "",
            self.mover.sending,
            full=self._full(),
        )

    def _full(self) -> tuple[int, ...]:
        return tuple(sorted(self.full.slots)) if self.status == NO_SPACE else ()

    async def connect(self, timeout_s: float = HANDSHAKE_S_MAX) -> None:
        """Handshake and the true status. Raises QmpError, OSError; ends early when the process does."""
        await self.qmp.close()
        self.qmp = Qmp(self._hear)
        greeting = asyncio.ensure_future(self.qmp.connect(await self._dialled("monitor", timeout_s), timeout_s))
        ended = asyncio.ensure_future(self.process.ended.wait())
        try:
            await asyncio.wait({greeting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not greeting.done():
                raise ChildProcessError("QEMU ended")
            await greeting
        finally:
            ended.cancel()
            greeting.cancel()
        status = str((await self.qmp.execute("query-status", timeout_s=timeout_s))["status"])
        self.status = status if status == "prelaunch" else self.word(status)
        if self.status == NO_SPACE:
            await self.full.adopt(self)
        await self.mover.adopt()
        await self.merges.adopt()
        await self.backups.adopt(self.qmp.execute)
        await fit_emulated.over(self)
        await self.console.connect(lambda: self.folder.dial("serial"))

    async def _dialled(self, name: str, timeout_s: float) -> socket.socket:
        """Connections that were given up while the process stood still are in the way until it has taken them. Raises OSError."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                return self.folder.dial(name)
            except BlockingIOError:
                if time.monotonic() > end or self.process.ended.is_set():
                    raise
            await asyncio.sleep(DIAL_S)  # the kernel does not tell when there is room

    async def revive(self, timeout_s: float) -> None:
        """Ask a monitor again that was lost or never answered; what it says is told where it is new."""
        if self.qmp.ready or self.process.ended.is_set():
            return
        before, sending = self.status, self.mover.sending
        try:
            await self.connect(timeout_s)
        except (QmpError, OSError):
            return  # still mute: at the next sweep
        if self.status == before and sending == self.mover.sending:
            return
        if change := self.mover.revived(sending):
            self.tell(change)
        else:
            self.become(self.status, GoneCause.GUEST if self.status == "shutdown" else GoneCause.UNKNOWN)

    def word(self, status: str) -> str:
        """QEMU's run state as the agent's."""
        return self.mover.status(status) or STATUS.get(status, "paused")

    async def check_name(self) -> None:
        """Raises QmpError, DriverError."""
        name = await self.qmp.execute("query-name")
        if name.get("name") != self.record.vm:
            raise DriverError(f"the monitor is that of {name.get('name')!r}, not of {self.record.vm}")

    async def run(self) -> None:
        """The first instruction. Raises QmpError."""
        await self.check_name()
        with self.by_verb():
            await self.qmp.execute("cont")
            self.status = "running"
        await announce(self)

    async def pause(self) -> None:
        if self.status == "running":
            with self.by_verb():
                await self.do("stop")
                self.status = "paused"

    async def resume(self) -> None:
        """Raises DriverError for a guest that panicked or powered off: only a reset brings it back."""
        self._must_be_here()
        if self.status != "running":
            with self.by_verb():
                await self._cont()
            await announce(self)

    async def _cont(self) -> None:
        """It may have stopped for want of room again before QEMU has answered."""
        before, self.status = self.status, "paused"
        self.full.went_on()
        try:
            await self.do("cont")
        except DriverError:
            self.status = before
            raise
        if self.status == "paused":
            self.status = "running"

    def _must_be_here(self) -> None:
        """A guest that is on its way in or out is not steered: what runs must be one process. Raises CannotMove."""
        if self.status in ("incoming", "sent"):
            raise CannotMove(f"{self.record.vm} is {self.status}: its guest does not run in this process")

    async def reset(self) -> None:
        self._must_be_here()
        with self.by_verb():
            self._reset_at = asyncio.get_running_loop().time()
            await self.do("system_reset")
            if self.status != "paused":
                await self._cont()
            self._reset_at = asyncio.get_running_loop().time()
            self.record = msgspec.structs.replace(self.record, resets=self.record.resets + 1)
            await asyncio.to_thread(self.folder.save, self.record)

    async def shutdown(self) -> None:
        """The guest agent is asked, else the power button is pressed. A stopped guest hears neither: it is resumed first."""
        if self.status == "shutdown":
            return
        self._must_be_here()
        if self.status in ("paused", NO_SPACE):
            await self.resume()
        if not await self.agent.shutdown():
            await self.do("system_powerdown")

    async def kill(self) -> None:
        """Power off: by word, then by signal. Raises DriverError when the process does not end."""
        self._killed = True
        try:
            if self.qmp.ready and not self.process.ended.is_set() and self.status not in ("incoming", "sent"):
                await self.qmp.execute("quit", timeout_s=QUIT_S_MAX)
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
        found = await self.do("query-cpus-fast")
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
        await self.do("screendump", {"filename": SCREEN, "format": "png"})
        try:
            return await asyncio.to_thread(self.folder.take_own, SCREEN, SCREENSHOT_BYTES_MAX)
        except OSError as error:
            raise DriverError(f"{self.record.vm}: the screenshot cannot be read: {error.strerror or error}") from error

    async def frame(self) -> bytes:
        """The screen as PPM, pixel by pixel. Raises DriverError."""
        await self.do("screendump", {"filename": SCREEN})
        try:
            return await asyncio.to_thread(self.folder.take_own, SCREEN, FRAME_BYTES_MAX)
        except OSError as error:
            raise DriverError(f"{self.record.vm}: its screen cannot be read: {error.strerror or error}") from error

    async def close(self) -> None:
        """Let go of all connections; the process is not touched."""
        await self.qmp.close()
        await self.console.close()
        self.homing.close()
        self.freezer.close()
        self.agent.close()
        self.mover.close()

    def gone(self) -> MachineChanged:
        """How it ended, to be said once the process has."""
        vm, generation, code = self.record.vm, self.record.generation, self.process.code
        self.backups.end("it ended meanwhile")
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
        return self.qmp.ready

    async def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """A question to the monitor that changes nothing here. Raises DriverError."""
        return await self.do(command, arguments)

    async def do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        if self.process.ended.is_set():  # another may listen where it did
            raise DriverError(f"{self.record.vm}: {command}: its process has ended")
        try:
            if not self.qmp.ready:
                await self.connect(RECONNECT_S_MAX)
            return await self.qmp.execute(command, arguments)
        except (QmpError, OSError) as error:
            raise DriverError(f"{self.record.vm}: {command}: {error}") from error

    async def remember(self, **changes: Any) -> None:
        """Of its record: what was changed meanwhile by others is written, too, and never undone."""
        self.record = msgspec.structs.replace(self.record, **changes)
        async with self._saving:
            await asyncio.to_thread(self.folder.save, self.record)

    async def give(self, name: str, fd: int) -> None:
        """Raises DriverError."""
        try:
            if not self.qmp.ready:
                await self.connect(RECONNECT_S_MAX)
            await self.qmp.give(name, fd)
        except (QmpError, OSError) as error:
            raise DriverError(f"{self.record.vm}: an open file could not be handed over: {error}") from error

    async def give_set(self, fd: int, opaque: str) -> int:
        """As Qmp.give_set. Raises DriverError."""
        try:
            if not self.qmp.ready:
                await self.connect(RECONNECT_S_MAX)
            return await self.qmp.give_set(fd, opaque)
        except (QmpError, OSError) as error:
            raise DriverError(f"{self.record.vm}: an open file could not be handed over: {error}") from error

    @contextmanager
    def by_verb(self) -> Iterator[None]:
        self._verbs += 1
        try:
            yield
        finally:
            self._verbs -= 1

    def _hear(self, event: QmpEvent) -> None:
        self.pulse.hear(event)
        if self.mover.hear(event) or self.merges.hear(event) or self.backups.hear(event):
            return
        self.fitting.hear(event)
        match event.name:
            case "SHUTDOWN" if event.data.get("guest"):
                self.become("shutdown", GoneCause.GUEST)
            case "STOP" if self.status == "running" and not self.still:
                self.become(NO_SPACE if self.full.stopped else "paused")
            case "RESUME" if self.status != "running":
                self.become("running")
            case "GUEST_PANICKED":
                self._why += panics.sentence(event.data)
                self.become("panicked")
            case "WATCHDOG":
                self._why = "the watchdog ran out; "
            case "BLOCK_IO_ERROR":
                self.full.hear(event)
                self._why = f"disk {event.data.get('node-name')}: {str(event.data.get('reason'))[:200]}; "
            case "RESET":
                self._hear_reset(str(event.data.get("reason")))

    def _hear_reset(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._reset_at >= RESET_QUIET_S:
            self._why += f"the guest was reset ({reason})"
            self.become(self.status, was_reset=True)
        self._reset_at = now

    def become(self, status: str, cause: GoneCause = GoneCause.UNKNOWN, *, was_reset: bool = False) -> None:
        self.status, why, self._why = status, self._why, ""
        if self._verbs == 0 or status == NO_SPACE:
            vm, generation = self.record.vm, self.record.generation
            self.tell(MachineChanged(vm, generation, status, cause, why, full=self._full(), was_reset=was_reset))
