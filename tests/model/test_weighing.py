"""Recorded choices weighed again: the same by the same weights, whatever the facts; by others as these would have chosen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.compute import Candidate, Placement, StartVm, StopVm
from proto.placement import WeightSet
from services.compute import weighing
from services.compute.policy import PACK, SPREAD, WEIGHTS, NodeFacts, Weights, Wishes, place
from services.compute.weighing import rules, weigh, weighed
from tests.model.test_placement_index import clusters, wishes

OTHERS = (
    Weights(name="spread-9", fit=1.0, numa=0.25, health=1.0),
    Weights(name="spread-9", room=1.0, numa=2.0, health=0.1, contention=3.0),
    Weights(name="spread-9", room=-1.0),
)
FAR = 1e-5


@settings(max_examples=300, deadline=None)
@given(clusters(), wishes, st.sampled_from([SPREAD, PACK]))
def test_the_same_weights_change_nothing(nodes: list[NodeFacts], wish: Wishes, weights: Weights) -> None:
    choice = place(wish, nodes, weights=weights)
    assert weighed(choice) is choice


@settings(max_examples=300, deadline=None)
@given(clusters(), wishes, st.sampled_from(OTHERS))
def test_other_weights_order_what_was_recorded_as_they_would_have(nodes: list[NodeFacts], wish: Wishes, other: Weights) -> None:
    choice = place(wish, nodes, weights=SPREAD)
    named = {one.node for one in choice.candidates}
    expected = place(wish, [node for node in nodes if node.node in named], weights=other).candidates
    assume(all(a.score - b.score > FAR for a, b in pairwise(expected)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weighing, "RULES", rules(WEIGHTS | {WeightSet.SPREAD: other}))
        again = weighed(choice)
    assert [one.node for one in again.candidates] == [one.node for one in expected]
    if again is not choice:
        assert again.policy == "spread-9" and again.rejected == choice.rejected
        for one, wanted in zip(again.candidates, expected, strict=True):
            assert one.score == pytest.approx(wanted.score, abs=FAR)


def candidate(node: str, score: float, **terms: float) -> Candidate:
    return Candidate(node=NodeId(node), score=score, terms=terms)


def test_a_command_is_as_it_was_where_nothing_comes_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    two = (candidate("n1", 0.9, room=0.9), candidate("n2", 0.5, room=0.9, numa=-0.4 / SPREAD.numa))
    start = StartVm(vm="a", choice=Placement(policy="spread-1", candidates=two))
    assert weigh(start) is start
    for command in (StopVm(vm="a"), StartVm(vm="a"), replace(start, choice=replace(start.choice, policy="gone-1"))):
        assert weigh(command) is command
    monkeypatch.setattr(weighing, "RULES", rules({WeightSet.SPREAD: replace(SPREAD, numa=SPREAD.numa / 2)}))
    assert weigh(start) is start, "n1 is the first still"
    monkeypatch.setattr(weighing, "RULES", rules({WeightSet.SPREAD: Weights(name="spread-4", room=1.0, numa=-1.0)}))
    again = weigh(start).choice
    assert [one.node for one in again.candidates] == ["n2", "n1"] and again.policy == "spread-4"
