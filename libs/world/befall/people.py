"""What people do meanwhile: to VMs, to high availability, to the database; and the grantor's lock, which that may forget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from libs.common.messages import Command
from libs.world.befall.kind import Kind, Way
from libs.world.story import Step
from proto.compute import DefineVm, DeleteVm, PauseVm, ResetVm, ResumeVm, StartVm, StopVm
from proto.fence import FenceNode, PowerOnNode, TestFence
from proto.guard import Mode, SetGuard
from proto.lease import ArmHa, ConfirmOff, DisarmHa, SetHa
from proto.machine import DiskWish
from proto.migration import CancelMigration, MigrateVm
from proto.snapshots import TakeSnapshot

if TYPE_CHECKING:
    from libs.world.world import World


def _vm(make: Callable[[Step], Command]) -> Way:
    def way(world: World, step: Step) -> None:
        world.ask("compute", f"vm-{step.who}", make(step))

    return way


def _ha(stream: str, make: Callable[[Step], Command]) -> Way:
    def way(world: World, step: Step) -> None:
        if "ha" in world.services:
            world.ask("ha", stream + (step.who if stream.endswith("-") else ""), make(step))

    return way


def _whole(step: Step, name: str) -> int:
    return int(step.more.get(name, 0))


def _settings(step: Step) -> SetHa:
    return SetHa(**step.more)  # type: ignore[arg-type]


def _guard(step: Step) -> SetGuard:
    after = tuple(name for name in str(step.more.get("after", "")).split(",") if name)
    return SetGuard(vm=step.who, mode=Mode(str(step.more.get("mode", "auto"))), after=after)


def _confirm_off(world: World, step: Step) -> None:
    """Somebody goes there, looks, and says so where it is off indeed."""
    if "ha" in world.services and not world.agents[step.who].powered:
        world.ask("ha", f"lease-{step.who}", ConfirmOff(node=step.who, reason="somebody looked at it"))


def _restore(world: World, step: Step) -> None:
    """The database is lost, and a backup of `events` events ago is there instead."""
    lost = int(step.more.get("events", 20))
    world.restore(max(world.oldest, world.checker.position - lost))


def _lock_forgotten(world: World, step: Step) -> None:
    """The database drops the session of whoever grants, which does not hear of it before its next check."""
    world.paths.lock.holder = None


KINDS: dict[str, Kind] = {
    "define": Kind("vm", "people", _vm(lambda s: DefineVm(vm=s.who, memory_mib=512, disks=(DiskWish(image="tiny"),)))),
    "start": Kind("vm", "people", _vm(lambda s: StartVm(vm=s.who))),
    "stop": Kind("vm", "people", _vm(lambda s: StopVm(vm=s.who, deadline_s=_whole(s, "deadline_s"))), None, ("deadline_s",)),
    "pause": Kind("vm", "people", _vm(lambda s: PauseVm(vm=s.who)), _vm(lambda s: ResumeVm(vm=s.who))),
    "reset": Kind("vm", "people", _vm(lambda s: ResetVm(vm=s.who))),
    "delete": Kind("vm", "people", _vm(lambda s: DeleteVm(vm=s.who))),
    "snapshot": Kind("vm", "people", _vm(lambda s: TakeSnapshot(vm=s.who, name="s1"))),
    "migrate": Kind(
        "vm", "people", _vm(lambda s: MigrateVm(vm=s.who, node=str(s.more.get("to", "")), deadline_s=5)), None, ("to",)
    ),
    "cancel": Kind("vm", "people", _vm(lambda s: CancelMigration(vm=s.who))),
    "guard": Kind("vm", "people", _ha("guard-", _guard), None, ("mode", "after")),
    "ha_set": Kind("", "people", _ha("ha-main", _settings), None, SetHa.__struct_fields__),
    "ha_disarm": Kind("", "people", _ha("ha-main", lambda s: DisarmHa(reason="maintenance")), _ha("ha-main", lambda s: ArmHa())),
    "ha_arm": Kind("", "people", _ha("ha-main", lambda s: ArmHa())),
    "confirm_off": Kind("node", "people", _confirm_off),
    "fence_test": Kind("device", "people", _ha("fence-", lambda s: TestFence(node=s.who))),
    "fence_off": Kind("device", "people", _ha("fence-", lambda s: FenceNode(node=s.who, reason="somebody wants it off"))),
    "fence_on": Kind("device", "people", _ha("fence-", lambda s: PowerOnNode(node=s.who))),
    "restore": Kind("", "people", _restore, None, ("events",)),
    "lock_forgotten": Kind("", "process", _lock_forgotten),
}
