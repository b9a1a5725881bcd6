"""A pool that nobody could read for a while is read again: what lies there may be from before. A record counts as moving once it
moves from then on, as standing still once that was looked at for long enough."""

from __future__ import annotations

from libs.common.messages import encode
from proto.lease import LeaseBeat, NodeIsolated, NodeLost, Sighting
from services.ha.node_views import MemberView, NodeViews
from services.ha.signs import Record
from tests.model.ha_rig import Rig, S, kinds, settled

AWAY_S = 14


def away(rig: Rig) -> None:
    rig.readable.clear()
    rig.run(1)


def back(rig: Rig) -> None:
    rig.run(AWAY_S)
    rig.readable.add("p")


def test_a_node_that_died_meanwhile_is_lost_and_never_taken_for_isolated() -> None:
    rig = settled()
    away(rig)
    rig.nodes["n1"].alive = False
    back(rig)
    rig.until(NodeLost)
    assert "NodeIsolated" not in kinds(rig) and not rig.violations


def test_one_that_lives_is_not_said_to_stand_still_before_that_was_seen() -> None:
    """Its agent is silent; its peers reach it. One path more would be a suspicion, and its fence device asked."""
    rig = settled()
    away(rig)
    rig.nodes["n1"].control = False
    back(rig)
    rig.until(NodeIsolated, 5)
    assert "NodeSuspected" not in kinds(rig)


def test_one_that_dies_just_after_is_lost_as_any() -> None:
    rig = settled()
    away(rig)
    back(rig)
    rig.run(3)
    rig.nodes["n1"].alive = False
    assert rig.until(NodeLost).proof.kind == "lease"


def test_nothing_is_told_of_those_that_are_heard() -> None:
    rig = settled()
    away(rig)
    back(rig)
    rig.run(10)
    assert set(kinds(rig)) == {"TermBegan", "LeaseTaken"}


def test_a_slow_witness_sees_a_record_move() -> None:
    record = Record()
    for at_s, mark in ((1, 1), (6, 2), (11, 3)):
        record.saw("n2", mark, at_s * S, at_s)
        assert record.moved_us == (at_s * S if at_s > 1 else 0)
    record.saw("n2", 4, 18 * S, 18)
    assert (record.moved_us, record.back_us) == (11 * S, 18 * S)


def test_an_honest_device_is_not_accused_by_what_was_written_before() -> None:
    """What may have moved is a reason to wait before a device is believed; what did, to doubt one that was."""
    views = NodeViews(members={"n1": MemberView(), "n2": MemberView()})

    def heard(at_s: int, sequence: int) -> tuple[int, int, str]:
        beat = LeaseBeat("n2", "b2", at_s, "held", 1, sightings=(Sighting("p", "n1", "b1", 1, sequence),))
        views.hear("tel.n2.leases", encode(beat), at_s * S)
        return views.moved_us("n1"), views.lived_us("n1"), views.alive("n1", at_s * S)

    assert heard(10, 5) == (10 * S, 0, "")
    assert heard(11, 6)[:2] == (11 * S, 11 * S)
    assert heard(30, 9) == (30 * S, 11 * S, "")
    assert heard(31, 9) == (30 * S, 11 * S, "")
    assert heard(32, 10)[:2] == (32 * S, 32 * S)
    assert "moved 0.0 s ago" in views.alive("n1", 32 * S)
