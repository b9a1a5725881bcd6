"""What counts towards a storm of losses: those that were concluded from silence alone, and that nobody had planned."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded
from proto.compute import NodeCordoned, NodeJoined, NodeRemoved, NodeUncordoned
from proto.examples import example
from proto.lease import (
    HaHeld,
    NodeLost,
    NodePathsNoted,
    NodeSuspected,
    Proof,
    ProofKind,
    ReportReturned,
    SuspectNode,
)
from services.ha import react
from services.ha.guard_views import Known
from services.ha.lease import evolve
from services.ha.states import Suspected, Trusted
from services.ha.views import Views
from tests.model.ha_rig import Rig, S, kinds

TEN = "n0 n1 n2 n3 n4 n5 n6 n7 n8 n9"
N1 = NodeId("n1")
JOINED = replace(example(NodeJoined), node=N1)


def settled() -> Rig:
    rig = Rig(TEN)
    rig.run(10)
    return rig


def reboot(rig: Rig, name: str, away_s: float) -> None:
    """It is away for so long, and is granted a lease of the next epoch before the next one goes."""
    node = rig.nodes[name]
    node.alive = False
    rig.run(away_s)
    node.alive, node.boot_id, node.epoch, node.span_us, node.pools = True, f"{node.boot_id}+", 0, 0, ()
    for _ in range(40):
        rig.run(0.5)
        if node.span_us:
            return
    raise AssertionError(f"{name} has no lease again: {kinds(rig)[-5:]}")


def test_ten_nodes_that_are_brought_up_to_date_one_after_the_other_disarm_nothing() -> None:
    rig = settled()
    began_us = rig.now_us
    for name in rig.nodes:
        rig.planned = {name: f"somebody had cordoned {name}"}
        reboot(rig, name, 15)
    assert kinds(rig).count("NodeLost") == 10 and rig.now_us - began_us < 300 * S
    assert "HaHeld" not in kinds(rig)
    rig.planned = {}
    rig.nodes["n4"].alive = False
    assert rig.until(NodeLost).node == "n4", "and who dies by surprise is restarted"


def test_reboots_that_are_over_before_anything_is_proven_disarm_nothing() -> None:
    rig = settled()
    for name in rig.nodes:
        reboot(rig, name, 2)
    lost = [event for _, event in rig.events if isinstance(event, NodeLost)]
    assert len(lost) == 10 and all(event.proof.anew for event in lost) and "HaHeld" not in kinds(rig)


def test_reboots_that_nobody_announced_are_a_storm_as_ever() -> None:
    rig = settled()
    reboot(rig, "n0", 15)
    reboot(rig, "n1", 15)
    rig.nodes["n2"].alive = False
    assert "more than 2 at once" in rig.until(HaHeld).sentence
    rig.run(30)
    assert kinds(rig).count("NodeLost") == 2


def test_several_that_were_announced_may_be_away_at_once_and_one_that_was_not_is_told_from_them() -> None:
    rig = settled()
    rig.planned = dict.fromkeys(("n0", "n1", "n2"), "so it was")
    for name in rig.planned:
        rig.nodes[name].alive = False
    rig.until(NodeLost)
    rig.nodes["n3"].alive = False
    rig.run(10)
    assert kinds(rig).count("NodeLost") == 4 and "HaHeld" not in kinds(rig)


def test_that_most_nodes_are_silent_is_doubted_though_it_was_planned() -> None:
    rig = settled()
    rig.planned = dict.fromkeys(rig.nodes, "so it was")
    for name in list(rig.nodes)[:8]:
        rig.nodes[name].alive = False
    assert "is it me?" in rig.until(HaHeld).sentence


PROOF = Proof(kind=ProofKind.LEASE, at_us=1)
LOST = [
    (PROOF, "", 9),
    (Proof(kind=ProofKind.FENCE, at_us=1, device="bmc"), "", 9),
    (Proof(kind=ProofKind.ACKNOWLEDGED, at_us=1, letter=2), "", 9),
    (PROOF, "somebody had cordoned n1", 0),
    (Proof(kind=ProofKind.LEASE, at_us=1, anew=True), "", 0),
    (Proof(kind=ProofKind.ACKNOWLEDGED, at_us=1), "", 0),
    (Proof(kind=ProofKind.OPERATOR, at_us=1), "", 0),
]


@pytest.mark.parametrize(("proof", "planned", "counted_us"), LOST, ids=str)
def test_what_we_concluded_counts_and_what_was_said_does_not(proof: Proof, planned: str, counted_us: int) -> None:
    was = Suspected(boot_id="b", since_us=1, planned=planned)
    assert evolve(was, NodeLost(node=N1, boot_id="b", epoch=1, at_us=9, proof=proof)).lost_us == counted_us


def test_a_lease_that_the_node_itself_says_is_over_is_no_loss_of_ours() -> None:
    rig = settled()
    for name in ("n0", "n1", "n2", "n3"):
        rig.decide(ReportReturned(node=NodeId(name), boot_id=f"boot-{name}", epoch=1, at_us=rig.wall_us))
    rig.nodes["n5"].alive = False
    assert rig.until(NodeLost).node == "n5" and "HaHeld" not in kinds(rig)


def planned(*events: object, busy: tuple[str, ...] = ("n1",)) -> str:
    views = Views()
    for position, event in enumerate((JOINED, *events), 1):
        views.nodes.apply(Recorded(position, "s", position, "t", 1, 0, b"", b""), event)
    views.guards.vms = {f"vm-{node}": Known(node=node) for node in busy}
    command = react.enrich(SuspectNode(node="n1", planned="I say so", now_us=1), views, 1)
    assert isinstance(command, SuspectNode)
    return command.planned


def test_what_is_planned_is_known_to_ha_alone() -> None:
    cordoned, away = NodeCordoned(node=N1, reason="new kernel"), NodePathsNoted(node=N1, at_us=1, networks=("br0",), move=True)
    assert planned() == "" and planned(busy=("n2",)) == "no VM ran on n1"
    assert planned(cordoned) == "somebody had cordoned n1"
    assert planned(cordoned, NodeUncordoned(node=N1)) == ""
    assert planned(away, cordoned) == "", "by policy, for a network: that nobody planned"
    assert planned(cordoned, away, cordoned) == "somebody had cordoned n1"
    assert planned(away, cordoned, NodeUncordoned(node=N1), cordoned) == "somebody had cordoned n1"
    assert planned(cordoned, NodeRemoved(node=N1), JOINED) == ""


def test_each_suspicion_says_anew_whether_it_was_planned() -> None:
    rig = settled()
    for said in ("so it was", "", "so it was"):
        rig.planned = {"n1": said}
        rig.nodes["n1"].alive = False
        assert rig.until(NodeSuspected).planned == said
        rig.until(NodeLost)
        reboot(rig, "n1", 1)
        rig.run(3)
        assert isinstance(rig.leases["n1"], Trusted)
    assert "NodeReturned" in kinds(rig)
