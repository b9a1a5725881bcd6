"""Recoveries as they are shown: states, times, what was lost, and how that is graded."""

from __future__ import annotations

from typing import Any

import msgspec

from libs.common.messages import VmId
from proto import compute as c
from proto import io
from proto.io import EndKind, RecoveryEnded
from proto.recovery import RecoveryAgentHeard
from services.cli.recovery import HEADS, cells
from services.gateway.backup_alerts import said
from services.gateway.protection import Protected, report
from services.gateway.views.recoveries import KEPT_MAX, STOPPED_MAX, RecoveriesView, Recovery
from tests.contract.gateway_rig import defined
from tests.model.protected_story import N1, A, B, Log, S, home, prepare, protected, recovery, runs, stopped


def begun(log: Log | None = None, **more: Any) -> tuple[Log, Recovery]:
    """a was stopped at 50 s, and is to be recovered at 100 s from b1-2 of 10 s."""
    log = log or protected()
    log.add("vm-a", stopped(), at_s=50, task="stop")
    log.backups(recovery(lose="a", **more), at_s=100)
    return log, next(iter(log.model.recoveries.all.values()))


def test_the_way_of_a_recovery_with_its_figures() -> None:
    log, one = begun()
    assert (one.state, one.source, one.target, one.backup, one.requested_us) == ("preparing", "a", "a", "b1-2", 100 * S)
    assert (one.lost_from_us, one.rpo_s) == (50 * S, 40.0), "it wrote until it was stopped"
    prepare(log)
    assert (one.state, one.prepared_us, one.disks_us) == ("preparing", 100_100_000, 100_200_000)
    assert log.model.recoveries.of_target("a") is one
    runs(log)
    assert (one.state, one.node, one.placed_us, one.started_us, one.first_ms) == ("on-backup", "n1", 100_500_000, 101_500_000, 1500)
    home(log, at_s=160)
    assert (one.state, one.independent_us, one.home_s, one.ended_us) == ("independent", 160 * S, 60.0, 161 * S)
    assert log.model.recoveries.open == {} and one.project == "red"


def test_what_ran_on_loses_what_it_wrote_until_the_order() -> None:
    log = protected()
    log.backups(recovery(target=B), at_s=100)
    (one,) = log.model.recoveries.all.values()
    assert (one.lost_from_us, one.rpo_s) == (100 * S, 90.0)
    log = protected()
    log.backups(recovery(target=B, taken_s=200), at_s=100)
    assert next(iter(log.model.recoveries.all.values())).rpo_s == 0.0, "clocks differ"


def test_what_started_after_it_was_stopped_wrote_on() -> None:
    log = protected()
    log.add("vm-a", stopped(), at_s=50)
    runs(log, at_s=60)
    log.backups(recovery(target=B), at_s=100)
    assert next(iter(log.model.recoveries.all.values())).rpo_s == 90.0


def test_one_waits_while_its_start_fails_and_goes_on_where_it_was() -> None:
    log, one = begun()
    prepare(log)
    log.add("vm-a", c.VmStartFailed(vm=A, node=N1, generation=2, sentence="no node has 256 MiB left"), at_s=102)
    assert (one.state, one.sentence) == ("waiting", "no node has 256 MiB left")
    (alert,) = said(log.model.backups, [one], lambda project: True)
    assert (alert.kind, alert.object, alert.since_us) == ("recovery-waits", "vm/a", 102 * S)
    assert list(said(log.model.backups, [one], lambda project: False)) == []
    runs(log, at_s=110, generation=3)
    assert (one.state, one.sentence, one.first_ms) == ("on-backup", "", 10_000)
    assert list(said(log.model.backups, [one], lambda project: True)) == []


def test_one_waits_where_its_start_is_refused_and_not_while_another_node_is_asked() -> None:
    log, one = begun()
    prepare(log)
    log.add("vm-a", c.VmStartFailed(vm=A, node=N1, generation=2, sentence="its disk is held", again=True), at_s=101)
    assert one.state == "preparing"
    waits = c.VmRecoveryWaits(vm=A, source=A, recovery=one.id, sentence="no node fits", remedy="free 1 vCPU")
    log.add("vm-a", waits, at_s=102)
    assert (one.state, one.sentence) == ("waiting", "no node fits")
    runs(log, at_s=110, generation=3)
    assert (one.state, one.sentence) == ("on-backup", "")


