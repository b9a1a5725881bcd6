"""One VM's part in a move: the verbs of moving.py, and what its monitor says meanwhile."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from proto.node import Sending
from services.node.drivers import CannotMove, MachineChanged
from services.node.drivers.qemu import moving
from services.node.drivers.qemu.launch import NOWHERE, Host
from services.node.drivers.qemu.qmp import QmpError, QmpEvent

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

OVER_S_MAX = 10.0
"""how long QEMU may take to end a migration once it was told to, or to load what was sent whole"""

LOOK_S = 0.01
"""between two looks at a migration that is ending"""


class Mover:
    """sending: its guest is being sent. While it is, a stop of the vCPUs belongs to it and is not told."""

    def __init__(self, vm: RunningVm) -> None:
        self.sending = False
        self._vm = vm
        self._before = "running"
        self._recalling = False
        self._paused_us = 0
        self._arrived = asyncio.Event()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def status(self, status: str) -> str | None:
        """QEMU's run state as the agent's, where a move has to do with it."""
        if self._vm.record.incoming:
            return "prelaunch" if self._vm.record.incoming == NOWHERE else "incoming"
        return "sent" if status == "postmigrate" else None

    async def adopt(self) -> None:
        """What of it goes on already. Raises QmpError."""
        if not self._vm.record.incoming:
            found = await self._vm.qmp.execute("query-migrate")
            self.sending = found.get("status") in moving.UNDER_WAY

    async def progress(self) -> Sending | None:
        """Raises DriverError."""
        return moving.progress(await self._vm.do("query-migrate")) if self.sending else None

    # --- there ----------------------------------------------------------------------------------------------------

    async def receive(self, host: Host) -> None:
        """Listen. Raises QmpError, OSError, DriverError."""
        vm = self._vm
        await vm.check_name()
        await vm.qmp.execute("migrate-set-capabilities", moving.capabilities(**{"late-block-activate": True}))
        await vm.qmp.execute("migrate-incoming", {"uri": moving.uri(host)})
        found = await vm.qmp.execute("query-migrate") if host.moves_at else {}
        address = moving.address(host, vm.folder.own, found)
        vm.record = msgspec.structs.replace(vm.record, incoming=address)
        await asyncio.to_thread(vm.folder.save, vm.record)
        vm.status = "incoming"

    async def activate(self, host: Host) -> None:
        """Raises Locked, LeaseRefused, CannotMove, DriverError."""
        vm = self._vm
        record = vm.record
        if not record.incoming:
            return
        await self._whole()
        held = await asyncio.to_thread(
            moving.take_over, host, record.vm, record.generation, record.pid, record.pools
        )
        try:
            for number, fd in enumerate(held):
                await vm.give(f"running-{number}", fd)
        finally:
            for fd in held:
                os.close(fd)
        vm.record = msgspec.structs.replace(record, incoming="", pools=())
        await asyncio.to_thread(vm.folder.save, vm.record)
        vm.status = "paused"

    async def _whole(self) -> None:
        """The other side says `completed` once this one has loaded all; to say so itself this one may need a moment more."""
        found = await self._vm.do("query-migrate")
        if found.get("status") == "completed":
            return
        try:
            async with asyncio.timeout(OVER_S_MAX if found.get("status") == "active" else 0):
                await self._arrived.wait()
        except TimeoutError:
            status = found.get("status", "nothing was sent")
            raise CannotMove(f"the guest of {self._vm.record.vm} has not come in whole ({status})") from None

    # --- here -----------------------------------------------------------------------------------------------------

    async def send(self, address: str) -> None:
        """Raises CannotMove, DriverError."""
        vm = self._vm
        if self.sending or vm.status == "sent":
            return
        if vm.status not in ("running", "paused"):
            raise CannotMove(f"{vm.record.vm} is {vm.status}: only a running or paused guest can be sent")
        await vm.do("migrate-set-capabilities", moving.capabilities(**{"auto-converge": True}))
        limits = {"max-bandwidth": moving.BANDWIDTH_BYTES_PER_S, "downtime-limit": moving.DOWNTIME_MS_MAX}
        await vm.do("migrate-set-parameters", limits)
        sock = await moving.connected(address)
        try:
            sock.setblocking(True)
            await vm.give("migration", sock.fileno())
        finally:
            sock.close()
        self.sending, self._before, self._paused_us = True, vm.status, 0
        self._over.clear()
        try:
            await vm.do("migrate", {"uri": "fd:migration"})
        except BaseException:
            self.sending = False
            raise

    async def recall(self) -> None:
        """Raises DriverError."""
        vm = self._vm
        if self.sending:
            self._recalling = True
            try:
                await vm.do("migrate_cancel")
                async with asyncio.timeout(OVER_S_MAX):
                    await self._over.wait()
            except TimeoutError:
                raise CannotMove(f"QEMU of {vm.record.vm} has not stopped sending within {OVER_S_MAX:g} s") from None
            finally:
                self._recalling = False
        if vm.status != "sent":
            return
        if self._before == "paused":
            vm.status = "paused"  # its disks are taken again when it is resumed
            return
        with vm.by_verb():
            await vm.do("cont")
            vm.status = "running"

    # --- what the monitor says ------------------------------------------------------------------------------------

    def hear(self, event: QmpEvent) -> bool:
        """Whether the event belongs to a move."""
        if event.name == "MIGRATION":
            self._hear_migration(str(event.data.get("status")))
            return True
        if event.name not in ("STOP", "RESUME") or not (self.sending or self._vm.record.incoming):
            return False
        self._paused_us = event.at_us if event.name == "STOP" else 0
        return True

    def _hear_migration(self, status: str) -> None:
        if self._vm.record.incoming:
            if status == "completed":
                self._arrived.set()
        elif self.sending and status in ("completed", "failed", "cancelled"):
            task = asyncio.create_task(self._ended(status))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ended(self, status: str) -> None:
        """Sending is over: how far it came, and how the guest is."""
        vm = self._vm
        try:
            found = await vm.qmp.execute("query-migrate")
            state = await self._settled()
        except (QmpError, OSError):
            return  # the monitor is asked again by the sweep, the process's end is told in any case
        self.sending = False
        vm.status = "sent" if status == "completed" else vm.word(state)
        if not self._recalling:
            vm.tell(self._told(status, found))
        self._over.set()

    async def _settled(self) -> str:
        """QEMU's run state. It says that a migration is completed a moment before it is done with it, and lets no guest go on until
        then. Raises QmpError, TimeoutError."""
        async with asyncio.timeout(OVER_S_MAX):
            while True:
                state = str((await self._vm.qmp.execute("query-status"))["status"])
                if state != "finish-migrate":
                    return state
                await asyncio.sleep(LOOK_S)

    def _told(self, status: str, found: dict[str, Any]) -> MachineChanged:
        vm = self._vm
        if status == "completed":
            return MachineChanged(
                vm.record.vm,
                vm.record.generation,
                vm.status,
                sent_mib=-(-int(found.get("ram", {}).get("transferred", 0)) // moving.MIB),
                total_ms=int(found.get("total-time", 0)),
                paused_us=self._paused_us,
            )
        why = str(found.get("error-desc") or f"QEMU ended it ({status})")[:400]
        return MachineChanged(vm.record.vm, vm.record.generation, vm.status, unsent=why)

    def revived(self, was_sending: bool) -> MachineChanged | None:
        """After a monitor was lost and found: what it did not tell."""
        vm = self._vm
        if vm.status == "sent" or (was_sending and not self.sending):
            why = "" if vm.status == "sent" else "it ended while the monitor was lost"
            return MachineChanged(vm.record.vm, vm.record.generation, vm.status, unsent=why)
        return None

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
