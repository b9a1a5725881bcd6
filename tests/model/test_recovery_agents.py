"""How long a recovered guest's agent took to answer: once, of the process that runs by the recovery, also once its data is home."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import Event, NodeId
from proto.compute import GoneCause, VmDeleted, VmStarted, VmStopped
from proto.io import DisksRecovered, RecoveryEnded
from proto.recovery import AnswerRecovery, EndKind, RecoveryAgentHeard
from services.io.backups.model import BACKUPS
from services.io.views import Views, enrich
from tests.model.backup_story import backups
from tests.model.io_story import A
from tests.model.recovery_story import ASKED, X
from tests.model.test_recovery_watch_views import T0, S, row

RECOVERED = DisksRecovered(vm=X, source=A, recovery="r1-9")
RAN = VmStarted(vm=X, node=NodeId("n1"), generation=3, boot_id="b")
HOME = RecoveryEnded(vm=A, target=X, recovery="r1-9", end=EndKind.INDEPENDENT)
ANSWER = AnswerRecovery(vm="a", recovery="r1-9", generation=3)
HEARD = RecoveryAgentHeard(vm=A, target=X, recovery="r1-9", generation=3, after_ms=7000)


def views(*events: tuple[float, Event]) -> Views:
    found = Views()
    for at_s, event in ((0.0, ASKED), (0.5, RECOVERED), *events):
        found.apply(row(at_s), event)
    return found


def told(command: AnswerRecovery, at_s: float, *events: tuple[float, Event]) -> Any:
    return enrich(command, views(*events), T0 + round(at_s * S))


def test_the_first_answer_of_the_process_that_runs_counts_from_the_order() -> None:
    asked = backups.given(ASKED)
    asked.when(told(ANSWER, 7.0, (2.0, RAN))).then(HEARD)
    backups.given(ASKED, HEARD).when(told(ANSWER, 9.0, (2.0, RAN))).then()
    asked.when(told(replace(ANSWER, generation=2), 7.0, (2.0, RAN))).then()
    asked.when(told(replace(ANSWER, recovery="r1-8"), 7.0, (2.0, RAN))).then()
    asked.when(told(ANSWER, 7.0)).then()
    asked.when(ANSWER).then()


def test_a_guest_boots_on_when_its_data_is_home() -> None:
    backups.given(ASKED, HOME).when(told(ANSWER, 7.0, (2.0, RAN), (4.0, HOME))).then(HEARD)
    refused = replace(HOME, end=EndKind.REFUSED)
    backups.given(ASKED, refused).when(told(ANSWER, 7.0, (2.0, RAN), (4.0, refused))).then()


def test_who_is_asked_still() -> None:
    assert not views().agents.mute["x"].node, "it does not run yet"
    one = views((2.0, RAN)).agents.mute["x"]
    assert (one.node, one.generation, one.ordered_us) == ("n1", 3, T0)
    assert views((2.0, RAN), (4.0, HOME)).agents.mute
    assert not views((2.0, RAN), (4.0, HEARD)).agents.mute
    assert not views((2.0, RAN), (4.0, VmDeleted(vm=X, node=NodeId("n1")))).agents.mute
    ended = VmStopped(vm=X, node=NodeId("n1"), generation=3, cause=GoneCause.CRASHED)
    assert not views((2.0, RAN), (4.0, ended)).agents.mute["x"].node
    again = replace(ASKED, recovery="r1-20")
    assert not views((2.0, RAN), (4.0, again), (5.0, RAN)).agents.mute["x"].node, "it runs by the one before"


def test_what_a_drill_makes_is_asked_by_that() -> None:
    found = Views()
    found.apply(row(0.0), replace(ASKED, drill="d1-1"))
    assert not found.agents.mute and not BACKUPS.fold((replace(ASKED, drill="d1-1"),)).mute


def test_no_more_are_waited_for_than_are_kept() -> None:
    many = [replace(ASKED, target=f"x{n}", recovery=f"r1-{n}") for n in range(20)]
    assert [one.recovery for one in BACKUPS.fold(many).mute] == [f"r1-{n}" for n in range(4, 20)]
    assert [one.recovery for one in BACKUPS.fold((ASKED, replace(ASKED, recovery="r1-20"))).mute] == ["r1-20"]
