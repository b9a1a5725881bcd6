"""The agent's stepper and guests that come and go: what is on disk before what, and whose order wins."""

from __future__ import annotations

from typing import Any

import pytest

from proto.compute import GoneCause, Seen
from proto.node import Want
from services.node.drivers import MachineChanged
from services.node.model import AGAIN_US, Kept
from tests.model.test_agent import NOT_YOURS, Node, machine, order


def sending(version: int = 7, **more: Any) -> Any:
    return order(version=version, want=Want.MIGRATING, address="there", incoming=2, deadline_s=600, **more)


def waiting(version: int = 5) -> Any:
    return order(generation=2, version=version, want=Want.INCOMING)


def go_on(version: int = 9) -> Any:
    return order(generation=2, version=version, spec=None)


def tell(node: Node, status: str, generation: int = 1, **more: Any) -> Node:
    return node.do(node.agent.on_change(MachineChanged("a", generation, status, **more), node.now_us))


def sender(*slow: str) -> Node:
    return Node(*slow).order(order()).order(sending())


# --- the source ------------------------------------------------------------------------------------------------------


def test_that_it_left_is_on_disk_before_its_process_ends_and_before_anybody_is_told() -> None:
    node = sender("kill")
    assert node.acts == ["start", "send"]
    said = len(node.facts)
    tell(node, "sent", sent_mib=90, total_ms=700, paused_us=5)
    assert node.disk[-1] == Kept("a", 1, 7, launched=True, sent=2)
    assert node.acts == ["start", "send", "kill"]
    assert all(f.moved_to == 0 and f.seen is not Seen.GONE for f in node.facts[said:])
    node.done("kill")
    fact = node.facts[-1]
    assert (fact.seen, fact.cause, fact.moved_to, fact.order_version) == (Seen.GONE, GoneCause.MIGRATED, 2, 7)
    assert (fact.sent_mib, fact.total_ms, fact.paused_us) == (90, 700, 5)


def test_a_sending_that_fails_is_told_and_not_tried_again() -> None:
    node = tell(sender(), "running", unsent="refused").tick().tick()
    assert node.acts == ["start", "send"]
    fact = node.facts[-1]
    assert (fact.seen, fact.unsent, fact.sending, fact.order_version) == (Seen.RUNNING, "refused", False, 7)
    node.order(sending(version=12))
    assert node.acts == ["start", "send", "send"]


def test_a_sending_that_cannot_begin_is_told() -> None:
    node = sender("send").done("send", "nobody waits")
    assert node.facts[-1].unsent == "nobody waits"
    assert node.tick().acts == ["start", "send"]


def test_it_says_that_it_sends_until_it_does_not() -> None:
    node = sender("recall")
    assert node.facts[-1].sending
    node.order(order(version=8))
    assert node.acts == ["start", "send", "recall"]
    assert all(f.sending for f in node.facts if f.order_version == 8)
    node.done("recall")
    assert (node.facts[-1].sending, node.facts[-1].order_version) == (False, 8)


def test_what_was_sent_whole_is_recalled_while_it_is_not_on_disk() -> None:
    """The recall was heard before the end of the sending was."""
    node = sender("recall").order(order(version=8))
    tell(node, "sent")
    assert node.facts[-1].sending
    node.done("recall")
    assert node.acts == ["start", "send", "recall"]
    assert not any(kept.sent for kept in node.disk)
    assert (node.facts[-1].seen, node.facts[-1].sending) == (Seen.RUNNING, False)


def test_what_has_left_never_runs_here_again_whatever_is_ordered() -> None:
    node = sender("kill")
    tell(node, "sent")
    node.order(order(version=8))
    node.done("kill")
    assert node.acts == ["start", "send", "kill"]
    assert (node.facts[-1].cause, node.facts[-1].moved_to) == (GoneCause.MIGRATED, 2)
    assert node.tick().acts == ["start", "send", "kill"]
    assert node.disk[-1].sent == 2 and node.disk[-1].version == 8


