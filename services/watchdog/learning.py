"""One question of the machine (LearnGenerations), as the pools answer it."""

from __future__ import annotations

from services.watchdog.pool import Learnt


class Learning:
    """left: pools that have not answered. until_us: then those that have are enough, or it is asked again."""

    def __init__(self, number: int, vms: tuple[tuple[str, int], ...], left: set[str], until_us: int) -> None:
        self.number = number
        self.vms = vms
        self._left = left
        self._until_us = until_us
        self._same: set[str] = set()
        self._raised: set[str] = set()

    def heard(self, pool: str, learnt: Learnt) -> None:
        if learnt.number == self.number:
            self._left.discard(pool)
            self._same |= set(learnt.same)
            self._raised |= set(learnt.raised)

    def late(self, now_us: int) -> bool:
        return now_us >= self._until_us

    def result(self, now_us: int) -> tuple[str, ...] | None:
        """VMs that are another's. None: not known yet."""
        known = self._same | self._raised
        if any(vm not in known for vm, _ in self.vms) or (self._left and not self.late(now_us)):
            return None
        return tuple(sorted(self._raised))
