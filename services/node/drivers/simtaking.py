"""A part of SimulatedDriver: backups that take their time (SimParams.backup_us)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from proto.backups import BackupDone
from proto.node import CopyNow, OrderBackup
from services.node.drivers import NotBackedUp, simbackups
from services.node.drivers.simhost import SimHost


@dataclass(slots=True)
class _Going:
    order: OrderBackup
    all_mib: int
    begun_us: int
    why: asyncio.Future[str]
    """it is to end, and why"""


class SimTaking:
    """now_us: of the clock that the host's events go by; at_us: of day."""

    def __init__(self, host: Callable[[], SimHost], now_us: Callable[[], int], at_us: Callable[[], int]) -> None:
        self._host = host
        self._now_us = now_us
        self._at_us = at_us
        self._going: dict[str, _Going] = {}

    async def take(self, order: OrderBackup) -> BackupDone:
        """As Driver.back_up."""
        host = self._host()
        if (done := simbackups.there(host, order)) is not None:
            return done
        made = simbackups.begin(host, order, self._now_us())
        made = simbackups.dated(made, self._at_us())
        pid = self._pid(order.vm)
        why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._going[order.vm] = _Going(order, sum(disk.size_mib for disk in made.done.disks), self._now_us(), why)
        try:
            async with asyncio.timeout(host.params.backup_us / 1e6):
                raise NotBackedUp(f"given up: {await why}")
        except TimeoutError:
            if self._pid(order.vm) != pid:
                raise NotBackedUp(f"given up: {order.vm} ended meanwhile") from None
            return simbackups.finish(host, order, made)
        finally:
            del self._going[order.vm]

    def _pid(self, vm: str) -> int:
        found = self._host().vms.get(vm)
        return found.pid if found is not None else 0

    def give_up(self, vm: str, why: str) -> None:
        """Before something that cannot go beside it."""
        if (going := self._going.get(vm)) is not None and not going.why.done():
            going.why.set_result(why)

    async def copies(self) -> tuple[CopyNow, ...]:
        now, takes_us = self._now_us(), max(1, self._host().params.backup_us)
        return tuple(
            CopyNow(vm, "backup", it.order.backup, min(it.all_mib, it.all_mib * (now - it.begun_us) // takes_us), it.all_mib)
            for vm, it in sorted(self._going.items())
        )
