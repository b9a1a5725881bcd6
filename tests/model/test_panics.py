"""A guest that died inside its VM: told once with what it said, over when it runs again; its VM stays what it was."""

from __future__ import annotations

from msgspec.structs import replace

from proto.compute import ReportVm, Seen, VmReset
from proto.node import Want
from proto.panics import VmPanicked, VmPanicOver
from proto.vitals import Screen
from services.compute.model import VM
from services.gateway.why.growing import of_growth
from services.node.drivers import MachineChanged
from services.node.effects import Kept
from tests.model.test_agent import Node, machine, order
from tests.model.test_drift import SPEC, started
from tests.model.test_growth import after, running, seen

SAID = "Windows stopped with 0x000000ef CRITICAL_PROCESS_DIED (0x0, 0x0, 0x0, 0x0)"


def told(panic: str, **more: object) -> ReportVm:
    return replace(seen(running(), 1, 256), hardware=None, panic=panic, **more)


def test_it_is_an_event_once_and_over_when_the_guest_runs_again() -> None:
    vm = running()
    (event,) = VM.decide(told(SAID), vm)
    assert isinstance(event, VmPanicked) and event.sentence == SAID
    dead = after(vm, event)
    assert not VM.decide(told(SAID), dead)
    assert not VM.decide(told("the guest panicked"), dead), "another agent knows less of it"
    assert not VM.decide(told("", seen=Seen.PAUSED), dead)
    (over,) = VM.decide(told(""), dead)
    assert isinstance(over, VmPanicOver)
    assert not VM.decide(told(""), after(dead, over))
    again = after(dead, over)
    assert [type(e) for e in VM.decide(told(SAID), again)] == [VmPanicked]
    assert SAID in of_growth(event) and of_growth(over)


def test_a_reset_is_told_with_its_end() -> None:
    dead = replace(after(running(), *VM.decide(told(SAID), running())), resets_wanted=1)
    assert [type(e) for e in VM.decide(told("", resets=1), dead)] == [VmReset, VmPanicOver]


def died(node: Node, sentence: str = SAID) -> Node:
    return node.do(node.agent.on_change(MachineChanged("a", 1, "panicked", sentence=sentence), node.now_us))


def test_the_agent_says_what_it_heard_and_leaves_the_vm_as_it_is() -> None:
    node = died(started())
    assert (node.facts[-1].panic, node.facts[-1].seen, node.acts) == (SAID, Seen.RUNNING, ["start", "witness"])
    node.heard().order(order(spec=SPEC, version=8, resets=1))
    assert node.acts == ["start", "witness", "reset"]
    assert (node.facts[-1].panic, node.facts[-1].resets) == ("", 1)


def test_its_screen_is_kept_before_anything_is_said_and_before_it_is_ended() -> None:
    node = started()
    node.slow = {"witness"}
    said = len(node.facts)
    died(node).order(order(version=8, want=Want.GONE))
    assert (node.acts, len(node.facts)) == (["start", "witness"], said)
    screen = Screen(digest="ab")
    shown = replace(machine(status="panicked"), screen=screen)
    node.do(node.agent.on_done("a", "witness", "", shown, node.now_us))
    assert node.facts[said].screen == screen and node.acts == ["start", "witness", "kill"]


def test_without_a_picture_it_is_told_all_the_same() -> None:
    node = started()
    node.slow = {"witness"}
    node.do(died(node).agent.on_done("a", "witness", "internal error", None, node.now_us))
    assert (node.facts[-1].panic, node.facts[-1].screen) == (SAID, None)


def test_one_that_an_agent_finds_dead_is_looked_at_first() -> None:
    node = Node("witness")
    node.do(node.agent.on_open([Kept("a", 1, 5, launched=True)], [machine(status="panicked")], node.now_us))
    assert (node.acts, node.facts) == (["witness"], [])


def test_an_agent_that_comes_later_says_that_much() -> None:
    assert died(started(), "").facts[-1].panic == "the guest panicked"
