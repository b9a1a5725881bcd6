"""The agent's stepper: orders in, actions out; generations on disk before anything is done; reports until heard."""

from __future__ import annotations

from typing import Any

import msgspec

from libs.common.messages import NodeId, Reply
from proto.compute import GoneCause, ReportVm, Seen
from proto.machine import Firmware, MachineSpec, Shape
from proto.node import OrderVm, Want
from services.node.drivers import Machine, MachineChanged
from services.node.drivers.present import Present
from services.node.model import Act, Agent, AnswerOrder, Kept, Persist, SendFact

SHAPE = Shape(
    vcpus=1, memory_mib=256, vcpus_max=1, memory_max_mib=256, machine="pc-q35-7.2", cpu_model="qemu64",
    firmware=Firmware.DIRECT, uuid="",
)  # fmt: skip
ACCEPTED = Reply(status="accepted")
MAKES = {"start": "running", "receive": "incoming", "activate": "paused", "recall": "running"}
"""what a verb leaves behind"""
NOT_YOURS = Reply(status="refused", reason="NOT_YOURS")


def order(generation: int = 1, version: int = 5, want: Want = Want.RUNNING, **more: Any) -> OrderVm:
    spec = None if want is Want.GONE else MachineSpec(vm="a", generation=generation, shape=SHAPE)
    spec = more.pop("spec", spec)
    return OrderVm(vm="a", generation=generation, version=version, want=want, spec=spec, **more)


def machine(generation: int = 1, status: str = "running") -> Machine:
    return Machine("a", generation, 4711, status)


class Node:
    """An agent with a disk and a driver that do at once what they are asked, except for verbs in `slow`. Looks change nothing, and
    are counted apart."""

    def __init__(self, *slow: str) -> None:
        self.agent = Agent(NodeId("n1"))
        self.slow = set(slow)
        self.disk: list[Kept] = []
        self.acts: list[str] = []
        self.sequence: list[str] = []
        """of both"""
        self.looks = 0
        self.present: Present | None = None
        """what a look finds"""
        self.facts: list[ReportVm] = []
        self.answers: list[bool] = []
        self.now_us = 1_000_000
        self.fails = ""

    def do(self, effects: Any) -> Node:
        for effect in effects:
            match effect:
                case AnswerOrder(_, heard):
                    self.answers.append(heard.accepted)
                case Persist(kept):
                    self.disk.append(kept)
                    self.sequence.append("kept")
                    self.do(self.agent.on_persisted(kept))
                case Act(vm=_, verb="look"):
                    self.looks += 1
                    seen = msgspec.structs.replace(machine(), present=self.present)
                    self.do(self.agent.on_done("a", "look", "", seen, self.now_us))
                case Act(vm=_, verb=verb):
                    self.acts.append(verb)
                    self.sequence.append(verb)
                    if verb not in self.slow:
                        self.done(verb)
                case SendFact(_, _, _, fact):
                    assert isinstance(fact, ReportVm)
                    self.facts.append(fact)
        return self

    def done(self, verb: str, error: str = "") -> Node:
        made = None
        error = error or (self.fails if verb == "start" else "")
        if verb in MAKES and not error:
            made = machine(self.agent.vms["a"].kept.generation, MAKES[verb])
        if verb == "receive" and made is not None:
            made = msgspec.structs.replace(made, address="there")
        return self.do(self.agent.on_done("a", verb, error, made, self.now_us))

    def order(self, said: OrderVm) -> Node:
        return self.do(self.agent.on_order("ref", said, self.now_us))

    def tick(self, seconds: float = 1.0) -> Node:
        self.now_us += round(seconds * 1e6)
        return self.do(self.agent.on_tick(self.now_us))

    def heard(self, reply: Reply = ACCEPTED) -> Node:
        return self.do(self.agent.on_reply("a", self.agent.vms["a"].serial, reply, self.now_us))

    def change(self, status: str, cause: GoneCause = GoneCause.UNKNOWN, generation: int = 1) -> Node:
        return self.do(self.agent.on_change(MachineChanged("a", generation, status, cause), self.now_us))


def test_an_order_is_on_disk_before_it_is_acted_on() -> None:
    node = Node("start").order(order())
    assert node.disk == [Kept("a", 1, 5), Kept("a", 1, 5, launched=True)]
    assert node.sequence == ["kept", "kept", "start"]
    assert node.facts == []  # nothing is said while it is being done
    node.done("start")
    assert [(f.seen, f.generation, f.order_version) for f in node.facts] == [(Seen.RUNNING, 1, 5)]


def test_the_same_order_again_does_nothing_more() -> None:
    node = Node().order(order()).order(order())
    assert node.answers == [True, True]
    assert node.acts == ["start"]


def test_an_older_generation_or_version_is_refused() -> None:
    node = Node().order(order(generation=3, version=9))
    node.order(order(generation=2, version=12)).order(order(generation=3, version=8, want=Want.GONE))
    assert node.answers == [True, False, False]
    assert node.acts == ["start"]


def test_an_older_generation_is_refused_by_what_lay_on_disk() -> None:
    node = Node()
    node.do(node.agent.on_open([Kept("a", 4, 20, launched=True)], [], node.now_us))
    assert [f.seen for f in node.facts] == [Seen.GONE]
    node.order(order(generation=3, version=30)).order(order(generation=4, version=19))
    assert node.answers == [False, False]
    assert node.acts == []


