"""The catalogue of backups, and what is told of it, from events alone."""

from __future__ import annotations

import msgspec

from proto import compute as c
from proto import io
from proto.node import CopyNow
from services.gateway.backup_alerts import said
from services.gateway.copies import BACKUP, progress
from services.gateway.scopes import CLUSTER
from services.gateway.tasks import Task
from tests.model.protected_story import (
    N1,
    A,
    Log,
    S,
    chain,
    prepare,
    protected,
    recovery,
    requested,
    saved,
    stopped,
    taken,
)


def everyone(project: str) -> bool:
    return True


def alerts(log: Log) -> dict[str, str]:
    return {one.kind: one.sentence for one in said(log.model.backups, log.model.recoveries.all.values(), everyone)}


def test_one_that_is_taken_has_all_that_was_said_of_it() -> None:
    log = Log()
    log.backups(requested("b1-1", description="before the upgrade", plan="nightly", compress=True), at_s=10, task="t9")
    (one,) = log.model.backups.of("a")
    assert (one.state, one.kind, one.asked_us, one.taken_us, one.guest_mib, one.sound) == ("taking", "full", 10 * S, 0, 1024, False)
    log.backups(taken("b1-1", at_s=10.2, sentence="the guest's agent is an old one"), at_s=11)
    assert (one.state, one.taken_us, one.bytes, one.consistency, one.frozen_ms) == ("taken", 10_200_000, 1 << 20, "filesystem", 12)
    assert (one.took_ms, one.copied_mib, one.pool, one.project, one.task) == (340, 100, "safe", "red", "t9")
    assert (one.description, one.plan, one.note) == ("before the upgrade", "nightly", "the guest's agent is an old one")
    assert one.disks[0].file == "a-disk0.b1-1.qcow2" and one.sound and log.model.backups.newest("a") is one


def test_one_that_was_to_be_incremental_is_what_it_became() -> None:
    log = Log()
    chain(log, "b1-1")
    log.backups(requested("b1-3", "b1-1"), at_s=20)
    assert [(one.kind, one.parent) for one in log.model.backups.of("a")] == [("full", ""), ("incremental", "b1-1")]
    log.backups(taken("b1-3", "", at_s=20, sentence="full, as the bitmap was lost"), at_s=21)
    one = log.model.backups.of("a")[1]
    assert (one.kind, one.parent, one.note) == ("full", "", "full, as the bitmap was lost")


def test_a_failure_is_told_until_one_is_taken_and_a_cancelled_one_is_none() -> None:
    log = Log()
    log.backups(requested("b1-1"), io.BackupFailed(vm=A, backup="b1-1", sentence="no room in safe"), at_s=10)
    assert log.states() == {} and alerts(log) == {"backup-failed": "the latest backup of a, b1-1, was not taken: no room in safe"}
    chain(log, "b1-3")
    assert alerts(log) == {}
    log.backups(requested("b1-5"), io.BackupCancelRequested(vm=A, backup="b1-5"))
    assert log.model.backups.of("a")[1].note == "it is being given up"
    log.backups(io.BackupFailed(vm=A, backup="b1-5", sentence="given up"))
    assert log.states() == {"b1-3": "taken"} and alerts(log) == {}


def test_damage_makes_those_above_useless_and_a_reading_that_finds_none_lifts_it() -> None:
    log = Log()
    chain(log, "b1-2", "b1-4", "b1-6")
    log.backups(io.BackupVerifyRequested(vm=A, backup="b1-6", node=N1), at_s=20)
    assert log.states()["b1-6"] == "verifying"
    log.backups(io.BackupDamaged(vm=A, backup="b1-6", found={"b1-4": "disk0 differs from its digest"}), at_s=21)
    assert log.states() == {"b1-2": "taken", "b1-4": "damaged", "b1-6": "taken"}
    below, middle, top = log.model.backups.of("a")
    assert (below.sound, middle.sound, top.sound, top.unsound, middle.damaged_us) == (True, False, False, "b1-4", 21 * S)
    assert log.model.backups.newest("a") is below
    assert "of no use with it: b1-6" in alerts(log)["backup-damaged"]
    log.backups(io.BackupVerifyRequested(vm=A, backup="b1-6", node=N1), at_s=30)
    log.backups(io.BackupVerified(vm=A, backup="b1-6", read_mib=3, took_ms=5), at_s=31)
    assert log.states() == {"b1-2": "taken", "b1-4": "taken", "b1-6": "taken"} and alerts(log) == {}
    assert [one.verified_us for one in (below, middle, top)] == [31 * S] * 3 and log.model.backups.newest("a") is top


