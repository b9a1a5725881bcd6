"""Waves through what compute and io decide upon one another's events: VMs that were lost run again, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from libs.common.messages import Event, NodeId, VmId
from proto.backups import BackupDamaged, BackupDeleteFailed, BackupDeleteRequested
from proto.compute import DeleteVm, NodeCordoned, Seen, StartVm, VmRecoveryPrepared, VmRecoveryWaits, VmStartRequested
from proto.devices import VmPhase
from proto.guard import Guard, GuardSet, Mode
from proto.hardware import standing
from proto.machine import Priority
from proto.recovery import EndKind, RecoverVm, RecoveryEnded, RecoveryRequested
from proto.waves import (
    AskWave,
    CancelWave,
    RecoverMany,
    WaveEnded,
    WavePlan,
    WaveRequested,
    WaveStepBegun,
    WaveStepDone,
    WaveStepFailed,
    WaveWish,
)
from services.compute.states import Launching, Running, Stopped
from services.io.waves.knowing import known, query
from tests.model.compute_story import report
from tests.model.waves_story import S, Waves


def lost(twice: bool = False) -> Waves:
    """web, db and mail ran on n3; it is silent now."""
    both = Waves(twice)
    both.backed_up("web")
    both.backed_up("db", Priority.CRITICAL, mib=9)
    both.backed_up("mail", Priority.IMPORTANT)
    both.ticks(60)
    return both


def ask(both: Waves, **wish: Any) -> WaveRequested:
    both.say(RecoverMany(wave="w", wish=WaveWish(**wish)))
    return both.of(WaveRequested)[-1]


def begun(both: Waves) -> list[str]:
    return [event.vm for event in both.of(WaveStepBegun)]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "each wish twice"])
def test_all_of_a_lost_node_run_again_the_critical_one_first(twice: bool) -> None:
    both = lost(twice)
    ask(both, node="n3", lose_count=3, at_once=1)
    assert begun(both) == ["db"] and both.launching() == ["db"]
    both.now_us += 2 * S
    both.runs("db")
    assert begun(both) == ["db", "mail"], "at once, not with the next tick"
    both.runs("mail")
    both.runs("web")
    (end,) = both.of(WaveEnded)
    assert (end.recovered, end.failed, end.unbegun, end.first_ms_max, end.took_s) == (3, 0, 0, 2000, 2.0)
    assert [event.first_ms for event in both.of(WaveStepDone)] == [2000, 0, 0]
    for name in ("db", "mail", "web"):
        assert isinstance(both.vm(name), Running) and both.vm(name).node in ("n1", "n2")
        both.home(name)
    assert [one.end for one in both.of(RecoveryEnded)] == [EndKind.INDEPENDENT] * 3
    assert len(both.of(RecoveryRequested)) == 3 and not both.io.waves.tracks and not both.io.waves.active


def test_what_is_there_and_well_is_left_alone() -> None:
    both = lost()
    both.heard("n3")
    both.say(StartVm(vm="web", node="n3"))
    both.runs("web")
    wish = WaveWish(all=True)
    left = {one.vm: one for one in plan(both, wish).left}
    assert "running" in left["web"].sentence and "its disks are there" in left["db"].sentence and all(o.well for o in left.values())
    both.say(RecoverMany(wave="w", wish=wish))
    assert not both.of(WaveRequested) and "can or needs to be recovered" in both.refused[-1][1]


def test_what_became_of_one_on_a_silent_node_is_not_known() -> None:
    both = lost()
    both.heard("n3")
    both.say(StartVm(vm="web", node="n3"))
    both.runs("web")
    both.ticks(60)
    (web,) = [one for one in plan(both, WaveWish(node="n3")).left if one.vm == "web"]
    assert "is not known" in web.sentence and "asvctl ha confirm-off n3" in web.sentence and not web.well
    assert [step.vm for step in plan(both, WaveWish(node="n3")).steps] == ["db", "mail"]


def plan(both: Waves, wish: WaveWish) -> WavePlan:
    return query("wave", msgspec.msgpack.encode(AskWave(wish=wish)), {}, both.io)


def test_a_look_ahead_says_what_would_be_and_why_it_would_be_refused() -> None:
    both = lost()
    found = plan(both, WaveWish(node="n3"))
    assert [step.vm for step in found.steps] == ["db", "mail", "web"] and found.lose == ("db", "mail", "web")
    assert "would be thrown away: db, mail, web" in found.refused and "--lose 3" in found.remedy
    assert plan(both, WaveWish(node="n3", lose=("db", "mail", "web"))).refused == ""
    assert "webb" in plan(both, WaveWish(vms=("webb",))).refused
    with pytest.raises(KeyError):
        query("waves", b"", {}, both.io)


def test_a_deleted_vm_is_made_anew_only_where_it_is_named() -> None:
    both = lost()
    both.deleted("web")
    event = ask(both, all=True, lose_count=2)
    assert [step.vm for step in event.steps] == ["db", "mail"]
    both.say(CancelWave(wave="w"))
    both.runs("db")
    both.runs("mail")
    both.say(RecoverMany(wave="v", wish=WaveWish(vms=("web",))))
    both.runs("web")
    assert both.of(WaveEnded)[-1].wave == "v" and isinstance(both.vm("web"), Running)


def test_each_comes_from_its_newest_sound_backup_that_is_not_after_the_moment() -> None:
    both = lost()
    newer = both.backed_up("db", Priority.CRITICAL, at_us=both.now_us)
    assert [one.backup for one in known(WaveWish(vms=("db",)), both.io, both.now_us).candidates] == [newer]
    (early,) = known(WaveWish(vms=("db",), at_us=both.now_us - S), both.io, both.now_us).candidates
    assert (early.backup, early.damaged, early.mib) == ("b1-1", "", 9)
    both.tell(BackupDamaged(vm=VmId("db"), backup=newer, found={newer: "it is damaged"}))
    (one,) = known(WaveWish(vms=("db",)), both.io, both.now_us).candidates
    assert (one.backup, one.damaged, one.kept) == ("b1-1", newer, 2)
    (none,) = known(WaveWish(vms=("db",), at_us=5), both.io, both.now_us).candidates
    assert (none.backup, none.kept) == ("", 2)


def test_guards_and_the_order_say_what_comes_before() -> None:
    both = lost()
    both.tell(GuardSet(vm=VmId("mail"), guard=Guard(mode=Mode.OFF, after=("web",))))
    event = ask(both, node="n3", lose_count=3)
    assert [step.vm for step in event.steps] == ["db", "web", "mail"] and begun(both) == ["db", "web"]
    both.runs("web")
    assert begun(both) == ["db", "web", "mail"]


def test_what_was_started_since_the_order_is_not_thrown_away() -> None:
    both = lost()
    ask(both, node="n3", lose_count=3, at_once=1)
    both.heard("n3")
    both.say(StartVm(vm="web", node="n3"))
    both.runs("web")
    both.ends("web")
    both.runs("db")
    both.runs("mail")
    failed = both.of(WaveStepFailed)
    assert [(one.vm, one.sentence) for one in failed] == [
        ("web", "it was started since the order, and what it wrote would be lost")
    ]
    assert isinstance(both.vm("web"), Stopped) and not any(map(standing, both.devices("web").disks))
    assert not any(isinstance(one, RecoveryRequested) and one.vm == "web" for one in both.said)


def test_one_that_is_being_recovered_already_is_left_to_that() -> None:
    both = lost()
    both.say(RecoverVm(vm="web", target="web", lose="web", start=False))
    event = ask(both, node="n3", lose_count=2)
    assert {one.vm: one.sentence for one in event.left}["web"].startswith("it is being recovered from b1-1 already")


def deleting(both: Waves, event: BackupDeleteRequested | BackupDeleteFailed) -> None:
    both.events["backups-web"].append(event)
    both.tell(event)


def test_a_recovery_that_was_refused_is_asked_for_again_in_a_while() -> None:
    both = lost()
    deleting(both, BackupDeleteRequested(vm=VmId("web"), backup="b1-1", node=NodeId("n1")))
    ask(both, vms=("web",), lose=("web",))
    assert [said for _, said in both.refused] == ["the backup b1-1 of web is being deleted"]
    both.ticks(9)
    assert [event.attempt for event in both.of(WaveStepBegun)] == [1]
    deleting(both, BackupDeleteFailed(vm=VmId("web"), backup="b1-1", sentence="its pool is full"))
    both.ticks(1)
    assert [event.attempt for event in both.of(WaveStepBegun)] == [1, 2]
    both.runs("web")
    assert both.of(WaveEnded)[-1].recovered == 1


def test_a_recovery_that_is_refused_each_time_is_given_up() -> None:
    both = lost()
    deleting(both, BackupDeleteRequested(vm=VmId("web"), backup="b1-1", node=NodeId("n1")))
    ask(both, vms=("web",), lose=("web",))
    for _ in range(3):
        both.ticks(10)
    assert len(both.refused) == 3 and not both.of(RecoveryRequested)
    (end,) = both.of(WaveEnded)
    assert (end.recovered, end.failed) == (0, 1) and "asked for 3 times" in both.of(WaveStepFailed)[0].sentence


def test_two_waves_do_not_recover_the_same_vm() -> None:
    both = lost()
    ask(both, vms=("db",), lose=("db",))
    both.say(RecoverMany(wave="v", wish=WaveWish(vms=("db", "mail", "web"), lose_count=2)))
    event = both.of(WaveRequested)[-1]
    assert [step.vm for step in event.steps] == ["mail", "web"]
    assert [(one.vm, one.sentence) for one in event.left] == [("db", "it is being recovered from b1-1 already (r1-3)")]
    both.say(RecoverMany(wave="u", wish=WaveWish(vms=("web",), lose_count=1)))
    assert "already" in both.refused[-1][1] and len(both.of(WaveRequested)) == 2
    both.runs("db")
    assert isinstance(both.of(WaveEnded)[0], WaveEnded) and both.of(WaveEnded)[0].wave == "w"


def test_a_service_that_heard_nothing_for_a_while_goes_on_by_its_own_view() -> None:
    """Each step's recovery is held by its backup: asked for once more, it is refused, and nothing begins twice."""
    both = lost()
    ask(both, node="n3", lose_count=3)
    both.ticks(11)
    both.ticks(11)
    assert sorted(begun(both)) == ["db", "mail", "web"]
    again = WaveStepBegun(wave="w", vm="db", backup="b1-1", attempt=2, at_us=both.now_us, place=1, of=3, lose=True)
    before = len(both.of(RecoveryRequested))
    both.tell(again)
    assert len(both.of(RecoveryRequested)) == before


