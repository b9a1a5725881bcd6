"""What keeps the grantor from concluding: doubts about itself, storms, what nobody can read, an operator's word."""

from __future__ import annotations

from proto.lease import (
    ArmHa,
    ConfirmOff,
    DisarmHa,
    HaHeld,
    HaReleased,
    NodeLost,
    NodeSuspected,
    Proof,
    ProofKind,
)
from services.ha import proof, signs
from services.ha.states import Trusted
from tests.model.ha_rig import STEP_US, WHOLE_S, S, kinds, settled


def test_everything_central_is_gone_for_ten_minutes() -> None:
    rig = settled()
    rig.checks = False
    for node in rig.nodes.values():
        node.control = False
    rig.run(600)
    assert all(node.end_us > rig.now_us for node in rig.nodes.values()), "they renewed by storage"
    rig.succeed()
    rig.checks = True
    for node in rig.nodes.values():
        node.control = True
    rig.run(30)
    assert not {"NodeLost", "NodeSuspected", "NodeIsolated"} & set(kinds(rig))


def test_storage_gone_for_all_is_no_reason_to_do_anything() -> None:
    rig = settled()
    for node in rig.nodes.values():
        node.storage = False
    rig.run(60)
    assert set(kinds(rig)) == {"TermBegan", "LeaseTaken"}


def test_two_nodes_where_one_dies_the_storage_is_the_third_voice() -> None:
    rig = settled("n1 n2")
    rig.nodes["n1"].alive = False
    rig.until(NodeLost)


def test_most_nodes_dead_at_once_is_doubted_until_somebody_gives_his_word() -> None:
    rig = settled("n1 n2 n3 n4 n5")
    for name in ("n1", "n2", "n3", "n4"):
        rig.nodes[name].alive = False
    held = rig.until(HaHeld)
    rig.run(60)
    assert "NodeLost" not in kinds(rig) and "is it me?" in held.sentence and "confirm-off" in held.remedy
    rig.decide(ArmHa(at_us=rig.wall_us))
    rig.run(10)
    assert kinds(rig).count("NodeLost") == 4 and not rig.ha.held


def test_more_than_lost_max_at_once_is_a_storm() -> None:
    rig = settled("n1 n2 n3 n4 n5 n6 n7 n8")
    for name in ("n1", "n2", "n3"):
        rig.nodes[name].alive = False
    held = rig.until(HaHeld)
    assert "more than 2 at once" in held.sentence
    rig.run(60)
    assert "NodeLost" not in kinds(rig)
    rig.decide(ConfirmOff(node="n1", reason="its rack is dark", known=True, at_us=rig.wall_us))
    rig.until(HaReleased)
    rig.run(10)
    assert kinds(rig).count("NodeLost") == 3


def test_losses_one_after_the_other_count_within_the_window() -> None:
    rig = settled("n1 n2 n3 n4 n5 n6 n7 n8")
    for name in ("n1", "n2", "n3"):
        rig.nodes[name].alive = False
        rig.run(30)
    assert kinds(rig).count("NodeLost") == 2 and rig.ha.held
    rig.run(300)
    assert kinds(rig).count("NodeLost") == 3, "the window is over"


def test_disarmed_grants_go_on_and_nothing_is_declared_until_it_is_armed_again() -> None:
    rig = settled()
    rig.decide(DisarmHa(reason="a switch is changed", until_us=rig.wall_us + 60 * S))
    rig.nodes["n1"].alive = False
    rig.run(50)
    assert "NodeLost" not in kinds(rig) and rig.nodes["n2"].end_us > rig.now_us
    rig.run(20)
    assert kinds(rig)[-2:] == ["HaArmed", "NodeLost"]


def test_a_node_that_says_it_is_slow_is_suspected_later_and_lost_at_the_same_time() -> None:
    rig = settled()
    rig.nodes["n1"].slow = True
    rig.run(2)
    died_us = rig.now_us
    rig.nodes["n1"].alive = False
    rig.until(NodeSuspected)
    assert rig.now_us - died_us > 4.5 * S
    rig.until(NodeLost)
    assert rig.now_us - died_us <= WHOLE_S * S


def test_a_grantor_that_is_late_itself_is_slower_to_suspect() -> None:
    rig = settled()
    rig.now_us += 10 * STEP_US
    rig.run(0.5)
    died_us = rig.now_us
    rig.nodes["n1"].alive = False
    rig.until(NodeSuspected)
    assert rig.now_us - died_us > 4.5 * S


def test_a_grantor_that_slept_takes_nobody_for_silent() -> None:
    rig = settled()
    before = len(rig.events)
    rig.now_us += 3600 * S
    for node in rig.nodes.values():
        node.end_us = rig.now_us + S
    rig.run(60)
    assert rig.events[before:] == []


def test_a_failed_read_proves_nothing() -> None:
    rig = settled(pools=("p", "q"))
    rig.readable.discard("q")
    rig.nodes["n1"].alive = False
    rig.run(60)
    assert "NodeLost" not in kinds(rig), "it may renew by q, which nobody can read"
    rig.readable.add("q")
    rig.until(NodeLost)


def test_a_sight_after_a_gap_is_a_first_sight() -> None:
    record = signs.Record()
    record.saw("n2", 7, 10 * S, 1)
    record.saw("n2", 7, 12 * S, 2)
    assert record.still_since(7, 12 * S) == 10 * S
    record.saw("n2", 7, 20 * S, 3)
    assert record.still_since(7, 20 * S) == 20 * S
    record.saw("n2", 6, 21 * S, 2)
    assert record.still_since(7, 21 * S) == 20 * S, "told before what is known"
    assert proof.fault(Trusted(), Proof(kind=ProofKind.LEASE, at_us=1)) == "the node is not suspected"