def test_a_generation_is_started_once() -> None:
    node = Node().order(order())
    node.change("gone", GoneCause.CRASHED)
    assert node.facts[-1].seen is Seen.GONE and node.facts[-1].cause is GoneCause.CRASHED
    node.order(order(version=6)).tick().tick()
    assert node.acts == ["start"]
    node.order(order(generation=2, version=9))
    assert node.acts == ["start", "start"]


def test_a_start_that_was_begun_by_the_agent_before_is_not_begun_again() -> None:
    node = Node()
    node.do(node.agent.on_open([Kept("a", 1, 5, launched=True)], [], node.now_us))
    node.order(order()).tick()
    assert node.acts == []
    assert node.facts[-1].seen is Seen.GONE


def test_a_failed_start_is_reported_with_its_sentence_and_not_repeated() -> None:
    node = Node()
    node.fails = "no such machine type"
    node.order(order()).tick().tick()
    assert node.acts == ["start"]
    assert (node.facts[0].seen, node.facts[0].sentence) == (Seen.FAILED, "no such machine type")


def test_an_end_that_comes_before_its_start_was_done_is_not_lost() -> None:
    node = Node("start").order(order())
    node.change("gone", GoneCause.CRASHED).done("start")
    assert (node.facts[-1].seen, node.facts[-1].cause) == (Seen.GONE, GoneCause.CRASHED)


def test_reports_are_repeated_until_heard_and_ever_more_slowly() -> None:
    node = Node().order(order())
    first = len(node.facts)
    for _ in range(10):
        node.tick(0.5)
    repeated = len(node.facts) - first
    assert 1 <= repeated <= 3
    node.heard().tick(20)
    assert len(node.facts) - first == repeated


def test_adopted_processes_are_reported_and_fitted_once() -> None:
    """The agent before may have been cut short in the middle of a plug."""
    node = Node()
    node.do(node.agent.on_open([Kept("a", 1, 5, launched=True)], [machine()], node.now_us))
    assert [(f.seen, f.pid) for f in node.facts] == [(Seen.RUNNING, 4711)]
    node.order(order()).tick().tick()
    assert node.acts == ["fit"]


def test_what_the_log_disowns_is_killed() -> None:
    node = Node()
    node.do(node.agent.on_open([Kept("a", 1, 5, launched=True)], [machine()], node.now_us))
    node.heard(NOT_YOURS)
    assert node.acts == ["kill"]
    assert node.facts[-1].seen is Seen.GONE


def test_a_late_not_yours_about_an_older_report_kills_nothing() -> None:
    node = Node().order(order())
    serial = node.agent.vms["a"].serial
    node.order(order(version=6))
    node.do(node.agent.on_reply("a", serial, NOT_YOURS, node.now_us))
    assert node.acts == ["start"]


def test_an_older_process_is_killed_before_a_newer_generation_starts() -> None:
    node = Node().order(order())
    node.order(order(generation=2, version=9))
    assert node.acts == ["start", "kill", "start"]
    assert node.facts[-1].generation == 2


def test_stop_asks_the_guest_first_and_kills_at_the_deadline() -> None:
    node = Node().order(order())
    node.order(order(version=7, want=Want.GONE, deadline_s=10))
    assert node.acts == ["start", "shutdown"]
    node.tick(9)
    assert node.acts == ["start", "shutdown"]
    node.tick(2)
    assert node.acts == ["start", "shutdown", "kill"]
    assert (node.facts[-1].seen, node.facts[-1].cause) == (Seen.GONE, GoneCause.ORDERED)


def test_a_guest_that_obeys_is_reaped_at_once() -> None:
    node = Node().order(order()).order(order(version=7, want=Want.GONE, deadline_s=60))
    node.change("shutdown", GoneCause.GUEST)
    assert node.acts == ["start", "shutdown", "kill"]


def test_a_stop_that_arrives_while_starting_ends_what_was_started() -> None:
    node = Node("start").order(order()).order(order(version=6, want=Want.GONE))
    assert node.acts == ["start"]
    node.done("start")
    assert node.acts == ["start", "kill"]
    assert node.facts[-1].seen is Seen.GONE


def test_a_stop_before_the_launch_never_starts() -> None:
    agent = Agent(NodeId("n1"))
    assert [type(e) for e in agent.on_order("ref", order(), 0)] == [AnswerOrder, Persist]
    agent.on_order("ref", order(version=6, want=Want.GONE), 0)
    effects = agent.on_persisted(Kept("a", 1, 5))
    while effects:
        assert not any(isinstance(e, Act) for e in effects)
        effects = [x for e in effects if isinstance(e, Persist) for x in agent.on_persisted(e.kept)]


def test_pause_resume_and_reset_make_up_the_difference() -> None:
    node = Node().order(order()).order(order(version=6, want=Want.PAUSED))
    assert node.facts[-1].seen is Seen.PAUSED
    node.order(order(version=8, want=Want.RUNNING)).order(order(version=10, resets=2))
    assert node.acts == ["start", "pause", "resume", "reset", "reset"]
    assert node.facts[-1].resets == 2


def test_a_guest_that_powers_itself_off_is_reaped_and_not_started_again() -> None:
    node = Node().order(order())
    node.change("shutdown", GoneCause.GUEST).tick()
    assert node.acts == ["start", "kill"]
    assert (node.facts[-1].seen, node.facts[-1].cause) == (Seen.GONE, GoneCause.GUEST)


def test_changes_of_a_process_that_is_not_ours_any_more_are_nothing() -> None:
    node = Node().order(order(generation=2, version=9))
    said = len(node.facts)
    node.change("gone", GoneCause.CRASHED, generation=1)
    assert len(node.facts) == said
    assert node.agent.vms["a"].machine == msgspec.structs.replace(machine(2))
