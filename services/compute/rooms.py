"""How much room the pools of each node have, as their agents tell, and what a VM would put into them. Pure.

It is never recorded: what a choice was made of is in the choice. A pool of which nobody told is taken to have room; io asks again,
with the virtual sizes of all disks, when it grants them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from proto.compute import VmDefined
from proto.pools import PoolNow, PoolRoom, PoolRules

STEPS = 256
"""Room counts in so many parts of a pool, so that not every beat changes a node's facts."""


@dataclass(slots=True)
class PoolRooms:
    """rules: by the pool's name. told: by node."""

    NOT_OF_LOG: ClassVar = frozenset({"told"})

    rules: dict[str, PoolRules] = field(default_factory=dict)
    told: dict[str, tuple[PoolNow, ...]] = field(default_factory=dict)

    def of(self, node: str) -> tuple[tuple[str, int], ...]:
        """Pool, MiB free beside what it keeps, of those that say it."""
        return tuple((pool.name, self._room(pool)) for pool in self.told.get(node, ()) if pool.size_mib >= 0)

    def _room(self, pool: PoolNow) -> int:
        step = max(1, pool.size_mib // STEPS)
        rules = self.rules.get(pool.name, PoolRules())
        kept = PoolRoom(name=pool.name, size_mib=pool.size_mib, rules=rules).kept_mib
        return pool.free_mib // step * step - kept

    def hear(self, node: str, pools: Iterable[PoolNow]) -> None:
        kept = (PoolNow(name=pool.name, size_mib=pool.size_mib, free_mib=pool.free_mib) for pool in pools)
        self.told[node] = tuple(sorted(kept, key=lambda pool: pool.name))


type NewDisk = tuple[str, int, str]
"""the pool's name; MiB that are to be free in it, beside what it keeps; the word of the pool for which that does not hold"""


def new_disks(vm: VmDefined, home: dict[str, str], ids: dict[str, str] | None) -> tuple[NewDisk, ...]:
    """What it would put where. home: pools in which its disks are. ids: of the node that it leaves, where its disks go along: to
    other pools only, and at most whole; None: they do not."""
    if ids is None:
        return () if home else tuple((pool, 1, "") for pool in sorted({disk.pool for disk in vm.disks}))
    sizes: dict[str, int] = {}
    for disk in vm.disks:
        sizes[disk.pool] = sizes.get(disk.pool, 0) + (disk.size_mib or vm.sizes_mib.get(disk.image, 0))
    return tuple((pool, mib, ids.get(pool, "")) for pool, mib in sorted(sizes.items()))
