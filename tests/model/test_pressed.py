"""What compute does of the ladder's wishes, and that it lets go only of what was taken."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import Event, Meta, NodeId, Recorded, VmId, encode, tag_of
from proto.compute import GoneCause, PauseVm, ResumeVm, VmAllotted, VmPauseRequested, VmResumeRequested, VmStopped
from proto.ladder import HostSeen, LadderDescended, LadderStep, Level, Rung, VmMoveWanted, VmPauseWanted
from proto.machine import Allotment, Priority
from proto.migration import MigrateVm, VmMigrationEnded
from services.compute.app import SERVICE
from services.compute.pressed import OURS, Stilled, react

A, N1 = VmId("a"), NodeId("n1")
WISH: dict[str, Any] = {
    "node": N1, "vm": A, "generation": 1, "priority": Priority.BEST_EFFORT, "memory_mib": 512, "short_mib": 300,
    "sentence": "n1 is short of 300 MiB",
}  # fmt: skip
BACK = LadderDescended(
    node=N1, level=Level.AMPLE, seen=HostSeen(at_us=1, total_mib=4096, available_mib=3000), min_free_mib=100, spare_mib=900,
    steps=(
        LadderStep(rung=Rung.PAUSE, vm="a", generation=1, from_mib=0, to_mib=512),
        LadderStep(rung=Rung.BALLOON, vm="b", generation=1, from_mib=100, to_mib=200),
    ),
)  # fmt: skip
PAUSED = VmPauseRequested(vm=A, generation=1)


def row(event: Event, actor: str = OURS) -> Recorded:
    meta = encode(Meta("c", "", "t", actor, 0))
    return Recorded(1, "vm-a", 1, tag_of(type(event)), 1, 0, encode(event), meta)


def after(*events: tuple[Event, str]) -> Stilled:
    stilled = Stilled()
    for event, actor in events:
        stilled.apply(row(event, actor), event)
    return stilled


def test_a_wish_to_move_is_a_migration_with_its_reason() -> None:
    assert react(VmMoveWanted(**WISH), Stilled()) == [MigrateVm(vm="a", reason="n1 is short of 300 MiB")]


def test_a_wish_to_pause_is_a_pause_and_ends_with_the_pressure() -> None:
    assert react(VmPauseWanted(**WISH), Stilled()) == [PauseVm(vm="a", stilled=True)]
    assert react(BACK, after((PAUSED, OURS))) == [ResumeVm(vm="a")]


def test_what_was_stilled_goes_on_where_nobody_would_let_it() -> None:
    moved = VmMigrationEnded(vm=A, node=NodeId("n2"), generation=2)
    raised = VmAllotted(vm=A, priority=Priority.NORMAL, allotment=Allotment())
    for event in (moved, raised):
        assert react(event, after((PAUSED, OURS))) == [ResumeVm(vm="a")]
        assert not react(event, after((PAUSED, "user:ann"))) and not react(event, Stilled())
    assert not react(replace(raised, priority=Priority.BEST_EFFORT), after((PAUSED, OURS)))


def test_a_pause_of_somebody_else_stays() -> None:
    assert react(BACK, Stilled()) == []
    assert react(BACK, after((PAUSED, "user:ann"))) == []
    resumed = VmResumeRequested(vm=A, generation=1)
    assert react(BACK, after((PAUSED, OURS), (resumed, "user:ann"), (PAUSED, "user:ann"))) == []
    ended = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.CRASHED)
    assert react(BACK, after((PAUSED, OURS), (ended, "node:n1"))) == []


def test_the_service_hears_the_ladder() -> None:
    views = SERVICE.views()
    views.apply(row(PAUSED), PAUSED)
    assert SERVICE.react(BACK, row(BACK), views) == [ResumeVm(vm="a")]
    assert {LadderDescended, VmMoveWanted, VmPauseWanted} <= set(SERVICE.follows)
