"""The storage pools of the cluster: what the log says of them (nodes, disks, images, rules), and what agents say now. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from proto.machine import Disk
from proto.pools import PoolKind, PoolNow, PoolRoom, PoolRules
from services.gateway.model import ReadModel
from services.gateway.views.vms import Vm

type Now = Callable[[str], tuple[PoolNow, ...]]
"""what a node told lately of its pools"""


class PoolDisk(msgspec.Struct):
    """A disk in a pool. used_mib: what it takes of it by now; -1: nobody says."""

    vm: str
    disk: str
    file: str
    size_mib: int
    used_mib: int = -1


class Pool(msgspec.Struct):
    """Nodes may have pools of one name that are not the same: `id` tells them apart. nodes: those that reach it. Sizes are -1 where
    no agent says any. provisioned_mib: the virtual sizes of all disks in it; ratio: that by its size. disks: those that the asker
    may see; others: how many more."""

    name: str
    id: str
    kind: PoolKind
    nodes: list[str]
    size_mib: int = -1
    free_mib: int = -1
    provisioned_mib: int = 0
    ratio: float = 0.0
    disks_mib: int = -1
    images_mib: int = -1
    rules: PoolRules = PoolRules()
    error: str = ""
    images: list[str] = []
    disks: list[PoolDisk] = []
    others: int = 0

    @property
    def room(self) -> PoolRoom:
        return PoolRoom(
            name=self.name, id=self.id, size_mib=self.size_mib, free_mib=self.free_mib, provisioned_mib=self.provisioned_mib,
            rules=self.rules,
        )  # fmt: skip


def pools(model: ReadModel, now: Now, sees: Callable[[str], bool]) -> list[Pool]:
    """By name, then id. sees: whether objects of a project are told."""
    found = {(pool.name, pool.id): pool for pool in _reached(model, now)}
    ids: dict[str, list[str]] = {}
    for name, id in found:
        ids.setdefault(name, []).append(id)
    used = {key: _used(pool.nodes, pool.name, now) for key, pool in found.items()}
    for vm in model.vms.all.values():
        for disk in _disks(vm):
            known = ids.get(disk.pool, [])
            key = disk.pool, disk.pool_id or (known[0] if len(known) == 1 else "")
            if key in found:
                _put(found[key], vm, disk, used[key].get(disk.file, -1), sees(vm.project))
    for pool in found.values():
        pool.rules = model.pools.of(pool.name)
        pool.ratio = round(pool.provisioned_mib / pool.size_mib, 3) if pool.size_mib > 0 else 0.0
        pool.disks.sort(key=lambda disk: (disk.vm, disk.disk))
        here = (i for i in model.images.all.values() if i.pool == pool.name and i.state == "ready" and sees(i.project))
        pool.images = sorted(image.name for image in here)
    return [found[key] for key in sorted(found)]


def _disks(vm: Vm) -> Iterable[Disk]:
    """With those that are made for it where it is on its way to."""
    files = {disk.file for disk in vm.disks}
    return (*vm.disks, *(disk for disk in vm.disks_there if disk.file not in files))


def _put(pool: Pool, vm: Vm, disk: Disk, used_mib: int, seen: bool) -> None:
    pool.provisioned_mib += disk.size_mib
    if seen:
        pool.disks.append(PoolDisk(vm.name, disk.name, disk.file, disk.size_mib, used_mib))
    else:
        pool.others += 1


def _reached(model: ReadModel, now: Now) -> Iterator[Pool]:
    """Each pool once, with the figures of the first node that has any."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for node in sorted(model.nodes.all.values(), key=lambda node: node.name):
        if (can := node.capabilities) is not None:
            for name in can.pools:
                nodes.setdefault((name, can.pool_ids.get(name, "")), []).append(node.name)
    for (name, id), reach in nodes.items():
        told = [one for node in reach for one in now(node) if one.name == name]
        good = next((one for one in told if not one.error), told[0] if told else PoolNow(name=name))
        errors = "; ".join(one.error for one in told if one.error)
        kind = PoolKind.SHARED if good.kind is PoolKind.LOCAL and len(reach) > 1 and id else good.kind
        yield Pool(
            name=name, id=id, kind=kind, nodes=reach, size_mib=good.size_mib, free_mib=good.free_mib,
            disks_mib=good.disks_mib, images_mib=good.images_mib, error=errors,
        )  # fmt: skip


def _used(nodes: Iterable[str], name: str, now: Now) -> dict[str, int]:
    """What each file takes, as the first node that says so has it."""
    for node in nodes:
        for pool in now(node):
            if pool.name == name and pool.files:
                return {file.file: file.used_mib for file in pool.files}
    return {}
