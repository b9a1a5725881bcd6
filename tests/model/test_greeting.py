"""What a restored log asks of an agent, and what it believes of its answers; the whole under faults is in tests/sim."""

from __future__ import annotations

from typing import Any

from libs.common.messages import Reply, VmId, floor_of, incarnation_of
from libs.common.testing import Spec
from proto.compute import (
    AbandonStart,
    DefineVm,
    DeleteVm,
    NoteMemory,
    Refusal,
    Seen,
    StartVm,
    VmFound,
    VmStopped,
    VmStrangerGone,
    VmStrangerSeen,
)
from proto.node import OrderGreeting
from services.compute.model import VM
from services.node.model import NODE_RECORD, Agent, Greet, Kept
from tests.model.compute_story import DEFINED, N1, N2, choice, launched, report, requested
from tests.model.test_agent import ACCEPTED, Node, machine, order

# --- the agent -------------------------------------------------------------------------------------------------------


class Greeted(Node):
    """As the other, and notes which greetings were answered."""

    def __init__(self, *slow: str) -> None:
        super().__init__(*slow)
        self.greeted: list[int] = []

    def do(self, effects: Any) -> Greeted:
        effects = list(effects)
        super().do(effects)
        self.greeted += [e.greeting for e in effects if isinstance(e, Greet)]
        return self

    def greet(self, incarnation: int) -> Greeted:
        return self.do(
            self.agent.on_greeting("ref", OrderGreeting(node="n1", version=3, incarnation=incarnation), self.now_us)
        )

    def heard(self, reply: Reply = ACCEPTED) -> Greeted:
        for name, vm in self.agent.vms.items():
            self.do(self.agent.on_reply(name, vm.serial, reply, self.now_us))
        return self


def test_generations_of_each_incarnation_are_above_all_before() -> None:
    assert [incarnation_of(g) for g in (0, 1, floor_of(2), floor_of(2) + 1, floor_of(3), floor_of(3) + 1)] == [
        1,
        1,
        1,
        2,
        2,
        3,
    ]


def test_a_greeting_is_answered_once_all_reports_were_heard() -> None:
    node = Greeted()
    node.order(order())
    node.heard()
    node.greet(2)
    assert (node.disk[-1].vm, node.disk[-1].incarnation) == (NODE_RECORD, 2)
    assert (node.facts[-1].seen, node.facts[-1].heard, node.greeted) == (Seen.RUNNING, 2, [])
    node.heard(Reply(status="refused", reason="RECONCILING", sentence="not yet"))
    assert not node.greeted
    node.heard()
    assert node.greeted == [2]
    again = Agent(node.agent.node)
    again.on_open(node.disk, [machine()], 1)
    assert (again.incarnation, again.met, NODE_RECORD in again.vms) == (2, 2, False)


def test_what_is_under_way_is_waited_for_and_orders_of_a_lost_timeline_end() -> None:
    node = Greeted("start")
    node.order(order())
    node.greet(2)
    assert not node.greeted
    node.done("start")
    node.tick()
    node.heard()
    assert node.greeted == [2] and "a" in node.agent.vms
    node.answers.clear()
    node.order(order(version=99))
    assert node.answers == [False]
    node.order(order(version=1, incarnation=2))
    assert node.answers == [False, True] and node.disk[-1] == Kept("a", 1, 1, launched=True, incarnation=2)


def test_an_old_start_is_not_made_up_for() -> None:
    """Generation 1 was decided by the first incarnation; only that may start it."""
    node = Greeted()
    node.order(order(incarnation=2))
    assert node.acts == [] and node.facts[-1].seen is Seen.FAILED
    node.order(order(generation=floor_of(2) + 1, version=9, incarnation=2))
    assert node.acts == ["start"]


# --- the log ---------------------------------------------------------------------------------------------------------

vm = Spec(VM)
STOPPED = (DEFINED, requested(N1, 1, choice(N1)), launched(N1, 1))


def seen(what: Seen, generation: int, node: Any = N2, heard: int = 2) -> Any:
    return report(what, generation, node, incarnation=2, heard=heard)


def found(generation: int, node: Any = N2) -> VmFound:
    return VmFound(
        vm=DEFINED.vm, node=node, generation=generation, memory_mib=DEFINED.shape.memory_mib, vcpus=DEFINED.shape.vcpus,
        priority=DEFINED.priority, disks=DEFINED.disks, nics=DEFINED.nics,
    )  # fmt: skip


def test_what_runs_beyond_the_log_is_found_by_greeted_nodes_only() -> None:
    stopped = vm.given(DEFINED)
    stopped.when(seen(Seen.RUNNING, 4, heard=1)).refused(Refusal.RECONCILING)
    stopped.when(seen(Seen.RUNNING, 4)).then(found(4)).twice()
    stopped.when(seen(Seen.GONE, 4)).nothing()


def test_the_node_that_the_log_names_is_heard_first() -> None:
    launching = vm.given(*STOPPED)
    launching.when(seen(Seen.RUNNING, 4)).refused(Refusal.RECONCILING)
    events = launching.when(seen(Seen.RUNNING, 4, N1)).events
    assert [type(e) for e in events] == [VmStopped, VmFound]


def test_a_vm_that_the_log_does_not_know_runs_on() -> None:
    name = DEFINED.vm
    stranger = VmStrangerSeen(vm=VmId(name), node=N2, generation=4)
    vm.given().when(seen(Seen.RUNNING, 4)).then(stranger).twice()
    vm.given(stranger).when(DefineVm(vm=name)).refused(Refusal.ALREADY_DEFINED)
    vm.given(stranger).when(seen(Seen.GONE, 4)).then(VmStrangerGone(vm=VmId(name), node=N2, generation=4))


def test_nothing_is_started_or_deleted_unheard_and_what_was_being_started_is_given_up() -> None:
    name = DEFINED.vm
    asked = StartVm(vm=name, choice=choice(N1), unheard=("n3",), incarnation=2)
    vm.given(DEFINED).when(asked).refused(Refusal.RECONCILING)
    vm.given(DEFINED).when(DeleteVm(vm=name, unheard=("n3",), incarnation=2)).refused(Refusal.RECONCILING)
    reserving = vm.given(DEFINED, requested(N1, 1, choice(N1, N2)))
    (ended,) = reserving.when(AbandonStart(vm=name, generation=1, incarnation=2)).events
    assert ended.abandoned  # type: ignore[union-attr]
    reserving.when(AbandonStart(vm=name, generation=1, incarnation=1)).nothing()
    denied = NoteMemory(vm=name, node=N1, generation=1, granted=False, incarnation=2)
    assert len(reserving.when(denied).events) == 1, "no next attempt"
    vm.given(DEFINED, requested(N1, 1, choice(N1)), ended).when(seen(Seen.RUNNING, 1, N1)).then(found(1, N1))
    started = vm.given(DEFINED).when(StartVm(vm=name, choice=choice(N1), incarnation=2)).events[0]
    assert started.generation == floor_of(2) + 1  # type: ignore[union-attr]
