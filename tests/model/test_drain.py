"""A node is emptied: refused before anything moves where something fits nowhere; two at once; what fails is tried again."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.decider import Refused
from libs.common.messages import NodeId, Recorded
from libs.common.testing import Spec
from proto.compute import Refusal, StartVm
from proto.drain import (
    AdvanceDrain,
    DrainMove,
    DrainNode,
    DrainPlan,
    DrainUnfit,
    EndDrain,
    NodeDrained,
    NodeDrainEnded,
    NodeDrainRequested,
    NodeMoveWanted,
)
from proto.io import AttachDisk
from proto.lease import NodePathsNoted
from proto.machine import DiskBus, DiskWish
from services.compute.drain import AGAIN_US, ATTEMPTS_MAX, DRAIN
from services.compute.preflight import preflight
from services.compute.react import react
from services.compute.states import Running
from services.compute.views import Views
from tests.model.test_start_story import NOW_US, House, define, house

N1 = NodeId("n1")
ALL = DrainPlan(moves=tuple(DrainMove(vm=vm, to="n2") for vm in "abc"))
SOME = DrainPlan(moves=(DrainMove(vm="a", to="n2"),), unfit=(DrainUnfit(vm="b", sentence="no node fits", remedy="add one"),))
BEGUN = NodeDrainRequested(node=N1, plan=ALL)
drain = Spec(DRAIN)


def wanted(vm: str, attempt: int = 1, at_us: int = 0, to: str = "n2") -> NodeMoveWanted:
    return NodeMoveWanted(node=N1, vm=vm, attempt=attempt, at_us=at_us, to=to)


def tick(now_us: int, ready: str, moving: str = "", here: str = "") -> AdvanceDrain:
    return AdvanceDrain(node="n1", now_us=now_us, ready=tuple(ready), moving=tuple(moving), here=tuple(here or ready + moving))


def test_it_is_refused_as_a_whole_where_something_fits_nowhere() -> None:
    drain.given().when(DrainNode(node="n1", plan=SOME)).refused(Refusal.NO_NODE_FITS)
    drain.given().when(DrainNode(node="n1", plan=None)).refused(Refusal.NODE_UNKNOWN)
    begun = NodeDrainRequested(node=N1, plan=SOME, partial=True)
    drain.given().when(DrainNode(node="n1", plan=SOME, partial=True)).then(begun).twice()


def test_two_at_once_in_the_planned_order_and_the_next_when_one_is_over() -> None:
    drain.given(BEGUN).when(tick(0, "cab")).then(wanted("a"), wanted("b"))
    asked = (BEGUN, wanted("a"), wanted("b"))
    drain.given(*asked).when(tick(1, "abc")).nothing()  # not begun yet
    drain.given(*asked).when(tick(2, "c", moving="ab")).nothing()
    drain.given(*asked).when(tick(3, "c", moving="b")).then(wanted("c", at_us=3))


def test_what_failed_is_tried_again_elsewhere_and_at_last_told() -> None:
    events = [BEGUN]
    for attempt in range(1, ATTEMPTS_MAX + 1):
        at_us = attempt * AGAIN_US
        event = wanted("a", attempt, at_us, to="n2" if attempt == 1 else "")
        drain.given(*events).when(tick(at_us, "a")).then(event)
        drain.given(*events, event).when(tick(at_us + AGAIN_US - 1, "a")).nothing()
        events.append(event)  # type: ignore[arg-type]
    late = (ATTEMPTS_MAX + 1) * AGAIN_US
    drain.given(*events).when(tick(late, "a")).then(NodeDrained(node=N1, left=("a",))).twice()


def test_what_starts_or_stops_is_waited_for() -> None:
    drain.given(BEGUN).when(tick(0, "", here="a")).nothing()
    drain.given(BEGUN).when(tick(0, "")).then(NodeDrained(node=N1)).twice()


def test_an_uncordoned_node_is_drained_no_more() -> None:
    drain.given(BEGUN).when(EndDrain(node="n1")).then(NodeDrainEnded(node=N1, sentence="it takes VMs again")).twice()
    drain.given().when(tick(0, "abc")).nothing()


# --- over compute, memory and io -------------------------------------------------------------------------------------


def on(h: House, node: str, *vms: str, memory_mib: int = 256) -> None:
    for vm in vms:
        define(h, vm, memory_mib)
        h.say(StartVm(vm=vm, node=node))


def test_the_preflight_places_each_beside_the_others_and_changes_nothing() -> None:
    h = house(memory_mib=2048)
    on(h, "n1", "a", "b", memory_mib=1024)
    views = h.services[0][1]
    plan = preflight(views, "n1", NOW_US)
    assert plan is not None and not plan.unfit
    assert sorted(m.to for m in plan.moves) == ["n2", "n3"]
    assert preflight(views, "n1", NOW_US) == plan and not views.hints
    assert preflight(views, "n9", NOW_US) is None


def test_what_cannot_move_while_it_runs_is_unfit_with_the_reason() -> None:
    h = house(memory_mib=2048)
    on(h, "n1", "a", "b")
    h.say(AttachDisk(vm="a", disk=DiskWish(size_mib=5, bus=DiskBus.NVME)))
    plan = preflight(h.services[0][1], "n1", NOW_US)
    assert plan is not None and [move.vm for move in plan.moves] == ["b"]
    (stays,) = plan.unfit
    assert stays.vm == "a" and "nvme" in stays.sentence and "stop it" in stays.remedy


def test_a_drain_empties_the_node_and_cordons_it() -> None:
    h = house()
    on(h, "n1", "a", "b", "c", "d", "e")
    h.say(DrainNode(node="n1"))
    assert h.states["node-n1"].cordoned
    for n in range(6):
        h.say(AdvanceDrain(node="n1", now_us=NOW_US + n))
    assert {h.states[f"vm-{vm}"].node for vm in "abcde"} == {"n2", "n3"}
    assert all(isinstance(h.states[f"vm-{vm}"], Running) for vm in "abcde")
    assert not h.states["ledger-n1"].reserved
    assert h.types().count("node_drained") == 1 and h.types().count("vm_migration_ended") == 5


def test_a_drain_that_cannot_be_whole_says_what_and_why_and_moves_nothing() -> None:
    h = house(memory_mib=2048)
    with pytest.raises(Refused):
        for n in range(20):
            on(h, "", f"v{n}", memory_mib=1024)
    with pytest.raises(Refused, match="fit nowhere else: v"):
        h.say(DrainNode(node="n1"))
    assert "vm_migration_requested" not in h.types() and not h.states["node-n1"].cordoned


def test_a_node_that_lost_a_network_is_drained_as_far_as_it_goes_where_ha_says_so() -> None:
    lost = NodePathsNoted(node=NodeId("n1"), at_us=1, networks=("eth1 has no carrier",), move=True)
    recorded = Recorded(1, "lease-n1", 1, "node_paths_noted", 1, 1, b"", b"")
    assert react(lost, recorded, Views()) == [DrainNode(node="n1", partial=True, reason="eth1 has no carrier")]
    assert not react(msgspec.structs.replace(lost, move=False), recorded, Views())
