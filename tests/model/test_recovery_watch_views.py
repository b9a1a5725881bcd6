"""What io knows of how recoveries go: times of the log, and what nodes tell of their copies; who is heard, and what is forecast."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import Event, NodeId, Recorded, encode
from libs.verify.views import differing
from proto.backups import Usual
from proto.compute import NodeJoined, VmStarted, VmStartFailed
from proto.io import DevicesGranted, DisksHome, DisksRecovered, RecoveryAtRisk, RecoveryEnded, RecoveryNoted
from proto.node import CopiesBeat, CopyNow
from proto.recovery import EndKind, EndRecovery, Limit, NoteRecovery, RecoverySeen
from services.io.hearing import hear
from services.io.react import look
from services.io.views import Views, enrich
from tests.model.io_story import GRANTED, A
from tests.model.recovery_story import ASKED, X

S = 1_000_000
T0 = 1_800_000_000 * S
RECOVERED = DisksRecovered(vm=X, source=A, recovery="r1-9")
RAN = VmStarted(vm=X, node=NodeId("n1"), generation=1, boot_id="b")
USUAL = replace(ASKED, normal=Usual(write_us=200))


def row(at_s: float) -> Recorded:
    return Recorded(1, "s", 1, "t", 1, T0 + round(at_s * S), b"", b"")


def seen_of(views: Views, at_s: float) -> RecoverySeen:
    """What a command about it is told."""
    found: RecoverySeen = enrich(EndRecovery(vm="a", recovery="r1-9", end=EndKind.INDEPENDENT), views, T0 + round(at_s * S)).seen
    return found


def going(*more: tuple[float, Event], asked: Any = USUAL) -> Views:
    views = Views()
    granted = replace(GRANTED, vm=X, node=NodeId("n1"))
    assert isinstance(granted, DevicesGranted)
    begin = ((0.0, NodeJoined(node=NodeId("n1"), key="k")), (0.0, NodeJoined(node=NodeId("n2"), key="k")), (0.0, granted))
    for at_s, event in (*begin, (0.0, asked), (0.5, RECOVERED), (2.0, RAN), *more):
        views.apply(row(at_s), event)
    return views


def tell(views: Views, at_s: float, done: int, *, node: str = "n1", whole: int = 1000, said_by: str = "", **more: Any) -> None:
    copy = replace(CopyNow(X, "home", "disk0", done, whole, 0.0, 300, 250), **more)
    beat = encode(CopiesBeat(node, "b", 1, (copy,)))
    hear(f"tel.{said_by or node}.copies", beat, T0 + round(at_s * S), views)


def steady(views: Views, begin: int = 3, until: int = 13, rate: int = 10) -> None:
    for n in range(begin, until + 1):
        tell(views, n, (n - begin) * rate)


def test_the_times_are_of_the_log_and_those_of_its_first_start() -> None:
    views = going((9.0, VmStartFailed(vm=X, node=NodeId("n1"), generation=2, sentence="s")), (20.0, RAN))
    assert seen_of(views, 30) == RecoverySeen(ordered_us=T0, started_us=T0 + 2 * S)
    views.apply(row(70), DisksHome(vm=X, source=A, recovery="r1-9"))
    assert seen_of(views, 70.1).home_us == T0 + 70 * S
    views.apply(row(71), RecoveryEnded(vm=A, target=X, recovery="r1-9", end=EndKind.INDEPENDENT))
    assert seen_of(views, 72) == RecoverySeen() and views.watches.going == {}


def test_a_start_before_its_disks_stand_on_the_backup_is_not_its_own() -> None:
    views = Views()
    for at_s, event in ((0.0, ASKED), (0.2, RAN), (0.5, RECOVERED)):
        views.apply(row(at_s), event)
    assert seen_of(views, 1).started_us == 0
    views.apply(row(3), VmStartFailed(vm=X, node=NodeId("n1"), generation=2, sentence="no room"))
    assert seen_of(views, 4).failed == "no room"


def test_a_forecast_comes_of_what_came_home_lately() -> None:
    views = going()
    tell(views, 3, 0)
    assert (seen_of(views, 3).copying, seen_of(views, 3).left_s) == (True, 0.0)
    steady(views, until=7)
    assert seen_of(views, 7).left_s == 0.0, "its agent may still be learning what is normal"
    steady(views)
    told = seen_of(views, 13)
    assert (told.percent, told.mibps, told.left_s) == (10.0, 10.0, 90.0)
    assert (told.write_us, told.normal_us, told.worst_times) == (300, 200, 1.5), "against what it was when it was backed up"
    assert seen_of(views, 18).copying and not seen_of(views, 18.1).copying, "a node that fell silent"
    for n in range(14, 40):
        tell(views, n, 100 + (n - 13) * 30)
    assert seen_of(views, 39).mibps == 30.0, "the first minutes are not counted for ever"


def test_what_its_agent_learnt_counts_where_the_backup_does_not_know() -> None:
    views = going(asked=ASKED)
    tell(views, 3, 0, write_us=500, normal_us=0)
    assert seen_of(views, 3).worst_times == 0.0
    tell(views, 4, 0)
    assert (seen_of(views, 4).normal_us, seen_of(views, 4).worst_times) == (250, 2.0)


def test_a_disk_of_which_nothing_is_told_any_more_is_home() -> None:
    views = going()
    tell(views, 3, 0, name="disk1", whole=100)
    tell(views, 4, 10)
    assert seen_of(views, 4).percent == 10.0, "110 of 1100"


@pytest.mark.parametrize(
    "how", [{"node": "n2"}, {"node": "n9"}, {"said_by": "n2"}, {"vm": "y"}, {"what": "backup"}], ids=str
)  # fmt: skip
def test_only_the_node_that_the_vm_is_on_is_heard(how: dict[str, str]) -> None:
    views = going()
    tell(views, 3, 0, **how)  # type: ignore[arg-type]
    assert not views.watches.told


@pytest.mark.parametrize("gap_s", [-60, 30])
def test_it_settles_anew_after_a_gap_and_after_a_clock_that_was_set_back(gap_s: int) -> None:
    views = going()
    steady(views)
    for n in range(4):
        tell(views, 13 + gap_s + n, 100 + n)
        assert seen_of(views, 13 + gap_s + n).left_s == 0.0
    tell(views, 13 + gap_s + 4, 104)
    tell(views, 13 + gap_s + 5, 150)
    assert seen_of(views, 13 + gap_s + 5).left_s == 85.0


def test_however_often_it_is_told_little_is_kept() -> None:
    views = going()
    for n in range(3000):
        tell(views, 3 + n / 100, n // 100)
    assert len(views.watches.told[X].lately) <= 42 and 0.9 <= seen_of(views, 33).mibps <= 1.1


def test_a_service_says_to_itself_only_what_is_worth_it() -> None:
    views = going()
    assert list(look(T0 + 10 * S, views)) == []
    steady(views)
    (wish,) = look(T0 + 13 * S, views)
    assert wish == NoteRecovery(vm="a", recovery="r1-9", now_us=T0 + 13 * S)
    noted = RecoveryNoted(
        vm=A, target=X, recovery="r1-9", at_us=T0 + 13 * S, percent=10.0, mibps=10.0, forecast_us=T0 + 103 * S
    )  # fmt: skip
    views.apply(row(13), noted)
    assert list(look(T0 + 14 * S, views)) == [], "as the stream has it"
    assert list(look(T0 + 760 * S, views)) == [replace(wish, now_us=T0 + 760 * S)], "nobody tells any more"


def test_beside_what_is_told_it_is_what_the_log_gives() -> None:
    events = (
        RecoveryNoted(vm=A, target=X, recovery="r1-9", at_us=T0, percent=1.0, mibps=1.0, forecast_us=T0 + 9),
        RecoveryAtRisk(vm=A, target=X, recovery="r1-9", limit=Limit.NORMAL, due_us=T0, forecast_us=0, sentence="s"),
    )
    one, other = (going(*((5.0, event) for event in events)) for _ in range(2))
    steady(one)
    assert not list(differing(one, other)) and X in one.watches.told
