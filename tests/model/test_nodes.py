"""The nodes of the cluster: join, report, cordon, remove."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.decider import Refused
from libs.common.host.service import Order
from libs.common.messages import NodeId
from libs.common.testing import Spec
from proto.compute import (
    Capabilities,
    CordonNode,
    JoinNode,
    NodeCommand,
    NodeCordoned,
    NodeEvent,
    NodeHealthChanged,
    NodeJoined,
    NodeLeaveRefused,
    NodeLeaveRequested,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    Refusal,
    RemoveNode,
    ReportLeft,
    ReportNode,
    UncordonNode,
)
from proto.nodes import OrderLeave
from services.compute.nodes import NODE, Joined, Member, Node, Outside
from services.compute.react import orders

N1 = NodeId("n1")
CAN = Capabilities(
    accelerator="tcg", cpu_model="qemu64", pcpus=2, memory_mib=4096, qemu_version="7.2", machine="pc-q35-7.2", driver="simulated",
    pools=("default",),
)  # fmt: skip
JOIN = JoinNode(node="n1", key="K")
JOINED = NodeJoined(node=N1, key="K")
REPORT = ReportNode(node=N1, capabilities=CAN, boot_id="b1", address="127.0.0.1")
REPORTED = NodeReported(node=N1, capabilities=CAN, boot_id="b1", address="127.0.0.1")
CORDON = CordonNode(node="n1", reason="disk swap")
CORDONED = NodeCordoned(node=N1, reason="disk swap")
HISTORIES: dict[str, tuple[NodeEvent, ...]] = {
    "outside": (),
    "joined": (JOINED,),
    "member": (JOINED, REPORTED),
    "cordoned": (JOINED, REPORTED, CORDONED),
    "cordoned before the hello": (JOINED, CORDONED),
    "leaving": (JOINED, REPORTED, CORDONED, NodeLeaveRequested(node=N1)),
    "removed": (JOINED, REPORTED, NodeRemoved(node=N1)),
}
COMMANDS: tuple[NodeCommand, ...] = (
    JOIN,
    JoinNode(node="n1", key="other"),
    REPORT,
    msgspec.structs.replace(REPORT, boot_id="b2"),
    CORDON,
    UncordonNode(node="n1"),
    RemoveNode(node="n1"),
    RemoveNode(node="n1", vms=("a",)),
    RemoveNode(node="n1", online=True),
    ReportLeft(node=NodeId("n1"), left=("something",)),
    ReportLeft(node=NodeId("n1"), refused="no"),
)
node = Spec(NODE)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_every_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[NodeEvent, ...]) -> None:
    node.given(*history).settles(*COMMANDS)


def test_a_node_joins_once() -> None:
    node.given().when(JOIN).then(JOINED).to_state(Joined(key="K")).twice()
    node.given(JOINED).when(JoinNode(node="n1", key="other")).refused(Refusal.NODE_KNOWN)


def test_a_report_counts_only_of_a_node_that_joined_and_only_when_it_changed() -> None:
    node.given().when(REPORT).refused(Refusal.NODE_UNKNOWN)
    node.given(JOINED).when(REPORT).then(REPORTED).twice()
    again = msgspec.structs.replace(REPORT, boot_id="b2")
    node.given(JOINED, REPORTED).when(again).then(msgspec.structs.replace(REPORTED, boot_id="b2"))


def test_a_cordon_outlives_a_report() -> None:
    node.given(JOINED, CORDONED, REPORTED).is_state(
        Member(key="K", capabilities=CAN, boot_id="b1", address="127.0.0.1", cordoned=True, reason="disk swap")
    )
    node.given(JOINED, REPORTED).when(CORDON).then(CORDONED).twice()
    node.given(JOINED, REPORTED, CORDONED).when(UncordonNode(node="n1")).then(NodeUncordoned(node=N1)).twice()


def test_a_node_with_vms_is_not_removed() -> None:
    outcome = node.given(JOINED, REPORTED).when(RemoveNode(node="n1", vms=tuple("abcdefg")))
    refusal = outcome.refused(Refusal.NODE_NOT_EMPTY).refusal
    assert refusal and "a, b, c, d, e and 2 more" in refusal.sentence
    node.given(JOINED, REPORTED).when(RemoveNode(node="n1")).then(NodeRemoved(node=N1)).to_state(Outside())


# --- removed in good order -----------------------------------------------------------------------------------------------

HEARD = RemoveNode(node="n1", online=True)
ASKED = NodeLeaveRequested(node=N1)
LEFT = ReportLeft(node=N1, left=("swap: it is busy",))
GOING = (JOINED, REPORTED, CORDONED, ASKED)


def test_a_node_that_is_heard_is_asked_to_clear_up_and_removed_once_it_has() -> None:
    asked = node.given(JOINED, REPORTED).when(HEARD)
    asked.then(NodeCordoned(node=N1, reason="it is being removed"), ASKED)
    node.given(JOINED, REPORTED, CORDONED).when(HEARD).then(ASKED).twice()
    node.given(*GOING).when(LEFT).then(NodeRemoved(node=N1, left=LEFT.left)).to_state(Outside())
    node.given(*GOING).when(ReportLeft(node=N1)).then(NodeRemoved(node=N1))


def test_an_agent_that_stays_says_why_and_may_be_asked_again() -> None:
    stays = NodeLeaveRefused(node=N1, sentence="n1 still runs a")
    node.given(*GOING).when(ReportLeft(node=N1, refused="n1 still runs a")).then(stays).twice()
    node.given(*GOING, stays).when(LEFT).then()
    node.given(*GOING, stays).when(HEARD).then(ASKED)


def test_one_that_is_not_heard_or_not_to_be_asked_is_removed_at_once() -> None:
    for history in ((JOINED, REPORTED), GOING):
        node.given(*history).when(RemoveNode(node="n1", online=False)).then(NodeRemoved(node=N1))
        node.given(*history).when(RemoveNode(node="n1", online=True, at_once=True)).then(NodeRemoved(node=N1))
    node.given(JOINED).when(HEARD).then(NodeRemoved(node=N1)).to_state(Outside())
    node.given(*GOING).when(RemoveNode(node="n1", online=True, vms=("a",))).refused(Refusal.NODE_NOT_EMPTY)
    node.given(JOINED, REPORTED).when(LEFT).then()
    node.given().when(LEFT).refused(Refusal.NODE_UNKNOWN)


def test_while_it_leaves_its_agent_is_told_so_also_after_a_report() -> None:
    again = msgspec.structs.replace(REPORTED, boot_id="b2")
    state = NODE.fold([*GOING, again])
    told = orders("node-n1", state, 7)
    assert isinstance(told, Order) and told.node == N1 and told.message == OrderLeave(node="n1", version=7)
    for history in ((), (JOINED, REPORTED), (*GOING, NodeRemoved(node=N1))):
        assert orders("node-n1", NODE.fold(history), 7) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(COMMANDS), max_size=30))
def test_states_survive_the_wire(story: list[NodeCommand]) -> None:
    state: Node = NODE.initial
    for command in story:
        try:
            state = NODE.fold(NODE.decide(command, state), state)
        except Refused as refused:
            assert refused.sentence and refused.remedy
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=NODE.state) == state


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([e for h in HISTORIES.values() for e in h]), max_size=20))
def test_evolve_never_raises_whatever_the_order(events: list[NodeEvent]) -> None:
    assert isinstance(NODE.fold(events), Outside | Joined | Member)


def test_health_is_an_event_where_it_changed_and_the_hello_need_not() -> None:
    ill = msgspec.structs.replace(REPORT, health_pct=40, health_reason="a disk is slow")
    changed = NodeHealthChanged(node=N1, health_pct=40, reason="a disk is slow")
    Spec(NODE).given(JOINED, REPORTED).when(ill).then(changed)
    Spec(NODE).given(JOINED).when(ill).then(REPORTED, changed)
    Spec(NODE).given(JOINED, REPORTED, changed).when(ill).then()
    Spec(NODE).given(JOINED, REPORTED, changed).when(REPORT).then(NodeHealthChanged(node=N1, health_pct=100))