def test_what_was_read_and_is_not_among_the_damage_is_sound() -> None:
    log = Log()
    chain(log, "b1-2", "b1-4")
    log.backups(io.BackupDamaged(vm=A, backup="b1-4", found={"b1-2": "cut short", "b1-4": "cut short"}))
    log.backups(io.BackupDamaged(vm=A, backup="b1-4", found={"b1-2": "cut short"}))
    assert log.states() == {"b1-2": "damaged", "b1-4": "taken"} and log.model.backups.of("a")[1].unsound == "b1-2"


def test_a_reading_that_is_given_up_leaves_it_as_it_was() -> None:
    log = Log()
    chain(log, "b1-2")
    log.backups(io.BackupVerifyRequested(vm=A, backup="b1-2", node=N1), task="v")
    log.backups(io.BackupCancelRequested(vm=A, backup="b1-2"), task="w")
    (one,) = log.model.backups.of("a")
    assert (one.state, one.verified_us, one.cancelled, one.note) == ("taken", 0, False, "")
    assert [(task(log, id).kind, task(log, id).state) for id in "vw"] == [("verify-backup", "failed"), ("cancel-backup", "done")]


def test_damage_that_is_found_as_a_file_is_opened_needs_no_reading() -> None:
    log = Log()
    chain(log, "b1-2")
    log.backups(io.BackupDamaged(vm=A, backup="b1-2", found={"b1-2": "its file is missing"}))
    assert log.states() == {"b1-2": "damaged"} and log.model.backups.newest("a") is None


def test_heirs_of_a_deleted_one_stand_on_what_it_stood_on() -> None:
    log = Log()
    chain(log, "b1-2", "b1-4", "b1-6")
    log.backups(io.BackupDeleteRequested(vm=A, backup="b1-2", node=N1, heirs=("b1-4",)))
    assert log.states()["b1-2"] == "deleting" and not log.model.backups.of("a")[0].sound
    log.backups(io.BackupDeleted(vm=A, backup="b1-2", heirs={"b1-4": (saved("b1-4.anew", 3 << 20),)}))
    assert [(o.id, o.parent, o.kind) for o in log.model.backups.of("a")] == [("b1-4", "", "full"), ("b1-6", "b1-4", "incremental")]
    heir = log.model.backups.of("a")[0]
    assert (heir.bytes, heir.disks[0].file) == (3 << 20, "a-disk0.b1-4.anew.qcow2")


def test_heirs_of_a_damaged_one_that_is_gone_are_judged_anew() -> None:
    log = Log()
    chain(log, "b1-2", "b1-4")
    log.backups(io.BackupDamaged(vm=A, backup="b1-2", found={"b1-2": "its file is missing"}))
    assert log.model.backups.of("a")[1].unsound == "b1-2"
    log.backups(io.BackupDeleteRequested(vm=A, backup="b1-2", node=N1), io.BackupDeleted(vm=A, backup="b1-2"))
    assert log.model.backups.of("a")[0].unsound == ""


def test_one_that_could_not_be_deleted_is_there_and_says_why() -> None:
    log = Log()
    chain(log, "b1-2")
    log.backups(io.BackupDeleteRequested(vm=A, backup="b1-2", node=N1))
    log.backups(io.BackupDeleteFailed(vm=A, backup="b1-2", sentence="the pool is away"))
    (one,) = log.model.backups.of("a")
    assert (one.state, one.note, one.sound) == ("taken", "the pool is away", True)


def test_a_recovery_holds_it_and_all_that_it_stands_on_until_it_is_over() -> None:
    log = Log()
    chain(log, "b1-2", "b1-4", "b1-6")
    log.backups(recovery("r1-7", backup="b1-4"), at_s=100)
    assert [one.held_by for one in log.model.backups.of("a")] == [["r1-7"], ["r1-7"], []]
    log.backups(io.RecoveryEnded(vm=A, target=A, recovery="r1-7", end=io.EndKind.REFUSED, sentence="it runs"))
    assert [one.held_by for one in log.model.backups.of("a")] == [[], [], []]


def test_the_catalogue_outlives_its_vm_and_stays_with_its_project() -> None:
    log = protected()
    log.add("vm-a", stopped(), c.VmDeleted(vm=A), at_s=50)
    assert log.states() == {"b1-2": "taken", "b1-4": "taken"} and "a" not in log.model.vms.all
    log.backups(io.BackupVerifyRequested(vm=A, backup="b1-2", node=N1))
    verify = log.rows[-1]
    assert log.model.scopes.project_of(verify, log.model.backups.of("a")[0]) == "red" != CLUSTER
    for id in ("b1-2", "b1-4"):
        log.backups(io.BackupDeleted(vm=A, backup=id))
    assert log.model.backups.all == {}


