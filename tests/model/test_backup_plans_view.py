"""What the gateway knows of schedules, from events alone: shown, said, and told where they are not kept."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import VmId
from proto import io
from services.gateway.alerts import alerts
from services.gateway.plan_alerts import said
from services.gateway.protection import report
from services.gateway.why.sentences import sentence
from tests.contract.gateway_rig import defined
from tests.model.protected_story import Log, S, requested, taken
from tests.model.test_cron import us

A = VmId("a")
NOON, NIGHT = us("2026-12-01T12:00"), us("2026-12-02T02:00")
DAY_US, HOUR_US = 86_400 * S, 3600 * S
PLAN = io.BackupPlan(cron="0 2 * * *", pool="safe", keep_last=7, keep_weekly=4, verify="0 4 * * 0")
SET = io.BackupPlanSet(vm=A, at_us=NOON, plan=PLAN)
OFF = io.BackupPutOff(
    vm=A, chore=io.Chore.TAKE, due_us=NIGHT, failures=2, until_us=NIGHT + HOUR_US, sentence="pool safe is full"
)


def told(*events: object) -> Log:
    log = Log()
    log.add("vm-a", defined("a"), at_s=NOON / S)
    for event in events:
        log.backups(event)  # type: ignore[arg-type]
    return log


def late(log: Log, now_us: int) -> list[str]:
    return [one.sentence for one in said(log.model.plans, log.model.backups, log.model.vms.all, now_us, lambda _: True)]


def test_it_is_known_until_it_is_taken_back() -> None:
    log = told(SET)
    known = log.model.plans.all["a"]
    assert (known.plan, known.set_us, known.last_us, known.project, known.put_off) == (PLAN, NOON, 0, "red", None)
    log.backups(requested("b1-2", plan="schedule", due_us=NIGHT))
    assert known.last_us == NIGHT
    log.backups(replace(SET, plan=replace(PLAN, keep_last=3)))
    again = log.model.plans.all["a"]
    assert (again.plan.keep_last, again.last_us) == (3, NIGHT)
    log.backups(replace(SET, plan=None))
    assert log.model.plans.all == {}


def test_what_failed_is_known_until_it_went_well() -> None:
    log = told(SET, OFF)
    known = log.model.plans.all["a"]
    assert known.put_off is not None
    assert (known.put_off.failures, known.put_off.sentence) == (2, "pool safe is full")
    log.backups(requested("b1-3", plan="schedule", due_us=NIGHT), taken("b1-3", at_s=NIGHT / S))
    assert known.put_off is None


def test_a_vm_that_has_not_run_since_its_backup_loses_nothing_by_that_age() -> None:
    log = told(SET, requested("b1-2", plan="schedule", due_us=NIGHT), taken("b1-2", at_s=NIGHT / S))
    assert late(log, NIGHT + 3 * DAY_US)
    same = io.BackupUnchanged(vm=A, backup="b1-2", due_us=NIGHT + 2 * DAY_US, at_us=NIGHT + 2 * DAY_US, generation=4)
    log.backups(same, at_s=(NIGHT + 2 * DAY_US) / S)
    assert not late(log, NIGHT + 3 * DAY_US) and late(log, NIGHT + 5 * DAY_US)
    assert log.model.plans.all["a"].last_us == NIGHT + 2 * DAY_US
    (row,) = report(log.model, (), lambda _: True, NIGHT + 3 * DAY_US).items
    assert row.exposed_s == DAY_US / S, "it counts from when that was looked at"
    assert "has not run since b1-2" in sentence("backup_unchanged", same)


def test_what_is_said() -> None:
    assert sentence("backup_plan_set", SET) == (
        'it is to be backed up by itself at "0 2 * * *" into pool safe; kept are the last 7 and one of each of 4 weeks; '
        'all are read again at "0 4 * * 0"'
    )
    assert sentence("backup_plan_set", replace(SET, plan=None)) == "it is backed up by itself no more; what was taken stays"
    assert sentence("backup_put_off", OFF) == (
        "the backup that was due at 2026-12-02 02:00:00Z could not be taken, for the 2nd time, and that is tried again at "
        "2026-12-02 03:00:00Z: pool safe is full"
    )
    assert "kept no more could not be deleted, for the 11th time" in sentence(
        "backup_put_off", replace(OFF, chore=io.Chore.DELETE, failures=11)
    )


def test_setting_it_is_a_task_that_is_done_at_once() -> None:
    log = told()
    log.backups(SET, task="t2")
    task = log.model.tasks.all["t2"]
    assert (task.kind, task.object, task.state) == ("backup-plan", "a", "done")
    assert "at '0 2 * * *'" in task.sentence


def test_a_vm_without_a_young_backup_is_told() -> None:
    """Two periods after it was set, or after its newest sound backup; not before."""
    log = told(SET)
    assert late(log, NOON + 2 * DAY_US) == []
    (sentence,) = late(log, NOON + 2 * DAY_US + S)
    assert "a is to be backed up at \"0 2 * * *\", and it has no sound backup" in sentence
    log.backups(requested("b1-3", plan="schedule", due_us=NIGHT), taken("b1-3", at_s=NIGHT / S))
    assert late(log, NIGHT + 2 * DAY_US) == []
    log.backups(OFF)
    (sentence,) = late(log, NIGHT + 2 * DAY_US + HOUR_US)
    assert "its newest sound backup, b1-3, is of 2026-12-02 02:00:00Z, 49.0 h ago" in sentence
    assert sentence.endswith("pool safe is full")
    log.backups(io.BackupDamaged(vm=A, backup="b1-3", found={"b1-3": "a bit"}))
    (sentence,) = late(log, NIGHT + 2 * DAY_US + HOUR_US)
    assert "it has no sound backup" in sentence


def test_it_is_an_alert_of_a_vm_that_is_there_and_may_be_seen() -> None:
    log = told(SET)
    now_us = NOON + 3 * DAY_US
    found = alerts(log.model, (), lambda _: True, now_us=now_us)
    assert [(one.kind, one.object, one.since_us) for one in found] == [("backup-late", "vm/a", NOON + 2 * DAY_US)]
    assert "asvctl backup create a --pool safe" in found[0].remedy
    assert alerts(log.model, (), lambda project: project != "red", now_us=now_us) == []
    log.model.vms.all.clear()
    assert alerts(log.model, (), lambda _: True, now_us=now_us) == []


def test_a_weekend_is_no_gap_in_what_comes_on_working_days() -> None:
    friday = us("2026-12-04T02:00")
    log = told(replace(SET, plan=replace(PLAN, cron="0 2 * * 1-5")))
    log.backups(requested("b1-3", plan="schedule", due_us=friday), taken("b1-3", at_s=friday / S))
    assert late(log, us("2026-12-07T03:00")) == []
    assert late(log, us("2026-12-09T03:00")) != []