def test_a_start_that_fails_ends_the_step_and_the_next_begins() -> None:
    both = lost()
    ask(both, node="n3", lose_count=3, at_once=1)
    while isinstance(state := both.vm("db"), Launching):
        both.say(replace(report(Seen.GONE, state.generation, state.node, sentence="QEMU ended"), vm="db"))
    (failed,) = both.of(WaveStepFailed)
    assert failed.vm == "db" and "QEMU ended" in failed.sentence and begun(both) == ["db", "mail"]


def test_a_start_that_is_tried_elsewhere_has_not_failed() -> None:
    both = lost()
    ask(both, node="n3", lose_count=3, at_once=1)
    first = both.vm("db")
    assert isinstance(first, Launching)
    both.say(replace(report(Seen.GONE, first.generation, first.node, sentence="QEMU ended"), vm="db"))
    second = both.vm("db")
    assert isinstance(second, Launching) and second.node != first.node
    both.ticks(1)
    assert not both.of(WaveStepFailed) and begun(both) == ["db"], "its place is still its own"
    both.runs("db")
    assert [event.vm for event in both.of(WaveStepDone)] == ["db"] and begun(both) == ["db", "mail"]


def test_a_start_that_is_refused_holds_up_nobody() -> None:
    """Not even for the time that a start may take; and who comes after it is not waited for."""
    both = lost()
    both.tell(GuardSet(vm=VmId("mail"), guard=Guard(mode=Mode.OFF, after=("db",))))
    for node in ("n1", "n2"):
        both.tell(NodeCordoned(node=NodeId(node)))
    ask(both, node="n3", lose_count=3, at_once=1)
    waits = both.of(VmRecoveryWaits)
    assert [event.vm for event in waits] == ["db", "web"] and all("cordoned" in event.sentence for event in waits)
    failed = {event.vm: event.sentence for event in both.of(WaveStepFailed)}
    assert failed == {
        "db": waits[0].sentence, "web": waits[1].sentence, "mail": "it comes after db, which was not recovered",
    }  # fmt: skip
    (end,) = both.of(WaveEnded)
    assert (end.recovered, end.failed, end.unbegun) == (0, 3, 0)
    assert any(map(standing, both.devices("db").disks)), "its recovery goes on: once there is room, it is started by hand"


def test_events_of_a_story_are_told_in_order() -> None:
    both = lost()
    ask(both, vms=("db",), lose=("db",))
    both.runs("db")
    kinds: list[type[Event]] = [WaveRequested, WaveStepBegun, RecoveryRequested, VmRecoveryPrepared, WaveStepDone, WaveEnded]
    assert [type(event) for event in both.said if type(event) in kinds] == kinds
    assert both.io.vms["db"].phase is VmPhase.RUNNING
    both.say(DeleteVm(vm="db"))
    assert [type(event) for event in both.said].count(VmStartRequested) == 4