def test_progress_adds_up_and_forecasts_where_something_moves() -> None:
    copies = (
        CopyNow(vm="a", what="backup", name="b1-2", done_mib=100, all_mib=400, mibps=50.0),
        CopyNow(vm="a", what="backup", name="b1-2", done_mib=100, all_mib=400, mibps=50.0),
        CopyNow(vm="a", what="home", name="disk0", done_mib=1, all_mib=2, mibps=1.0),
        CopyNow(vm="b", what="backup", name="b1-2", done_mib=7, all_mib=8, mibps=1.0),
    )
    far = progress(copies, "a", BACKUP, 1000 * S, "b1-2")
    assert far is not None
    assert (far.done_mib, far.all_mib, far.percent, far.mibps, far.left_s, far.end_us) == (200, 800, 25.0, 100.0, 6.0, 1006 * S)
    assert progress(copies, "a", BACKUP, 0, "b1-4") is None
    still = progress((CopyNow(vm="a", what="backup", name="b1-2", done_mib=0, all_mib=0),), "a", BACKUP, 5)
    assert still is not None and (still.percent, still.left_s, still.end_us) == (100.0, None, 0)


def task(log: Log, id: str = "t") -> Task:
    return log.model.tasks.all[id]


def test_the_story_of_taking_one() -> None:
    log = Log()
    log.backups(requested("b1-1"))
    assert (task(log).kind, task(log).object, task(log).state, task(log).project) == ("take-backup", "a/b1-1", "running", "red")
    log.backups(taken("b1-1"), task="seen")
    assert (task(log).state, task(log).sentence) == ("done", "b1-1 of a is taken (full, filesystem): 100 MiB read in 340 ms")


def test_the_stories_of_giving_up_and_of_what_was_too_late() -> None:
    log = Log()
    log.backups(requested("b1-1"))
    log.backups(io.BackupCancelRequested(vm=A, backup="b1-1"), task="u")
    log.backups(io.BackupFailed(vm=A, backup="b1-1", sentence="given up"))
    assert [(task(log, id).kind, task(log, id).state) for id in "tu"] == [("take-backup", "failed"), ("cancel-backup", "done")]
    log.backups(requested("b1-4"), task="v")
    log.backups(io.BackupCancelRequested(vm=A, backup="b1-4"), task="w")
    log.backups(taken("b1-4"))
    assert [(task(log, id).state, task(log, id).sentence[:20]) for id in "vw"] == [
        ("done", "b1-4 of a is taken ("), ("failed", "b1-4 was taken alrea"),
    ]  # fmt: skip


def test_the_stories_of_verifying_and_deleting() -> None:
    log = Log()
    chain(log, "b1-1")
    log.backups(io.BackupVerifyRequested(vm=A, backup="b1-1", node=N1), task="v")
    log.backups(io.BackupDamaged(vm=A, backup="b1-1", found={"b1-1": "disk0 is cut short"}))
    assert (task(log, "v").state, task(log, "v").sentence) == ("failed", "damaged: b1-1: disk0 is cut short")
    log.backups(io.BackupVerifyRequested(vm=A, backup="b1-1", node=N1), task="w")
    log.backups(io.BackupVerified(vm=A, backup="b1-1", read_mib=3, took_ms=5))
    assert (task(log, "w").state, task(log, "w").sentence) == ("done", "b1-1 of a is what was written (3 MiB read in 5 ms)")
    log.backups(io.BackupDeleteRequested(vm=A, backup="b1-1", node=N1), task="x")
    log.backups(io.BackupDeleteFailed(vm=A, backup="b1-1", sentence="the pool is away"))
    assert (task(log, "x").kind, task(log, "x").state) == ("delete-backup", "failed")
    log.backups(io.BackupDeleteRequested(vm=A, backup="b1-1", node=N1), task="y")
    log.backups(io.BackupDeleted(vm=A, backup="b1-1"))
    assert (task(log, "y").state, task(log, "y").sentence) == ("done", "b1-1 of a is gone")


def test_the_view_is_the_same_after_a_snapshot_of_it() -> None:
    log = protected()
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(log.model.backups), type=type(log.model.backups))
    assert kept == log.model.backups
    log.backups(recovery(backup="b1-2"), at_s=100)
    prepare(log)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(log.model.recoveries), type=type(log.model.recoveries))
    assert again == log.model.recoveries and again.of_target("a") is not None
