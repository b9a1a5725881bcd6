"""Sentences, trees and placements told: pure, from events alone."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.messages import Event, Meta, NodeId, Recorded, encode, tag_of
from proto.compute import Candidate, Filter, Placement, Rejected, VmStarted, VmStartRequested
from proto.examples import example
from proto.families import FAMILIES
from proto.lease import NodeLost, Proof, ProofKind
from proto.placement import Removed, bitset
from services.gateway.model import EVENTS
from services.gateway.why.evidence import evidence
from services.gateway.why.placing import evidence_of, why_not_node
from services.gateway.why.policies import NOT_RECORDED, choice_of, policy_of
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
    said, lines = why_not_node(twins, "n5")
    assert said.endswith("n1 scored the same, and equals are taken by name") and len(lines) == 2


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
    assert (second.steps[0].cause, second.steps[0].cause_told, root.effects[0].cause_told) == (7, False, True)
    assert root.sentence == "strange thing"


OWN = sorted({tag_of(event): event for family in FAMILIES.values() for event in family.events}.items())
"""every event that any service writes"""


@pytest.mark.parametrize("kind, event", OWN, ids=[kind for kind, _ in OWN])
def test_every_event_of_every_service_has_a_sentence_of_its_own(kind: str, event: type[Event]) -> None:
    assert kind in EVENTS.classes, "the gateway reads it"
    said = sentence(kind, example(event))
    assert said and said != kind.replace("_", " ")
    assert not said.startswith(("{", "<")) and "None" not in said


def test_what_decided_is_named_or_said_to_be_unrecorded() -> None:
    start = msgspec.structs.replace(example(VmStartRequested), placement=PLACED)
    assert policy_of(start) == "p-1"
    assert choice_of(start) == (PLACED.candidates, PLACED.rejected)
    assert policy_of(msgspec.structs.replace(start, placement=Placement(policy=""))) == NOT_RECORDED
    assert policy_of(example(NodeLost)) == NOT_RECORDED and choice_of(example(NodeLost)) == ((), ())
    assert policy_of(example(VmStarted)) == "", "it was seen: nobody decided it"


def test_a_loss_is_told_with_its_proof() -> None:
    lease = Proof(
        kind=ProofKind.LEASE, at_us=20_000_000, term=3, granted_us=13_000_000, seen_us={"p": 12_500_000}, sequences={"p": 41},
        read_us=19_900_000, waited_us=5_250_000,
    )  # fmt: skip
    assert evidence(msgspec.structs.replace(example(NodeLost), proof=lease), {"p": "fast"}) == [
        "last granted 7.00 s before",
        "pool fast: record 41 of its lease was first seen 7.50 s before, and is the last",
        "a fresh read was asked for 0.10 s before",
        "waited for 5.25 s: the lease, what clocks may drift, and a margin",
        "term 3 of the grantor",
    ]
    fence = Proof(kind=ProofKind.FENCE, at_us=20_000_000, term=3, device="ipmi at n1")
    assert evidence(msgspec.structs.replace(example(NodeLost), proof=fence), {})[0] == "device ipmi at n1"


@pytest.mark.parametrize(
    "node, said, line",
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
def test_what_a_placement_says_of_a_node(node: str, said: str, line: str) -> None:
    sentence, lines = why_not_node(PLACED, node)
    assert sentence.startswith(said) and bool(sentence) == bool(said)
    assert (line in lines) if line else not lines


def test_a_placement_in_a_large_cluster_speaks_of_every_node() -> None:
    offline = Removed(filter=Filter.OFFLINE, numbers=bitset(bytes([0b00000100, *([0] * 7)])))
    placed = msgspec.structs.replace(PLACED, passed=40, nodes=60, removed=(offline,))
    assert why_not_node(placed, "n6", 5)[0] == "n6 was no candidate: the filter offline removed it"
    assert why_not_node(placed, "n7", 6)[0].startswith("n7 would have done, but is not among the 2 best of 40")
    assert why_not_node(placed, "n2", 1)[0].startswith("n2 would have done, as choice 2 of 40")
    assert why_not_node(placed, "n99", 60)[0].startswith("n99 was not considered"), "it joined later"
    lines = evidence_of(msgspec.structs.replace(example(VmStartRequested), placement=placed))
    assert "and 38 more nodes would have done" in lines and "and 1 more removed by the filter offline" in lines
