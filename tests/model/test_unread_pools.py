"""A pool in which nobody can read a node's record proves nothing: while the node is heard it is granted by the others only; once it
is silent it is said what its loss waits for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from libs.common.testing import Spec
from libs.lease.times import FAST
from proto.lease import (
    NodeLost,
    NodePathsNoted,
    NodeSuspected,
    ProofKind,
    Sign,
    Silence,
    SuspectNode,
)
from services.gateway.ha_alerts import said
from services.gateway.views.ha import HaView, Standing
from services.gateway.why.sentences import sentence
from services.ha import rules
from services.ha.lease import LEASE
from services.ha.signs import Node
from tests.model.ha_rig import Rig, S, kinds

N1 = NodeId("n1")
SPENT_S = 18
"""until it is named no more, and each grant that named it is spent"""


def settled() -> Rig:
    rig = Rig(pools=("p", "q"))
    rig.run(10)
    assert all(node.pools == ("p", "q") for node in rig.nodes.values())
    return rig


def test_a_pool_that_is_gone_for_all_is_none_of_any_lease_before_long() -> None:
    rig = settled()
    rig.readable.discard("q")
    noted = rig.until(NodePathsNoted)
    assert noted.pools == ("q",)
    rig.run(SPENT_S)
    assert all(node.pools == ("p",) and node.span_us for node in rig.nodes.values())
    assert all(lease.pools == ("p",) for lease in rig.leases.values())
    rig.nodes["n1"].alive = False
    lost = rig.until(NodeLost)
    assert lost.proof.kind == ProofKind.LEASE and list(lost.proof.seen_us) == ["p"]
    assert not rig.violations


def test_it_is_named_again_once_it_is_read_again() -> None:
    rig = settled()
    rig.readable.discard("q")
    rig.run(30)
    rig.readable.add("q")
    rig.run(5)
    assert all(node.pools == ("p", "q") for node in rig.nodes.values())
    assert all(lease.pools == ("p", "q") and lease.stuck == () for lease in rig.leases.values())


def test_the_last_pool_stays_and_so_does_one_that_was_out_of_sight_for_a_moment() -> None:
    rig = settled()
    rig.readable.clear()
    rig.run(60)
    assert all(lease.pools == ("p", "q") for lease in rig.leases.values()), "nobody reads any: the storage is away, no pool is"
    rig = settled()
    for _ in range(10):
        rig.readable.discard("q")
        rig.run(8)
        rig.readable.add("q")
        rig.run(2)
    assert all(lease.pools == ("p", "q") for lease in rig.leases.values())
    assert "NodePathsNoted" not in kinds(rig)


def test_a_node_that_may_renew_where_nobody_looks_is_waited_for_until_its_last_grant_with_that_pool_is_spent() -> None:
    """It dies just as the pool is let go: nothing is declared before what it holds by that pool is spent."""
    for tenth in range(0, 80, 4):
        rig = settled()
        rig.readable.discard("q")
        rig.run(9 + tenth / 10)
        node = rig.nodes["n1"]
        node.control = False
        rig.run(60)
        assert not rig.violations, (tenth, rig.violations)


def test_one_that_fell_silent_before_is_not_lost_and_why_is_told() -> None:
    rig = settled()
    rig.readable.discard("q")
    rig.nodes["n1"].alive = False
    first = rig.until(NodeSuspected)
    assert first.unread == ()
    again = rig.until(NodeSuspected)
    assert (again.unread, again.at_us, again.silences) == (("q",), first.at_us, first.silences)
    rig.run(60)
    assert "NodeLost" not in kinds(rig) and kinds(rig).count("NodeSuspected") == 2
    rig.readable.add("q")
    rig.until(NodeLost)


def test_what_is_said_of_it() -> None:
    mute = Silence(path=Sign.CONTROL, since_us=1, for_us=3, sentence="mute")
    told = NodeSuspected(node=N1, at_us=1, silences=(mute,), unread=("w",))
    words = sentence("node_suspected", told)
    assert "nobody can read the record of n1 in pool w" in words and "asvctl ha confirm-off n1" in words
    standing = Standing("suspected", 1, "mute", unread=("w",))
    (alert,) = said(HaView(nodes={"n1": standing}), {"w": "fast"})
    assert "pool fast" in alert.sentence and "confirm-off n1" in alert.remedy and "bring the pool back" in alert.remedy
    assert "confirm-off" in standing.remarks({"w": "fast"})[0]
    (plain,) = said(HaView(nodes={"n1": Standing("suspected", 1, "mute")}), {})
    assert "pool" not in plain.sentence


def test_a_suspicion_is_told_again_only_where_it_says_something_new() -> None:
    silent = (Silence(path=Sign.CONTROL, since_us=1, for_us=3), Silence(path=Sign.PEERS, since_us=1, for_us=3))
    suspected = NodeSuspected(node=N1, at_us=2, silences=silent, planned="so it was")
    again = SuspectNode(node="n1", silences=silent, unread=("q",), planned="otherwise", now_us=20)
    lease = Spec(LEASE)
    lease.given(suspected).when(again).then(replace(suspected, unread=("q",))).twice()
    lease.given(suspected, replace(suspected, unread=("q",))).when(replace(again, unread=())).then(suspected)


@pytest.mark.parametrize(
    ("p_ago", "q_ago", "gone"),
    [(1, 1, ()), (1, 11, ("q",)), (1, 9, ()), (11, 11, ()), (5, 11, ()), (2, 11, ("q",))],
)
def test_only_beside_one_that_is_read_just_now(p_ago: int, q_ago: int, gone: tuple[str, ...]) -> None:
    node, now_us = Node(), 100 * S
    node.record("p").newest_us, node.record("q").newest_us = now_us - p_ago * S, now_us - q_ago * S
    assert rules.unread(node, ("p", "q"), 0, now_us) == frozenset(gone)
    assert rules.unread(node, ("p", "q"), now_us - S, now_us) == frozenset(), "this observer has just begun to listen"
    assert FAST.suspect_us > 2 * S
