"""Backups of a node's VMs: those that run are read by their own QEMU, those at rest by one without a machine, under the lock of
the VM."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from libs.common import backup_key
from libs.common.backup_key import BadBackupKey
from libs.common.clock import SystemClock
from libs.memory.areas import STORAGE
from proto.backups import BackupDone, SavedDisk
from proto.machine import Disk
from proto.node import CopyNow, OrderBackup, OrderBackupRemoval, OrderBackupVerify
from services.node.drivers import DriverError, NotBackedUp, Verified
from services.node.drivers.qemu import devices, secrecy
from services.node.drivers.qemu.backups import removing, resting, verifying
from services.node.drivers.qemu.backups.cipher import BOTH, Blanks, Cipher
from services.node.drivers.qemu.backups.jobs import ENDS_S_MAX, Blocks, Jobs
from services.node.drivers.qemu.backups.layout import Shelf
from services.node.drivers.qemu.backups.media import Media
from services.node.drivers.qemu.backups.reader import Reader, open_reader
from services.node.drivers.qemu.backups.taking import Taking, settled
from services.node.drivers.qemu.backups.windows import media_of
from services.node.drivers.qemu.bare import Wanted, bare
from services.node.drivers.qemu.chains import chains
from services.node.drivers.qemu.fleet import Fleet
from services.node.drivers.qemu.freezer import Freezer
from services.node.drivers.qemu.keyring import NoKey
from services.node.drivers.qemu.machine import RunningVm
from services.node.drivers.qemu.process import UID_NOBODY, uid_for
from services.node.drivers.qemu.qemu_img import Failed, QemuImg
from services.node.drivers.qemu.qmp import QmpRefused
from services.node.drivers.qemu.stores.settings import Nbd, Rbd
from services.node.host import areas

MIB = 1 << 20

log = logging.getLogger(__name__)


class Backups:
    def __init__(self, fleet: Fleet, tool: QemuImg) -> None:
        self._fleet = fleet
        self._tool = tool
        self.blanks = Blanks(fleet.host.state, fleet.host.ring, tool)
        self._filling: dict[str, asyncio.Future[None]] = {}
        self._closed = threading.Event()
        self._going: dict[str, Taking] = {}
        """VM -> what copies its disks now"""
        self._rests: dict[str, asyncio.Event] = {}
        """VM at rest that is read -> set once its lock is given back"""

    # --- taking -------------------------------------------------------------------------------------------------------

    async def take(self, order: OrderBackup) -> BackupDone:
        """As Driver.back_up."""
        pool = self._pool(order.pool)
        try:
            found = await asyncio.to_thread(self._shelf(order.pool, order.vm).manifest, order.backup)
            if found is not None:
                return found.done
            stored = tuple(disk for disk in order.disks if not disk.bus.is_cd)
            cipher = await self._cipher(order.key)
            if cipher.key is not None and order.compress:
                raise NotBackedUp(BOTH)
            if cipher.key is not None:  # not under the VM's lock, for where there are none it takes its time
                await asyncio.to_thread(self.blanks.fill, order.key, self._closed, len(stored))
            return await (self._of_running if order.generation else self._of_resting)(order, pool, stored, cipher)
        except OSError as error:
            raise NotBackedUp(f"the backup of {order.vm} cannot be written: {error.strerror or error}") from error
        except DriverError as error:
            if isinstance(error.__cause__, QmpRefused | Failed):  # they would say so again
                raise NotBackedUp(f"the backup of {order.vm} cannot be taken: {error}") from error
            raise
        finally:
            if order.key:
                self.fill(order.key)

    async def _cipher(self, key: str) -> Cipher:
        """Raises NotBackedUp."""
        try:
            return Cipher(self._tool, self.blanks, await asyncio.to_thread(self._fleet.host.ring.key, key) if key else None)
        except NoKey as error:
            raise NotBackedUp(str(error)) from error

    def fill(self, key: str) -> None:
        """Empty encrypted files are made for the next backups, beside all else."""
        if self._closed.is_set() or not (self._filling.get(key) is None or self._filling[key].done()):
            return
        self._filling[key] = filling = asyncio.ensure_future(asyncio.to_thread(self.blanks.fill, key, self._closed))
        filling.add_done_callback(_told)

    async def open(self) -> None:
        await asyncio.to_thread(self.blanks.tidy)
        for key in await asyncio.to_thread(self._fleet.host.ring.ids):
            self.fill(key)

    async def close(self) -> None:
        """What is made beside all else ends with the file that it is at."""
        self._closed.set()
        await asyncio.gather(*self._filling.values(), return_exceptions=True)

    async def _of_running(self, order: OrderBackup, pool: Path, stored: tuple[Disk, ...], cipher: Cipher) -> BackupDone:
        running = self._fleet.vms.get(order.vm)
        if running is None or running.record.generation != order.generation:
            raise NotBackedUp(f"generation {order.generation} of {order.vm} does not run on {self._fleet.host.node} any more")
        taking = self._taking(order, pool, running, running.backups, running.process.ended, running.freezer, cipher)

        async def taken() -> BackupDone:
            async with self._fleet.lock(order.vm):
                self._can_be_read(running)
                there = await chains(running)
                tops = {d.name: there[d.slot].nodes[0] for d in stored if d.slot in there and there[d.slot].nodes}
                await taking.prepare(tops, stored)
                await taking.begin()
            await taking.run()
            await taking.let_go()
            done = await taking.publish()
            await taking.forget_older()
            return done

        return await self._noted(taking, settled(taken(), taking.undo))

    def _can_be_read(self, running: RunningVm) -> None:
        """Raises NotBackedUp."""
        vm = running.record.vm
        if running.process.ended.is_set() or self._fleet.vms.get(vm) is not running:
            raise NotBackedUp(f"{vm} ended meanwhile")
        if running.mover.sending or running.status in ("incoming", "sent"):
            raise NotBackedUp(f"the guest of {vm} is on its way to another node")

    async def _of_resting(self, order: OrderBackup, pool: Path, stored: tuple[Disk, ...], cipher: Cipher) -> BackupDone:
        vm, host = order.vm, self._fleet.host
        async with AsyncExitStack() as opened:
            async with self._fleet.lock(vm):
                if vm in self._fleet.vms:
                    raise NotBackedUp(f"{vm} runs by now: it is backed up as one that runs")
                self._rests[vm] = asyncio.Event()
                opened.callback(self._rests[vm].set)
                held = await asyncio.to_thread(resting.held, host, vm, stored)
                for fd in held:
                    opened.callback(os.close, fd)
                beneath = await asyncio.to_thread(resting.beneath, host, vm, stored)
                pools = {disk.pool: host.pools[disk.pool] for disk in stored}
                wanted = Wanted(host.qemu, uid_for(vm), pools, held, self._stand)
                reading = await opened.enter_async_context(bare(wanted))
                jobs = Jobs()
                reading.hears.append(jobs.hear)
                reading.at_end(lambda: jobs.end("the QEMU that read its disks ended"))
                taking = self._taking(order, pool, reading, jobs, reading.ended, None, cipher)

                async def begun() -> None:
                    for node in resting.nodes(host, stored, reading.pools, beneath):
                        await reading.do("blockdev-add", node)
                    await taking.prepare({disk.name: devices.disk_id(disk.slot) for disk in stored}, stored)
                    await taking.begin()

                await settled(begun(), taking.undo)

            async def copied() -> None:
                await taking.run()
                await taking.let_go()
                await reading.quit()

            await self._noted(taking, settled(copied(), taking.undo))
        return await settled(taking.publish(), taking.drop)

    def _stand(self, pid: int) -> None:
        areas.join(self._fleet.host.groups, STORAGE, pid)

    def _taking(
        self, order: OrderBackup, pool: Path, blocks: Blocks, jobs: Jobs, ended: asyncio.Event, freezer: Freezer | None,
        cipher: Cipher,
    ) -> Taking:  # fmt: skip
        host = self._fleet.host
        variables = {disk.name: host.pools[disk.pool] / "disks" / disk.vars for disk in order.disks if disk.vars}
        return Taking(
            order=order, pool=pool, blocks=blocks, jobs=jobs, clock=SystemClock(),
            media=self._media(order.pool), ended=ended, cipher=cipher, freezer=freezer, variables=variables,
        )  # fmt: skip

    async def _noted[T](self, taking: Taking, work: Awaitable[T]) -> T:
        self._going[taking.order.vm] = taking
        try:
            return await work
        finally:
            del self._going[taking.order.vm]

    async def give_up(self, vm: str, why: str) -> None:
        """What copies its disks ends before something that cannot go beside it; it is told why. Under the VM's lock. Raises
        DriverError."""
        taking = self._going.get(vm)
        if taking is None or not taking.jobs.going:
            return
        taking.jobs.reason = taking.jobs.reason or why
        with suppress(DriverError):  # its process may be gone
            await taking.jobs.cancel(taking.blocks)
        try:
            async with asyncio.timeout(ENDS_S_MAX):
                await taking.jobs.forgotten.wait()
                if taking.freezer is None:
                    await self._rests[vm].wait()
        except TimeoutError:
            raise DriverError(f"a backup of {vm} has not ended within {ENDS_S_MAX:g} s") from None

    async def copies(self) -> tuple[CopyNow, ...]:
        """Those of backups that are taken now. Raises DriverError."""
        found = []
        for vm, taking in sorted(self._going.items()):
            done, all = await taking.jobs.progress(taking.blocks)
            found.append(CopyNow(vm, "backup", taking.order.backup, done // MIB, all // MIB))
        return tuple(found)

    # --- what is there ------------------------------------------------------------------------------------------------

    async def remove(self, order: OrderBackupRemoval) -> dict[str, tuple[SavedDisk, ...]]:
        """As Driver.remove_backup."""
        shelf, host = self._shelf(order.pool, order.vm), self._fleet.host
        wanted = Wanted(host.qemu, UID_NOBODY if os.geteuid() == 0 else None, stand=self._stand)
        try:
            cipher = await self._cipher(order.key if order.heirs else "")
            return await removing.remove(order, shelf, cipher, wanted)
        except OSError as error:
            raise NotBackedUp(f"{order.backup} of {order.vm} cannot be removed: {error.strerror or error}") from error

    async def verify(self, order: OrderBackupVerify) -> Verified:
        """As Driver.verify_backup."""
        begun = time.monotonic()
        damaged, read = await verifying.verify(order, self._shelf(order.pool, order.vm))
        return Verified(damaged, -(-read // MIB), round((time.monotonic() - begun) * 1000))

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def take_key(self, sealed: bytes) -> str:
        """Opened by this node's own. Raises DriverError."""
        host = self._fleet.host
        private = await asyncio.to_thread(secrecy.own_key, host.state / "keys")
        try:
            key = backup_key.unseal(sealed, host.node, private)
            await asyncio.to_thread(host.ring.put, key)
        except (BadBackupKey, OSError) as error:
            raise DriverError(f"{host.node} does not keep the key: {error}") from error
        self.fill(key.id)
        return key.id

    async def drop_key(self, id: str) -> None:
        """Raises DriverError."""
        try:
            await asyncio.to_thread(self._fleet.host.ring.drop, id)
            await asyncio.to_thread(self.blanks.drop, id)
        except OSError as error:
            raise DriverError(f"the key {id} is not forgotten: {error}") from error

    async def open_files(self, pool: str, vm: str, backup: str) -> Reader:
        """As Driver.open_backup."""
        return await open_reader(self._fleet.host, self._tool, self._shelf(pool, vm), backup)

    def _pool(self, name: str) -> Path:
        """Raises NotBackedUp."""
        host = self._fleet.host
        if name not in host.pools:
            raise NotBackedUp(f"{host.node} has no pool {name!r}; it has {', '.join(sorted(host.pools))}")
        match host.remotes.get(name):
            case Rbd():
                raise NotBackedUp(f"pool {name} is rbd, which takes no backups: name a pool that is a folder, on CephFS say")
            case Nbd(backups=""):
                said = f"pool {name} is nbd, and names no export for backups"
                raise NotBackedUp(f"{said}: add backups=EXPORT to it in ASV_POOLS of {host.node}, or name another pool")
        return host.pools[name]

    def _media(self, name: str) -> Media:
        """Raises NotBackedUp."""
        pool, host = self._pool(name), self._fleet.host
        return media_of(name, pool, host.remotes, direct=name in host.direct)

    def _shelf(self, name: str, vm: str) -> Shelf:
        """Raises NotBackedUp."""
        return Shelf(self._pool(name), vm, self._media(name))

def _told(filling: asyncio.Future[None]) -> None:
    if not filling.cancelled() and (error := filling.exception()) is not None:
        log.warning("no files were made for encrypted backups to come: %s", error)
