"""One VM's part in a move: the verbs of moving.py, and what its monitor says meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from proto.node import Sending
from services.node.drivers import AT_HAND, CannotMove, DriverError, MachineChanged, Move
from services.node.drivers.qemu import moving, secrecy
from services.node.drivers.qemu.announce import announce
from services.node.drivers.qemu.launch import NOWHERE, Host
from services.node.drivers.qemu.mirrors import Mirrors
from services.node.drivers.qemu.qmp import QmpError, QmpEvent

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

TLS = "moves"
KEYS = "keys.psk"
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
        self._why = ""
        self._mirrors = Mirrors(vm)
        self._copying: asyncio.Task[None] | None = None
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
        if self._vm.record.incoming:
            return
        found = await self._vm.qmp.execute("query-migrate")
        self.sending = found.get("status") in moving.UNDER_WAY
        await self._mirrors.adopt()
        if found.get("status") == "pre-switchover":
            self._spawn(self._switch())  # where the mirrors have been settled already nobody knows how: then it is given up
        elif not self.sending and self._mirrors.jobs:
            await self._mirrors.drop()  # the guest is sent anew when it is wanted still

    async def progress(self) -> Sending | None:
        """Raises DriverError."""
        if not self.sending:
            return None
        found = moving.progress(await self._vm.do("query-migrate"))
        if found is None or not self._mirrors.jobs:
            return found
        done, all = await self._mirrors.progress()
        return msgspec.structs.replace(found, disks_sent_mib=done, disks_mib=all)

    # --- there ----------------------------------------------------------------------------------------------------

    async def receive(self, host: Host, move: Move) -> None:
        """Listen, for memory and for disks. Raises QmpError, OSError, DriverError."""
        vm = self._vm
        await vm.check_name()
        await vm.qmp.execute("migrate-set-capabilities", moving.capabilities(**{"late-block-activate": True}))
        tls = await self._secret(host, move, vm.record.generation, "server") if host.moves_at else ""
        await vm.qmp.execute("migrate-incoming", {"uri": moving.uri(host)})
        found = await vm.qmp.execute("query-migrate") if host.moves_at else {}
        port = await self._export(host, move, tls) if move.disks else 0
        address = moving.address(host, vm.folder.own, found, port)
        vm.record = msgspec.structs.replace(vm.record, incoming=address)
        await asyncio.to_thread(vm.folder.save, vm.record)
        vm.status = "incoming"

    async def _export(self, host: Host, move: Move, tls: str) -> int:
        """Let the source write the disks that go along; the port for that, 0: a unix socket."""
        vm = self._vm
        with moving.listening(host, vm.folder.own) as sock:
            await vm.give("disks", sock.fileno())
            port = int(sock.getsockname()[1]) if host.moves_at else 0
        at = {"addr": {"type": "fd", "data": {"str": "disks"}}} | ({"tls-creds": tls} if tls else {})
        await vm.qmp.execute("nbd-server-start", at)
        for disk in move.disks:
            name = f"disk{disk.slot}"
            export = {"type": "nbd", "id": name, "node-name": name, "name": name, "writable": True}
            await vm.qmp.execute("block-export-add", export)
        return port

    async def _secret(self, host: Host, move: Move, incoming: int, end: str) -> str:
        """The name of the TLS credentials of this move, by now known to QEMU."""
        vm = self._vm
        key = await asyncio.to_thread(secrecy.own_key, host.state / "keys")
        line = secrecy.psk(key, move.peer_key, vm.record.vm, incoming)
        await asyncio.to_thread(vm.folder.put_own, KEYS, line.encode())
        objects = await vm.do("qom-list", {"path": "/objects"})
        if any(known["name"] == TLS for known in objects):
            await vm.do("migrate-set-parameters", {"tls-creds": ""})
            await vm.do("object-del", {"id": TLS})
        wanted = {"qom-type": "tls-creds-psk", "id": TLS, "endpoint": end, "dir": "."}
        try:
            await vm.do("object-add", wanted | ({"username": secrecy.NAME} if end == "client" else {}))
        finally:
            if end == "client":  # the other end reads it with each connection
                await asyncio.to_thread((vm.folder.own / KEYS).unlink, True)
        await vm.do("migrate-set-parameters", {"tls-creds": TLS})
        return TLS

    async def activate(self, host: Host) -> None:
        """Raises Locked, LeaseRefused, CannotMove, DriverError."""
        vm = self._vm
        record = vm.record
        if not record.incoming:
            return
        await self._whole()
        with contextlib.suppress(DriverError):  # where none came along, or it was stopped already
                await vm.do("nbd-server-stop")
        held = await asyncio.to_thread(
            moving.take_over, host, record.vm, record.generation, record.pid, record.pools
        )
        try:
            for number, fd in enumerate(held):
                await vm.give(f"running-{number}", fd)
        finally:
            for fd in held:
                os.close(fd)
        await asyncio.to_thread((vm.folder.own / KEYS).unlink, True)
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

    async def send(self, host: Host, address: str, move: Move = AT_HAND) -> None:
        """Raises CannotMove, DriverError."""
        vm = self._vm
        if self.sending or vm.status == "sent":
            return
        if vm.status not in ("running", "paused"):
            raise CannotMove(f"{vm.record.vm} is {vm.status}: only a running or paused guest can be sent")
        with_disks = {"auto-converge": True, "pause-before-switchover": bool(move.disks)}
        await vm.do("migrate-set-capabilities", moving.capabilities(**with_disks))
        tls = await self._secret(host, move, move.incoming, "client") if moving.crosses(address) else ""
        if not tls:
            await vm.do("migrate-set-parameters", {"tls-creds": ""})
        limits = {"max-bandwidth": moving.BANDWIDTH_BYTES_PER_S, "downtime-limit": moving.DOWNTIME_MS_MAX}
        await vm.do("migrate-set-parameters", limits)
        self._before, self._paused_us, self._why = vm.status, 0, ""
        self._over.clear()
        if move.disks:
            await self._mirrors.begin(moving.for_disks(address), move, tls)
            self.sending = True
            self._copying = self._spawn(self._disks_first(address))
            return
        await self._memory(address)

    async def _memory(self, address: str) -> None:
        """Raises CannotMove, DriverError."""
        vm = self._vm
        sock = await moving.connected(moving.for_memory(address))
        try:
            sock.setblocking(True)
            await vm.give("migration", sock.fileno())
        finally:
            sock.close()
        self.sending = True
        try:
            await vm.do("migrate", {"uri": "fd:migration"})
        except BaseException:
            self.sending = False
            raise

    async def _disks_first(self, address: str) -> None:
        """Memory follows once all that is on the disks is there."""
        vm = self._vm
        try:
            await self._mirrors.ready()
            self._copying = None
            await self._memory(address)
        except DriverError as error:
            self._copying, self.sending = None, False
            with contextlib.suppress(DriverError):
                await self._mirrors.drop()
            if not self._recalling:
                vm.tell(MachineChanged(vm.record.vm, vm.record.generation, vm.status, unsent=str(error)[:400]))
            self._over.set()

    async def _switch(self) -> None:
        """The guest has stopped here: its disks become equal, then the rest of its memory goes. If not, it is given up."""
        vm = self._vm
        try:
            if not self._mirrors.jobs:
                raise CannotMove("an agent was started anew while the disks were let go of")
            await self._mirrors.settle()
            await vm.do("migrate-continue", {"state": "pre-switchover"})
        except DriverError as error:
            self._why = str(error)[:400]
            with contextlib.suppress(DriverError):  # then QEMU is gone
                await vm.do("migrate_cancel")

    async def recall(self) -> None:
        """Raises DriverError."""
        vm = self._vm
        if self._copying is not None:
            self._copying.cancel()
            self._copying, self.sending = None, False
            await self._mirrors.drop()
            return
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
        await announce(vm)  # the other process may have done so already

    # --- what the monitor says ------------------------------------------------------------------------------------

    def hear(self, event: QmpEvent) -> bool:
        """Whether the event belongs to a move."""
        if self._mirrors.hear(event):
            return True
        if event.name == "MIGRATION":
            self._hear_migration(str(event.data.get("status")))
            return True
        if event.name not in ("STOP", "RESUME") or not (self.sending or self._vm.record.incoming):
            return False
        if event.name == "STOP" and self._vm.full.stopped and not self._vm.record.incoming:
            return False
        self._paused_us = event.at_us if event.name == "STOP" else 0
        return True

    def _hear_migration(self, status: str) -> None:
        if self._vm.record.incoming:
            if status == "completed":
                self._arrived.set()
        elif self.sending and status == "pre-switchover":
            self._spawn(self._switch())
        elif self.sending and status in ("completed", "failed", "cancelled"):
            self._spawn(self._ended(status))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ended(self, status: str) -> None:
        """Sending is over: how far it came, and how the guest is."""
        vm = self._vm
        try:
            found = await vm.qmp.execute("query-migrate")
            state = await self._settled()
            if status != "completed" and self._mirrors.jobs:
                with contextlib.suppress(DriverError):  # the next sending drops them first
                    await self._mirrors.drop()
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
        why = self._why or str(found.get("error-desc") or f"QEMU ended it ({status})")[:400]
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