@pytest.mark.parametrize("there", [True, False], ids=["its process is there", "it is gone"])
def test_the_next_agent_knows_from_its_disk_that_it_left(there: bool) -> None:
    node = Node()
    found = [machine(status="sent")] if there else []
    node.do(node.agent.on_open([Kept("a", 1, 7, launched=True, sent=2)], found, node.now_us))
    assert node.acts == (["kill"] if there else [])
    assert (node.facts[-1].seen, node.facts[-1].cause, node.facts[-1].moved_to) == (Seen.GONE, GoneCause.MIGRATED, 2)


def test_the_next_agent_waits_for_an_order_where_it_is_not_on_disk() -> None:
    node = Node()
    node.do(node.agent.on_open([Kept("a", 1, 7, launched=True)], [machine(status="sent")], node.now_us))
    assert node.acts == [] and node.facts[-1].sending
    node.order(sending())
    assert node.acts == ["kill"] and node.disk[-1].sent == 2


def test_a_process_that_ended_by_itself_did_not_hand_its_guest_over() -> None:
    node = sender()
    node.change("gone", GoneCause.CRASHED)
    assert (node.facts[-1].seen, node.facts[-1].cause, node.facts[-1].moved_to) == (Seen.GONE, GoneCause.CRASHED, 0)


def test_what_cannot_be_sent_in_time_runs_on_here() -> None:
    node = Node("recall").order(order()).order(sending())
    node.tick(599)
    assert node.acts == ["start", "send"]
    node.tick(2)
    assert node.acts == ["start", "send", "recall"]
    node.done("recall")
    assert "600 s" in node.facts[-1].unsent
    assert node.tick().acts == ["start", "send", "recall"]


def test_a_guest_that_powers_off_while_it_is_sent_is_reaped() -> None:
    node = sender()
    node.change("shutdown", GoneCause.GUEST)
    assert node.acts == ["start", "send", "kill"]
    assert (node.facts[-1].cause, node.facts[-1].moved_to) == (GoneCause.GUEST, 0)


# --- the target ------------------------------------------------------------------------------------------------------


def test_it_waits_and_runs_only_when_it_is_ordered_to() -> None:
    node = Node().order(waiting()).tick().tick()
    assert node.acts == ["receive"]
    assert (node.facts[-1].seen, node.facts[-1].address, node.facts[-1].generation) == (Seen.INCOMING, "there", 2)
    node.order(go_on())
    assert node.acts == ["receive", "activate", "resume"]
    assert node.facts[-1].seen is Seen.RUNNING and node.facts[-1].resumed_us == node.now_us


def test_one_that_is_to_be_paused_is_not_resumed() -> None:
    node = Node().order(waiting()).order(order(generation=2, version=9, want=Want.PAUSED, spec=None))
    assert node.acts == ["receive", "activate"]
    assert node.facts[-1].seen is Seen.PAUSED


def test_an_order_to_go_on_starts_nothing_anew() -> None:
    node = Node().order(go_on()).tick()
    assert node.acts == [] and node.facts[-1].seen is Seen.GONE
    lost = Node().order(waiting())
    lost.change("gone", GoneCause.CRASHED, generation=2)
    lost.order(go_on()).tick()
    assert lost.acts == ["receive"] and lost.facts[-1].seen is Seen.GONE


def test_an_activation_that_fails_is_tried_again_after_a_while() -> None:
    node = Node("activate").order(waiting()).order(go_on())
    node.done("activate", "the process that it left is still there")
    assert node.acts == ["receive", "activate"]
    assert node.facts[-1].seen is Seen.INCOMING
    node.tick(AGAIN_US / 1e6).done("activate")
    assert node.acts == ["receive", "activate", "activate", "resume"]


def test_one_that_is_not_wanted_any_more_is_ended() -> None:
    node = Node().order(waiting()).order(order(generation=2, version=9, want=Want.GONE, deadline_s=60))
    assert node.acts == ["receive", "kill"]
    assert node.facts[-1].seen is Seen.GONE
    disowned = Node().order(waiting()).heard(NOT_YOURS)
    assert disowned.acts == ["receive", "kill"]


def test_a_late_order_to_wait_is_refused() -> None:
    node = Node().order(waiting()).order(go_on()).order(waiting())
    assert node.answers == [True, True, False]
    assert node.acts == ["receive", "activate", "resume"]
