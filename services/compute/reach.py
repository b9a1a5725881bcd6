"""Which disks a node reaches, and what a guest takes along where it does not. Pure.

Nodes may have pools of the same name with other disks in them, so a pool has a word of its own too (Disk.pool_id). A start is only
where the disks are that the VM has run with; a running guest may go elsewhere, and its disks with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proto.compute import Placement, VmDefined, VmDevicesNoted
from proto.io import ChangeKind, DevicesChanged
from proto.machine import Disk, DiskWish, Firmware
from proto.migration import Way
from proto.nodes import Capabilities

UEFI = "firmware/uefi"
"""among pools, where they are asked for by words"""


def reached(can: Capabilities) -> tuple[str, ...]:
    """All a node may be asked for: its pools by name, and by name and word; and its keys of backups."""
    return (*can.pools, *(f"{pool}@{id}" for pool, id in can.pool_ids.items()), *map(keyed, can.backup_keys))


def keyed(key: str) -> str:
    """A key of backups, among pools."""
    return f"key/{key}"


def bootable(can: Capabilities) -> tuple[str, ...]:
    """As `reached`, of firmware that not every node has."""
    return (UEFI,) if Firmware.UEFI in can.firmware else ()


def needed(disks: Iterable[DiskWish | Disk], home: Iterable[tuple[str, str]] = ()) -> tuple[str, ...]:
    """What is asked for, sorted. home: (pool, word) of disks that are there."""
    names = {disk.pool for disk in disks}
    return tuple(sorted(names.union(f"{pool}@{id}" for pool, id in home if pool in names and id)))


def shared_with(disks: Iterable[DiskWish], there: Sequence[str]) -> tuple[str, ...]:
    """What a node must reach to run a guest that runs now where `there` is reached, with the same disks."""
    parted = (word.partition("@") for word in there)
    return needed(disks, ((pool, id) for pool, _, id in parted))


def protected(disks: Iterable[Disk], here: Capabilities | None, nodes: Iterable[Capabilities]) -> bool:
    """Whether a guest on a node is guarded by its lease, and so may start elsewhere: all that it writes is in pools that two nodes
    reach by the same word and in which a second writer is kept away, and the node has a watchdog."""
    safe = guardable(here, lockers(nodes))
    return safe is not None and all(disk.pool_id and safe.get(disk.pool) == disk.pool_id for disk in disks if not disk.bus.is_cd)


def lockers(nodes: Iterable[Capabilities]) -> Counter[tuple[str, str]]:
    """How many nodes keep a second writer away in each pool, by name and word."""
    return Counter((pool, id) for can in nodes for pool, id in can.pool_ids.items() if _locks(can, pool, id))


def guardable(here: Capabilities | None, locking: Mapping[tuple[str, str], int]) -> dict[str, str] | None:
    """Pools (name to word) in which a guest on that node may have what it writes, to be guarded; None: its node guards nothing.
    locking: lockers of all nodes."""
    if here is None or not here.watchdog:
        return None
    return {pool: id for pool, id in here.pool_ids.items() if _locks(here, pool, id) and locking.get((pool, id), 0) > 1}


def _locks(can: Capabilities, pool: str, id: str) -> bool:
    return can.pool_ids.get(pool) == id and pool in can.lease_pools


@dataclass(slots=True)
class Homes:
    """at: VM -> pool -> the word of the pool in which it has disks that its guest has run with. granted: the same of what io gave
    last to a start or a migration that is not over, where it differs. backups: VM -> the pools, by word where it is known, of the
    backups that its disks stand on, and the keys by which these are encrypted."""

    at: dict[str, dict[str, str]] = field(default_factory=dict)
    granted: dict[str, dict[str, str]] = field(default_factory=dict)
    backups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def noted(self, event: VmDevicesNoted, runs: bool) -> None:
        """runs: the VM runs and is not being moved."""
        if event.changed and not runs:
            return
        vm, words = event.vm, {disk.pool: disk.pool_id for disk in event.disks if disk.pool_id}
        differ = self.at.get(vm) != words
        if runs:
            self._stands(vm, event.disks)
            if differ:
                self.at[vm] = words
        elif differ:
            self.granted[vm] = words
        elif self.granted:
            self.granted.pop(vm, None)

    def changed(self, event: DevicesChanged) -> None:
        """Put on a backup, it starts where that is reached and what is left of what it had; come home, where its own disks are."""
        if event.change.kind in (ChangeKind.RECOVER, ChangeKind.HOME):
            self._stands(event.vm, event.disks)
            self.at[event.vm] = {disk.pool: disk.pool_id for disk in event.disks if disk.pool_id}

    def settled(self, vm: str) -> None:
        """It was started, or has moved."""
        if (words := self.granted.pop(vm, None)) is not None:
            self.at[vm] = words

    def failed(self, vm: str) -> None:
        """What was granted is of no use."""
        self.granted.pop(vm, None)

    def gone(self, vm: str) -> None:
        self.at.pop(vm, None)
        self.granted.pop(vm, None)
        self.backups.pop(vm, None)

    def _stands(self, vm: str, disks: Sequence[Disk]) -> None:
        origins = [layer.origin for disk in disks if disk.layers for layer in disk.layers if layer.origin is not None]
        if origins:
            words = {f"{one.pool}@{one.pool_id}" if one.pool_id else one.pool for one in origins}
            self.backups[vm] = tuple(sorted(words.union(keyed(one.key) for one in origins if one.key)))
        elif vm in self.backups:
            del self.backups[vm]


# --- moves -----------------------------------------------------------------------------------------------------------

def ways(
    vm: VmDefined, source: str, choice: Placement | None, can: Callable[[str], Capabilities | None]
) -> tuple[Way, ...]:
    """How the guest would go from `source` to each candidate; can: what a node said of itself."""
    here = can(source)
    if choice is None or here is None:
        return ()
    return tuple(_way(vm, here, c.node, there) for c in choice.candidates if (there := can(c.node)) is not None)


def _way(vm: VmDefined, here: Capabilities, name: str, there: Capabilities) -> Way:
    pools = sorted({disk.pool for disk in vm.disks})
    ids = {pool: (here.pool_ids.get(pool, ""), there.pool_ids.get(pool, "")) for pool in pools}
    copied = {pool: id for pool, (id, other) in ids.items() if id and other and id != other}
    sizes = (disk.size_mib or vm.sizes_mib.get(disk.image, 0) for disk in vm.disks if disk.pool in copied)
    return Way(node=name, copied=copied, copy_mib=sum(sizes), source_key=here.move_key, target_key=there.move_key)
