"""Sentences, trees and placements told: pure, from events alone."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.messages import Meta, NodeId, Recorded, encode
from libs.common.registry import members
from proto.compute import Candidate, Filter, NodeEvent, Placement, Rejected, VmEvent, VmStartRequested
from proto.examples import example
from proto.memory import LedgerEvent
from proto.placement import Removed, bitset
from proto.plan import PlanEvent
from services.gateway.why.placing import evidence_of, why_not_node
from services.gateway.why.sentences import sentence
from services.gateway.why.tree import Known, stories

PLACED = Placement(
    policy="p-1",
    candidates=(
        Candidate(node="n1", score=0.9, terms={"cpu_used": 0.1, "memory_used": 0.2}),  # type: ignore[arg-type]
        Candidate(node="n2", score=0.7, terms={"cpu_used": 0.1, "memory_used": 0.6}),  # type: ignore[arg-type]
    ),
    rejected=(Rejected(node="n3", filter=Filter.MEMORY, needed=512, available=100),),  # type: ignore[arg-type]
)


def test_a_node_without_a_hello_and_the_node_that_is_left_are_named_as_such() -> None:
    rejected = (
        Rejected(node=NodeId("n3"), filter=Filter.NEVER_REPORTED),
        Rejected(node=NodeId("n4"), filter=Filter.SOURCE),
        Rejected(node=NodeId("n5"), filter=Filter.HEALTH, needed=25, available=10, reason="a disk is slow"),
    )
    placed = msgspec.structs.replace(PLACED, rejected=rejected)
    assert "had not said hello" in why_not_node(placed, "n3")[0]
    assert "was to leave" in why_not_node(placed, "n4")[0]
    assert why_not_node(placed, "n5")[1] == [
        "n5: removed by the filter health (10 of 25 % health there): a disk is slow"
    ]
    bits = Removed(filter=Filter.NEVER_REPORTED, numbers=bitset(bytes([0b00000100, *([0] * 7)])))
    large = msgspec.structs.replace(PLACED, passed=40, nodes=60, removed=(bits,))
    assert "had not said hello" in why_not_node(large, "n6", 5)[0]


def test_equals_are_told_as_equals() -> None:
    best = PLACED.candidates[0]
    twins = Placement(policy="p-1", candidates=(best, Candidate(node="n5", score=best.score, terms=best.terms)))  # type: ignore[arg-type]
    said, evidence = why_not_node(twins, "n5")
    assert said.endswith("n1 scored the same, and equals are taken by name") and len(evidence) == 2


def known(position: int, causation: str = "", correlation: str = "t", actor: str = "service:compute") -> Known:
    meta = Meta("c", causation, correlation, actor, 0)
    return Known(
        Recorded(position, "vm-a", position, "strange_thing", 1, position, encode({}), encode(meta)), meta, None
    )


def test_effects_stand_below_their_cause() -> None:
    found = stories(
        [known(4, "1-2"), known(1, actor="user:ann"), known(2, "1-1"), known(3, "1-1"), known(9, "1-7", "u")]
    )
    first, second = found
    assert (first.task, first.asked_by) == ("t", "user:ann")
    (root,) = first.steps
    assert [step.position for step in root.effects] == [2, 3]
    assert [step.position for step in root.effects[0].effects] == [4]
    assert [step.position for step in second.steps] == [9], "its cause is not among them: it is a root"
    assert root.sentence == "strange thing"


def test_every_event_of_compute_and_memory_has_a_sentence_of_its_own() -> None:
    silent = {"vm_stranger_seen", "vm_stranger_gone", "node_greeting_requested"}
    for union in (VmEvent, NodeEvent, LedgerEvent, PlanEvent):
        for kind in members(union):
            tag = str(kind.__struct_config__.tag)
            said = sentence(tag, example(kind))
            assert said and (said != tag.replace("_", " ") or tag in silent), tag


@pytest.mark.parametrize(
    "node, said, evidence",
    [
        ("n1", "", "n1: score 0.9 (cpu_used 0.1, memory_used 0.2)"),
        ("n2", "n2 would have done, as choice 2 of 2: n1 scored higher", "memory_used: n2 has +0.4 against n1"),
        (
            "n3",
            "n3 was no candidate: the filter memory removed it",
            "n3: removed by the filter memory (100 of 512 MiB there)",
        ),
        ("n4", "n4 was not considered", ""),
    ],
)
def test_what_a_placement_says_of_a_node(node: str, said: str, evidence: str) -> None:
    sentence, lines = why_not_node(PLACED, node)
    assert sentence.startswith(said) and bool(sentence) == bool(said)
    assert (evidence in lines) if evidence else not lines


def test_a_placement_in_a_large_cluster_speaks_of_every_node() -> None:
    offline = Removed(filter=Filter.OFFLINE, numbers=bitset(bytes([0b00000100, *([0] * 7)])))
    placed = msgspec.structs.replace(PLACED, passed=40, nodes=60, removed=(offline,))
    assert why_not_node(placed, "n6", 5)[0] == "n6 was no candidate: the filter offline removed it"
    assert why_not_node(placed, "n7", 6)[0].startswith("n7 would have done, but is not among the 2 best of 40")
    assert why_not_node(placed, "n2", 1)[0].startswith("n2 would have done, as choice 2 of 40")
    assert why_not_node(placed, "n99", 60)[0].startswith("n99 was not considered"), "it joined later"
    evidence = evidence_of(msgspec.structs.replace(example(VmStartRequested), placement=placed))
    assert "and 38 more nodes would have done" in evidence and "and 1 more removed by the filter offline" in evidence
