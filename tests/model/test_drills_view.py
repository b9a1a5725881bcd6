"""Recovery drills as they are shown: states, figures, report, alerts, tasks, and what `why` says; and ha leaves them be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded, VmId
from proto import drills as d
from proto.compute import GoneCause, VmStopped
from proto.drills import Reason, Step, Went
from proto.families import FAMILIES
from proto.guard import OweVm
from services.gateway import drill_alerts
from services.gateway.protection import Protected, report
from services.gateway.views.drills import KEPT_MAX, Drill
from services.gateway.why.sentences import sentence
from services.ha.guard_react import react as guard_react
from services.ha.guard_views import GuardViews
from tests.model.compute_story import DEFINED
from tests.model.protected_story import A, Log, S, protected, recovery

T = VmId("drill-a-1-9")
WISH = d.Drill(check=("true",), timeout_s=60)
HOUR_S = 3600.0


def went(what: Went, ms: int, drill: str = "d1-8") -> d.DrillWent:
    return d.DrillWent(vm=A, drill=drill, target=T, went=what, after_ms=ms, node="n1", generation=1)


def drilled(log: Log, at_s: float = 100, drill: str = "d1-8", end: Any = None) -> Drill:
    """It waits 5 s for its turn, runs after 2 s, answers after 9, and passes after 10."""
    log.backups(d.DrillRequested(vm=A, drill=drill, wish=WISH, at_us=round(at_s * S)), at_s=at_s)
    one = log.model.drills.all["a"][-1]
    states = [str(one.state)]
    assert (one.check, one.project) == (("true",), "red")
    begun = d.DrillStarted(
        vm=A, drill=drill, target=T, recovery="r1-9", backup="b1-2", taken_us=10 * S, at_us=round((at_s + 5) * S)
    )
    log.backups(begun, recovery(target=T, start=False, isolated=True, drill=drill), at_s=at_s + 5)
    states.append(one.state)
    log.backups(went(Went.PREPARED, 10, drill), went(Went.DISKS, 20, drill), at_s=at_s + 5)
    states.append(one.state)
    log.backups(went(Went.PLACED, 100, drill), went(Went.RAN, 2000, drill), at_s=at_s + 7)
    assert [*states, one.state, one.node] == ["waiting", "recovering", "booting", "checking", "n1"]
    log.backups(went(Went.AGENT, 9000, drill), at_s=at_s + 14)
    done = d.DrillPassed(vm=A, drill=drill, after_ms=10_000, exit_code=0, output="x\nall is well\n\n")
    log.backups(end or done, at_s=at_s + 15)
    return one


def cleaned(log: Log, at_s: float, drill: str = "d1-8") -> None:
    log.backups(
        d.DrillCleanWanted(vm=A, drill=drill, target=T, step=Step.STOP, tries=0, until_us=0),
        d.DrillCleaned(vm=A, drill=drill, target=T), at_s=at_s,
    )  # fmt: skip


def failed(reason: Reason = Reason.CHECK, drill: str = "d1-8") -> d.DrillFailed:
    return d.DrillFailed(vm=A, drill=drill, reason=reason, sentence="its check exited with 3", after_ms=10_000, exit_code=3)


def reported(log: Log, now_s: int) -> Protected:
    items = report(log.model, log.model.recoveries.all.values(), lambda project: True, now_s * S).items
    return next(row for row in items if row.vm == "a")


def told(log: Log, now_s: float, sees: Callable[[str], bool] = lambda project: True) -> list[tuple[str, str]]:
    found = drill_alerts.said(log.model.drills, {"a": object()}, round(now_s * S), sees)
    return [(alert.kind, alert.object) for alert in found]


def test_its_figures_count_from_its_turn() -> None:
    log = protected()
    one = drilled(log)
    assert (one.state, one.first_ms, one.agent_ms, one.took_ms, one.exit_code) == ("passed", 2000, 9000, 10_000, 0)
    assert (one.last_line, one.rpo_s, one.ended_us, one.cleaned_us) == ("all is well", 95.0, 115 * S, 0)
    cleaned(log, 120)
    assert one.cleaned_us == 120 * S and one.state == "passed"


def test_the_report_has_the_last_drill_and_it_is_no_recovery() -> None:
    log = protected()
    drilled(log)
    row = reported(log, 200)
    assert (row.drilled, row.drill, row.drill_first_ms, row.drill_agent_ms, row.drill_rpo_s) == ("passed", "d1-8", 2000, 9000, 95.0)
    assert (row.grade, row.recovery, row.drill_said) == ("untried", "", "all is well")
    drilled(log, 300, "d1-20", failed(drill="d1-20"))
    row = reported(log, 400)
    assert (row.drilled, row.drill_said) == ("failed", "check: its check exited with 3")


def test_alerts_while_the_last_one_failed_and_while_something_is_left() -> None:
    log = protected()
    drilled(log, end=failed())
    assert told(log, 200) == [("drill-failed", "vm/a")] and told(log, 200, lambda project: False) == []
    assert ("drill-left", f"vm/{T}") in told(log, 200 + HOUR_S)
    cleaned(log, 210)
    assert told(log, 200 + HOUR_S) == [("drill-failed", "vm/a")]
    drilled(log, 300, "d1-20")
    cleaned(log, 320, "d1-20")
    assert told(log, 400) == []
    drilled(log, 500, "d1-30", failed(Reason.CANCELLED, "d1-30"))
    cleaned(log, 520, "d1-30")
    assert told(log, 600) == [], "who gave it up knows"


def test_an_alert_where_none_passed_within_twice_its_period() -> None:
    log = protected()
    log.backups(d.DrillPlanSet(vm=A, at_us=0, plan=d.DrillPlan(cron="0 * * * *", drill=WISH)))
    assert told(log, 2 * HOUR_S) == [] and told(log, 2 * HOUR_S + 1) == [("drill-late", "vm/a")]
    drilled(log, HOUR_S)
    cleaned(log, HOUR_S + 20)
    assert told(log, 2 * HOUR_S + 1) == [] and told(log, 4 * HOUR_S) == [("drill-late", "vm/a")]
    log.backups(d.DrillPlanSet(vm=A, at_us=9))
    assert told(log, 9 * HOUR_S) == []


def test_so_many_are_kept() -> None:
    log = protected()
    for n in range(KEPT_MAX + 3):
        log.backups(d.DrillRequested(vm=A, drill=f"d1-{n}", wish=WISH, at_us=n), at_s=n)
    assert [one.id for one in log.model.drills.all["a"]] == [f"d1-{n}" for n in range(3, KEPT_MAX + 3)]


@pytest.mark.parametrize("end", [None, failed()], ids=["passed", "failed"])
def test_its_task_ends_with_its_result(end: Any) -> None:
    log = protected()
    log.backups(d.DrillRequested(vm=A, drill="d1-8", wish=WISH, at_us=0), task="mine")
    task = log.model.tasks.all["mine"]
    assert (task.kind, task.state) == ("drill", "running")
    log.backups(end or d.DrillPassed(vm=A, drill="d1-8", after_ms=10_000))
    assert task.state == ("failed" if end else "done")
    drilled(log, end=end)
    assert log.model.tasks.opened("drill:a") is None and log.model.tasks.opened(f"recover:{T}") is None


def test_each_event_has_a_sentence() -> None:
    seen = protected()
    drilled(seen, end=failed())
    kinds = [kind for kind in FAMILIES["io"].events if kind.__name__.startswith("Drill")]
    assert len(kinds) == 8
    for event in (
        d.DrillPlanSet(vm=A, at_us=0, plan=d.DrillPlan(cron="0 4 * * 0", drill=WISH)), d.DrillPlanSet(vm=A, at_us=0), failed(),
        *(went(each, 5) for each in Went), d.DrillCleaned(vm=A, drill="d1-8"),
        d.DrillRequested(vm=A, drill="d1-8", wish=d.Drill(agent=False), at_us=0, due_us=S),
    ):  # fmt: skip
        said = sentence("kind", event)
        assert said != "kind" and ("d1-8" in said or "drilled" in said), said


def test_ha_does_not_owe_what_a_drill_made() -> None:
    def owed(*before: Any) -> list[Any]:
        views = GuardViews()
        ended = VmStopped(vm=T, node=NodeId("n1"), generation=1, cause=GoneCause.CRASHED, unwished=True)
        row = Recorded(1, "x-y", 1, "t", 1, 5, b"", b"")
        for event in (*before, replace(DEFINED, vm=T), ended):
            views.apply(row, event)
        return [command for command in guard_react(ended, row, views) if isinstance(command, OweVm)]

    began = d.DrillStarted(vm=A, drill="d1-8", target=T, recovery="r1-9", backup="b1-2", taken_us=1, at_us=2)
    assert len(owed()) == 1 and owed(began) == []
