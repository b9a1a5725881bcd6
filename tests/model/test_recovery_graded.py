"""How a recovery went, as it is shown: the curve, what is at risk, the grade; by the API, asvctl, alerts and why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proto import io
from proto.recovery import Grade, Limit
from services.cli.recovery import cells, graded, late
from services.gateway.backup_alerts import said
from services.gateway.protection import report
from services.gateway.views.recoveries import AtRisk, Noted, Recovery
from services.gateway.why.backups import of_backups
from tests.model.protected_story import A, Log, S, home, prepare, protected, recovery, runs, stopped

GRADE = Grade(first_ms=1500, home_s=60.0, worst_times=1.8, met=True, forecast_us=150 * S, off_s=10.0)


def begun() -> tuple[Log, Recovery]:
    """a was stopped at 50 s, and is recovered at 100 s."""
    log = protected()
    log.add("vm-a", stopped(), at_s=50, task="stop")
    log.backups(recovery(lose="a"), at_s=100)
    prepare(log)
    return log, next(iter(log.model.recoveries.all.values()))


def noted(at_s: float, forecast_s: float, **more: Any) -> io.RecoveryNoted:
    event = io.RecoveryNoted(
        vm=A, target=A, recovery="r1-9", at_us=round(at_s * S), percent=10.0, mibps=50.0, forecast_us=round(forecast_s * S),
        write_us=450, normal_us=300,
    )  # fmt: skip
    return msgspec.structs.replace(event, **more)


def at_risk(limit: Limit = Limit.NORMAL, forecast_s: float = 1100) -> io.RecoveryAtRisk:
    due_s = 1000 if limit is Limit.NORMAL else 280
    return io.RecoveryAtRisk(
        vm=A, target=A, recovery="r1-9", limit=limit, due_us=due_s * S, forecast_us=round(forecast_s * S), sentence="a is late"
    )  # fmt: skip


def alerts(log: Log, one: Recovery) -> list[tuple[str, str, int]]:
    found = said(log.model.backups, [one], lambda project: project == "red")
    return [(alert.kind, alert.object, alert.since_us) for alert in found]


def test_the_curve_begins_with_the_forecast_and_has_what_corrected_it() -> None:
    log, one = begun()
    runs(log)
    log.backups(noted(110, 300), at_s=110)
    log.backups(noted(130, 500, percent=20.0, write_us=0, normal_us=0), at_s=130)
    assert one.curve == [
        Noted(110 * S, 10.0, 50.0, 300 * S, 450, 1.5), Noted(130 * S, 20.0, 50.0, 500 * S),
    ]  # fmt: skip
    assert one.changed_us == 130 * S


def test_what_does_not_run_is_an_alert_until_it_does() -> None:
    log, one = begun()
    log.backups(at_risk(Limit.FIRST, 0), at_s=220)
    assert one.risks == [AtRisk("first-instruction", 220 * S, 280 * S, 0, "a is late", 0)]
    assert alerts(log, one) == [("recovery-at-risk", "vm/a", 220 * S)]
    assert list(said(log.model.backups, [one], lambda project: False)) == []
    runs(log, at_s=240)
    assert alerts(log, one) == [] and one.risks, "it is remembered"


def test_what_would_be_late_is_an_alert_until_a_forecast_takes_it_back() -> None:
    log, one = begun()
    runs(log)
    log.backups(noted(110, 1100), at_risk(), at_s=110)
    assert alerts(log, one) == [("recovery-at-risk", "vm/a", 110 * S)]
    log.backups(noted(200, 1001), at_s=200)
    assert alerts(log, one), "later than promised still"
    log.backups(noted(300, 1000), at_s=300)
    assert alerts(log, one) == []
    log.backups(noted(400, 900, write_us=460), at_s=400)
    assert alerts(log, one), "in time, and slow"
    home(log, at_s=500)
    assert alerts(log, one) == []


def test_the_grade_is_shown_by_the_report_and_by_asvctl() -> None:
    log, one = begun()
    runs(log)
    log.add("devices-a", io.DisksHome(vm=A, source=A, recovery="r1-9"), at_s=160)
    ended = io.RecoveryEnded(vm=A, target=A, recovery="r1-9", end=io.EndKind.INDEPENDENT, grade=GRADE)
    log.backups(ended, at_s=161)
    assert one.grade == GRADE
    (row,) = report(log.model, [one], lambda project: project == "red", 200 * S).items
    assert (row.grade, row.worst_times, row.off_s) == ("met", 1.8, 10.0)
    told = cells(msgspec.to_builtins(row))
    assert {"1.8 times normal", "met", "10 s later than forecast"} <= set(told)
    assert graded(msgspec.to_builtins(GRADE)) == (
        "met: ran after 1.5 s, its own after 1 min, 10 s later than forecast, writes 1.8 times normal at worst"
    )
    bare = Grade(first_ms=0, home_s=950.0, worst_times=0.0, met=False)
    assert graded(msgspec.to_builtins(bare)) == "late: its own after 15 min 50 s" and graded(None) == ""
    assert late(-3.2) == "3.2 s sooner than forecast"


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (
            noted(110, 300),
            ("10 % of the data of a is home, at 50 MiB/s: it is to be as fast as ever at 1970-01-01 00:05:00Z; "
            "its writes take 1.5 times what is normal"),
        ),
        (at_risk(), "recovery r1-9: a is late"),
        (
            io.RecoveryEnded(vm=A, target=A, recovery="r1-9", end=io.EndKind.INDEPENDENT, grade=GRADE),
            ("recovery r1-9 of a is over: it needs the backup no more "
            "(after 60 s, 10 s later than forecast; both promises were kept)"),
        ),
        (
            io.RecoveryEnded(vm=A, target=A, recovery="r1-9", end=io.EndKind.INDEPENDENT),
            "recovery r1-9 of a is over: it needs the backup no more",
        ),
    ],
)  # fmt: skip
def test_why_says_it_in_words(event: Any, sentence: str) -> None:
    assert of_backups(event) == sentence