def test_when_its_guests_agent_answered_is_told_also_once_its_data_is_home() -> None:
    log, one = begun()
    prepare(log)
    runs(log)
    log.backups(RecoveryEnded(vm=A, target=A, recovery=one.id, end=EndKind.INDEPENDENT), at_s=105)
    log.backups(RecoveryAgentHeard(vm=A, target=A, recovery=one.id, generation=2, after_ms=6500), at_s=106.5)
    assert (one.state, one.agent_ms, rows(log, 120)["a"].agent_ms) == ("independent", 6500, 6500)
    assert "6.5 s" in cells(msgspec.to_builtins(rows(log, 120)["a"]))[HEADS.index("AGENT AFTER")]


def test_a_vm_that_ends_while_it_comes_home_keeps_its_first_figures() -> None:
    log, one = begun()
    prepare(log)
    runs(log)
    log.add("vm-a", c.VmStopped(vm=A, node=N1, generation=2, cause=c.GoneCause.CRASHED, sentence="its node was lost"), at_s=105)
    assert (one.state, one.sentence) == ("stopped", "its node was lost")
    runs(log, at_s=109, generation=3)
    assert (one.state, one.starts, one.first_ms) == ("on-backup", 2, 1500)


def test_what_is_not_to_be_started_is_prepared_until_somebody_does() -> None:
    log, one = begun(start=False)
    prepare(log, start=False)
    assert (one.state, one.first_ms) == ("prepared", None)
    runs(log, at_s=200)
    assert (one.state, one.first_ms) == ("on-backup", 100_000)


def test_refusals_on_the_way_end_it() -> None:
    log, one = begun()
    log.add("vm-a", c.VmRecoveryRefused(vm=A, source=A, recovery="r1-9", sentence="it runs"), at_s=101)
    assert (one.state, one.sentence) == ("refused", "it runs")
    log.backups(io.RecoveryEnded(vm=A, target=A, recovery="r1-9", end=io.EndKind.REFUSED), at_s=102)
    assert (one.state, one.sentence, one.ended_us) == ("refused", "it runs", 102 * S)
    log, one = begun()
    log.add("devices-a", io.DisksNotRecovered(vm=A, source=A, recovery="r1-9", sentence="the pool is away"))
    assert (one.state, one.sentence) == ("refused", "the pool is away")


def test_a_second_one_that_is_refused_leaves_the_first_alone() -> None:
    log, one = begun()
    prepare(log)
    log.backups(recovery("r1-11"), at_s=101)
    log.add("vm-a", c.VmRecoveryRefused(vm=A, source=A, recovery="r1-11", sentence="it is being recovered"))
    log.backups(io.RecoveryEnded(vm=A, target=A, recovery="r1-11", end=io.EndKind.REFUSED))
    runs(log, at_s=103)
    home(log)
    assert [each.state for each in log.model.recoveries.all.values()] == ["independent", "refused"] and one.first_ms == 3000


def test_one_under_another_name_follows_that_name() -> None:
    log = protected()
    log.backups(recovery(target=B), at_s=100)
    log.add("vm-b", defined("b"), at_s=100.05, command="react")
    prepare(log, B)
    runs(log, B, generation=1)
    (one,) = log.model.recoveries.all.values()
    assert (one.state, one.target, log.model.vms.all["b"].state) == ("on-backup", "b", "running")
    log.add("vm-b", stopped(B), c.VmDeleted(vm=B))
    log.backups(io.RecoveryEnded(vm=A, target=B, recovery="r1-9", end=io.EndKind.GONE, sentence="b was deleted"))
    assert (one.state, one.sentence) == ("gone", "b was deleted") and log.model.recoveries.open == {}


def test_the_newest_thousand_are_kept_and_those_that_go_on_longest() -> None:
    log = Log()
    log.backups(recovery("r1-1"))
    for n in range(2, KEPT_MAX + 3):
        log.backups(recovery(f"r1-{n}", target=VmId(f"t{n}")))
        log.backups(io.RecoveryEnded(vm=A, target=VmId(f"t{n}"), recovery=f"r1-{n}", end=io.EndKind.REFUSED))
    kept = list(log.model.recoveries.all)
    assert len(kept) == KEPT_MAX and kept[0] == "a.r1-1" and kept[1] == "a.r1-4"


