"""What people do with backups meanwhile, what guests write, and backups that rot.

A backup is named by how old it is (`age`: 0 is the newest of its VM that the log knows), as nobody knows its name before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from libs.common.messages import Command
from libs.world.befall.kind import Kind, Way
from libs.world.story import Step
from proto.io import CancelBackup, DeleteBackup, RecoverVm, TakeBackup, VerifyBackup

if TYPE_CHECKING:
    from libs.world.world import World


def _ask(make: Callable[[World, Step], Command | None]) -> Way:
    def way(world: World, step: Step) -> None:
        if (command := make(world, step)) is not None:
            world.ask("io", f"backups-{step.who}", command)

    return way


def _named(world: World, step: Step) -> str:
    """empty: there is none so old."""
    there, age = list(world.checker.backups.parents.get(step.who, ())), int(step.more.get("age", 0))
    return there[-1 - age] if age < len(there) else ""


def _take(world: World, step: Step) -> Command:
    return TakeBackup(
        vm=step.who, pool=str(step.more.get("pool", "default")), full=bool(step.more.get("full", False)),
        key=KEY if step.more.get("encrypt", False) else "",
    )  # fmt: skip


def _cancel(world: World, step: Step) -> Command | None:
    id = world.checker.backups.asked.get(step.who, "")
    return CancelBackup(vm=step.who, backup=id) if id else None


def _delete(world: World, step: Step) -> Command | None:
    id = _named(world, step)
    return DeleteBackup(vm=step.who, backup=id) if id else None


def _verify(world: World, step: Step) -> Command | None:
    id = _named(world, step)
    return VerifyBackup(vm=step.who, backup=id) if id else None


def _recover(world: World, step: Step) -> Command:
    """In place, unless `beside` names another."""
    beside = str(step.more.get("beside", ""))
    lose = "" if beside else step.who
    backup = _named(world, step) if "age" in step.more else ""
    return RecoverVm(vm=step.who, target=beside or step.who, lose=lose, backup=backup)


def _rot(world: World, step: Step) -> None:
    """A byte of it is not what it was, and nobody knows."""
    for pool in {pool.id: pool for pool in world.pools.values()}.values():
        of = [key for key in pool.backups if key.split("/")[1] == step.who]
        if (age := int(step.more.get("age", 0))) < len(of):
            pool.rotten.add(of[-1 - age])


def _keys(there: bool) -> Way:
    """A node is given the key of backups, or lets it go; it says so, as after each change."""

    def way(world: World, step: Step) -> None:
        node = world.agents[step.who]
        (node.host.keys.add if there else node.host.keys.discard)(KEY)
        if node.agent is not None:
            node.greet()

    return way


def _write(world: World, step: Step) -> None:
    """The guest writes to all its disks, and each write is acknowledged at once. One that stands still writes nothing, nor one that
    is being sent, as a simulated guest is sent with what it had by then."""
    for node in world.agents.values():
        vm, pool = node.host.vms.get(step.who), node.host.pool
        if vm is None or vm.starting or vm.status != "running" or vm.sent_to or vm.halted or node.host.frozen:
            continue
        if vm.hung_us or vm.idle or not pool.room(vm.spec):
            continue
        for disk in (disk for disk in vm.spec.disks if not disk.bus.is_cd):
            key, what = pool.keys(disk)[0], f"+{world.net.now_us - world.start_us}"
            pool.disks[key] += what
            world.checker.backups.wrote(pool, key, what)
            if (step.who, disk.name) in pool.known:
                pool.known[step.who, disk.name] += what
        world.checker.touched = True


KEY = "main-0123456789abcdef"
"""by which backups of a world are encrypted, where they are"""
KINDS: dict[str, Kind] = {
    "backup": Kind("vm", "people", _ask(_take), None, ("pool", "full", "encrypt")),
    "backup_key": Kind("node", "people", _keys(True), _keys(False)),
    "backup_cancel": Kind("vm", "people", _ask(_cancel)),
    "backup_delete": Kind("vm", "people", _ask(_delete), None, ("age",)),
    "backup_verify": Kind("vm", "people", _ask(_verify), None, ("age",)),
    "recover": Kind("vm", "people", _ask(_recover), None, ("beside", "age")),
    "backup_rot": Kind("vm", "storage", _rot, None, ("age",)),
    "guest_write": Kind("vm", "people", _write),
}