def test_what_is_remembered_of_ends_is_bounded() -> None:
    view, log = RecoveriesView(), Log()
    log.add("vm-a", stopped(), at_s=1)
    view.ended = {f"v{n}": 1 for n in range(STOPPED_MAX)}
    view.apply(log.rows[-1], stopped())
    assert len(view.ended) == STOPPED_MAX and "v0" not in view.ended and view.ended["a"] == S


def test_by_its_id_alone_where_that_is_enough() -> None:
    log, one = begun()
    assert log.model.recoveries.find("r1-9") == log.model.recoveries.find("a.r1-9") == [one]
    assert log.model.recoveries.find("b.r1-9") == []


def test_its_task_goes_on_into_the_start_and_ends_when_it_runs() -> None:
    log = protected()
    log.backups(recovery(target=B), at_s=100)
    log.add("vm-b", defined("b"), at_s=100, command="react")
    task = log.model.tasks.all["t.b"] if "t.b" in log.model.tasks.all else log.model.tasks.all["t"]
    prepare(log, B)
    assert (task.kind, task.object, task.state, task.awaits) == ("recover", "b", "running", "")
    runs(log, B, generation=1)
    assert (task.state, task.sentence) == ("done", "b runs on n1, on its backup; its data comes home meanwhile")
    assert [step.text for step in task.steps] == [
        "b1-2 of a is held for it", "defined as it was when it was backed up", "b is defined and stopped",
        "its disks stand on the backup of a", "placed on n1", "b runs on n1, on its backup; its data comes home meanwhile",
    ]  # fmt: skip
    home(log, B)
    assert task.state == "done" and "recover:b" not in log.model.tasks.open


def test_its_task_says_why_it_does_not_run() -> None:
    log = protected()
    log.backups(recovery(), at_s=100, task="r")
    log.add("vm-a", c.VmRecoveryRefused(vm=A, source=A, recovery="r1-9", sentence="it runs"))
    log.backups(io.RecoveryEnded(vm=A, target=A, recovery="r1-9", end=io.EndKind.REFUSED, sentence="it runs"))
    task = log.model.tasks.all["r"]
    assert (task.state, task.sentence) == ("failed", "it runs")
    log.backups(recovery("r1-12", start=False), at_s=100, task="q")
    prepare(log, id="r1-12", start=False)
    task = log.model.tasks.all["q"]
    assert task.state == "done" and task.sentence.endswith("it was not to be started (asvctl vm start a)")


def _report(log: Log, now_s: float) -> list[Protected]:
    every = log.model.recoveries.all.values()
    return report(log.model, every, lambda project: project == "red", int(now_s * S)).items


def rows(log: Log, now_s: float) -> dict[str, Protected]:
    return {one.vm: one for one in _report(log, now_s)}


def test_the_report_grades_against_what_is_promised() -> None:
    log = protected()
    assert (rows(log, 71)["a"].grade, rows(log, 71)["a"].exposed_s, rows(log, 71)["a"].newest) == ("untried", 60.0, "b1-4")
    log, one = begun(log)
    assert rows(log, 101)["a"].grade == "going on"
    assert (rows(log, 281)["a"].grade, rows(log, 281)["a"].said) == ("late", "it did not run within 180 s")
    prepare(log)
    runs(log)
    assert rows(log, 281)["a"].grade == "going on"
    assert rows(log, 1001)["a"].said == "not its own after 901 s"
    home(log)
    found = rows(log, 5000)["a"]
    assert (found.grade, found.first_ms, found.home_s, found.rpo_s, found.kind) == ("met", 1500, 60.0, 40.0, "recovery")
    one.home_s = 901.0
    assert (rows(log, 5000)["a"].grade, rows(log, 5000)["a"].said) == ("late", "it stood on its own after 901 s")
    one.state, one.sentence = "waiting", "no room"
    assert (rows(log, 5000)["a"].grade, rows(log, 5000)["a"].said) == ("waits", "no room")


def test_the_report_tells_of_deleted_vms_and_of_those_without_a_backup() -> None:
    log = protected()
    log.add("vm-c", defined("c"), task="c")
    log.add("vm-x", defined("x"), project="blue", task="x")
    log.add("vm-a", stopped(), c.VmDeleted(vm=A))
    found = rows(log, 100)
    assert {vm: (one.grade, one.exists) for vm, one in found.items()} == {"a": ("untried", False), "c": ("unprotected", True)}
    log.backups(io.BackupDamaged(vm=A, backup="b1-2", found={"b1-2": "gone"}))
    assert rows(log, 100)["a"].grade == "unprotected", "what stands on it is of no use"
