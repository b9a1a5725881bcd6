"""Lost nodes in the world: what is proven to have ended runs again elsewhere, in its order, and nothing else does. The word that a
node is lost is an operator's here: how silence proves it is another matter (docs/ha.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from libs.common.host.core import Host
from libs.common.messages import Command, Envelope, NodeId, Recorded, encode
from libs.world.control import HostProcess, RelayProcess
from libs.world.world import World
from proto.compute import CordonNode, DefineVm, DeleteVm, StartVm, StopVm, UncordonNode
from proto.drain import DrainNode
from proto.guard import Mode, SetGuard
from proto.lease import ArmHa, ConfirmOff, DisarmHa, ReportReturned, SetHa
from proto.machine import Allotment, DiskWish, Priority
from services.compute.app import SERVICE as COMPUTE
from services.compute.states import Running, Stopped
from services.gateway.model import ReadModel
from services.gateway.why.ask import Subject, Why, why
from services.gateway.why.tree import Step
from services.ha.app import SERVICE as HA
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY

SERVICES = (COMPUTE, MEMORY, IO, HA)


class Cluster:
    """Three nodes, VMs by name on n1, a pool that all reach or one for each."""

    def __init__(self, seed: int = 1, *, apart: bool = False, nodes: Sequence[str] = ("n1", "n2", "n3")) -> None:
        self.world = World(seed, nodes, services=SERVICES, apart=apart)
        self.world.begin()
        self.world.run(6.0)
        self.readers = [Host(service).events for service in SERVICES]

    def ask(self, service: str, stream: str, command: Command, within_s: float = 1.0) -> Any:
        id = self.world.ask(service, stream, command)
        self.world.run(within_s)
        return self.world.replies.get(id)

    def vm(self, name: str, node: str = "n1", **more: Any) -> None:
        define = DefineVm(vm=name, memory_mib=more.pop("memory_mib", 512), disks=(DiskWish(image="tiny"),), **more)
        self.ask("compute", f"vm-{name}", define, 0.3)
        self.ask("compute", f"vm-{name}", StartVm(vm=name, node=node), 2.0)
        assert self.at(name) == node

    def guard(self, name: str, **more: Any) -> Any:
        return self.ask("ha", f"guard-{name}", SetGuard(vm=name, **more), 0.5)

    def lose(self, node: str = "n1", within_s: float = 3.0) -> None:
        """It burns, and somebody says so."""
        self.world.agents[node].power_off()
        self.ask("ha", f"lease-{node}", ConfirmOff(node=node, reason="it burnt", known=True), within_s)

    def back(self, node: str = "n1", within_s: float = 4.0) -> None:
        self.world.agents[node].power_on()
        self.world.run(1.0)
        fact = ReportReturned(node=NodeId(node), boot_id=f"{node}-2", epoch=1)
        envelope = _envelope(fact, node)
        self.world.services["ha"].command(envelope, node, "", lambda reply: None)
        self.world.run(within_s)

    def kill(self, vm: str, within_s: float) -> None:
        """Its process ends by itself."""
        node = self.world.agents[self.at(vm)]
        node.host.crash(vm, self.world.net.now_us)
        node.watch()
        self.world.run(within_s)

    def state(self, vm: str) -> Any:
        host = self.world.services["compute"].host
        assert host is not None
        return host.states()[f"vm-{vm}"]

    def at(self, vm: str) -> str:
        state = self.state(vm)
        return state.node if isinstance(state, Running) else ""

    def events(self, *types: str) -> list[Recorded]:
        return [r for r in self.world.log.read_all_now(0, 10**6) if not types or r.type in types]

    def decoded(self, type: str) -> list[Any]:
        reader = next(reader for reader in self.readers if type in reader.classes)
        return [reader.event(r) for r in self.events(type)]

    def order(self, type: str = "vm_started") -> list[str]:
        """Names of VMs, in the order of that event of their own streams or their guards'."""
        return [r.stream.partition("-")[2] for r in self.events(type)]


def _envelope(fact: Any, node: str) -> bytes:
    return encode(Envelope(id=f"{node}-back", data=msgspec.Raw(encode(fact)), actor=f"node:{node}"))


# --- a node is lost ---------------------------------------------------------------------------------------------------


def test_its_vms_run_elsewhere_within_a_second_and_it_comes_back_clean() -> None:
    cluster = Cluster()
    for n in range(4):
        cluster.vm(f"vm-{n}")
    cluster.lose(within_s=1.0)
    assert {cluster.at(f"vm-{n}") for n in range(4)} == {"n2", "n3"}
    recovered = cluster.decoded("vm_recovered")
    assert len(recovered) == 4 and max(event.after_ms for event in recovered) < 500
    starts = [e for e in cluster.decoded("vm_start_requested") if e.attempt]
    assert all(start.failover and start.generation == 2 for start in starts)
    cluster.back()
    assert cluster.world.agents["n1"].host.vms == {}
    cluster.world.run(30.0)
    cluster.world.checker.settled()


def test_what_runs_elsewhere_is_left_alone() -> None:
    cluster = Cluster()
    cluster.vm("here", "n1")
    cluster.vm("there", "n2")
    cluster.lose("n1")
    assert cluster.at("there") == "n2" and cluster.state("there").generation == 1


def test_the_worthiest_come_first_and_no_more_than_so_many_at_once() -> None:
    cluster = Cluster()
    worth = {"a": Priority.BEST_EFFORT, "b": Priority.NORMAL, "c": Priority.CRITICAL, "d": Priority.IMPORTANT}
    for name, priority in worth.items():
        cluster.vm(name, priority=priority)
    cluster.ask("ha", "ha-main", SetHa(starts_max=1))
    before = len(cluster.events())
    cluster.lose()
    asked = [r.stream for r in cluster.events("restart_wanted")]
    assert asked == ["guard-c", "guard-d", "guard-b", "guard-a"]
    open = 0
    for recorded in cluster.events()[before:]:
        open += (recorded.type == "restart_wanted") - (recorded.type == "vm_recovered")
        assert open <= 1


def test_a_vm_waits_for_those_it_is_to_come_after() -> None:
    cluster = Cluster()
    for name in ("app", "db", "web"):
        cluster.vm(name)
    assert cluster.guard("app", after=("db",)).status == "accepted"
    assert cluster.guard("web", after=("app",)).status == "accepted"
    assert cluster.guard("db", after=("web",)).reason == "CIRCLE"
    cluster.lose()
    assert cluster.order("vm_recovered") == ["db", "app", "web"]


# --- and what is not started ------------------------------------------------------------------------------------------


def test_what_somebody_stopped_stays_stopped() -> None:
    cluster = Cluster()
    for name in ("stopped", "stopping", "off"):
        cluster.vm(name)
    cluster.ask("compute", "vm-stopped", StopVm(vm="stopped", deadline_s=0), 2.0)
    cluster.guard("off", mode=Mode.OFF)
    cluster.world.agents["n1"].power_off()
    cluster.ask("compute", "vm-stopping", StopVm(vm="stopping"), 0.5)
    cluster.lose(within_s=10.0)
    assert [isinstance(cluster.state(name), Stopped) for name in ("stopped", "stopping", "off")] == [True] * 3
    assert not cluster.events("restart_wanted")


def test_a_stop_is_heard_also_while_it_waits_to_be_started() -> None:
    cluster = Cluster()
    cluster.vm("vm")
    for node in ("n2", "n3"):
        cluster.ask("compute", f"node-{node}", CordonNode(node=node))
    cluster.lose()
    assert cluster.events("vm_unplaced")
    cluster.ask("compute", "vm-vm", StopVm(vm="vm"))
    assert cluster.events("guard_ended")
    cluster.ask("compute", "node-n2", UncordonNode(node="n2"), 30.0)
    assert isinstance(cluster.state("vm"), Stopped)


def test_while_disarmed_nothing_is_started_and_then_it_is() -> None:
    cluster = Cluster()
    cluster.vm("vm")
    cluster.ask("ha", "ha-main", DisarmHa(reason="a new switch"))
    cluster.lose(within_s=20.0)
    assert cluster.events("vm_owed") and not cluster.events("restart_wanted")
    cluster.ask("ha", "ha-main", ArmHa())
    assert cluster.at("vm") in ("n2", "n3")


def test_it_says_why_nothing_fits_and_starts_when_something_does() -> None:
    cluster = Cluster()
    cluster.vm("vm")
    for node in ("n2", "n3"):
        cluster.ask("compute", f"node-{node}", CordonNode(node=node))
    cluster.lose(within_s=5.0)
    unplaced = cluster.decoded("vm_unplaced")
    assert unplaced and "cordoned: n2, n3" in unplaced[0].sentence and unplaced[0].remedy == "uncordon n2"
    cluster.ask("compute", "node-n3", UncordonNode(node="n3"), 6.0)
    assert cluster.at("vm") == "n3"


def test_one_that_nothing_fits_is_not_asked_for_all_the_time() -> None:
    cluster = Cluster()
    for n in range(3):
        cluster.vm(f"vm-{n}")
    for node in ("n2", "n3"):
        cluster.ask("compute", f"node-{node}", CordonNode(node=node))
    cluster.lose(within_s=120.0)
    assert 3 * 3 <= len(cluster.events("restart_wanted")) <= 3 * 7


# --- the story --------------------------------------------------------------------------------------------------------


def told(cluster: Cluster, vm: str) -> Why:
    read = ReadModel()
    for recorded in cluster.events():
        read.apply(recorded)
    beside = read.guards.guard(vm).positions
    return asyncio.run(why(cluster.world.log, Subject(f"vm/{vm}", [f"vm-{vm}"], beside), lambda known: known))


def chain(steps: list[Step], *types: str) -> list[Step]:
    """The way down from a root through events of these types, each an effect of the one before."""
    for step in steps:
        if step.type == types[0]:
            rest = chain(step.effects, *types[1:]) if len(types) > 1 else []
            if len(types) == 1 or rest:
                return [step, *rest]
    return []


def test_why_tells_it_from_the_nodes_loss_to_the_vm_that_runs_again() -> None:
    cluster = Cluster()
    cluster.vm("vm")
    cluster.lose()
    story = told(cluster, "vm").stories[-1]
    whole = ("node_lost", "vm_stopped", "vm_owed", "restart_wanted", "vm_start_requested")
    steps = chain(story.steps, *whole)
    assert [step.type for step in steps] == list(whole)
    assert "by somebody's word" in steps[0].sentence and "as is proven" in steps[1].sentence
    assert "its node is lost" in steps[2].sentence and "for its guard (attempt 1)" in steps[4].sentence
    assert any(step.type == "vm_started" for step in _flat(story.steps))


def test_a_turn_that_came_later_is_told_in_the_same_story() -> None:
    cluster = Cluster()
    cluster.vm("vm")
    for node in ("n2", "n3"):
        cluster.ask("compute", f"node-{node}", CordonNode(node=node))
    cluster.lose()
    cluster.ask("compute", "node-n3", UncordonNode(node="n3"), 8.0)
    assert cluster.at("vm") == "n3"
    story = told(cluster, "vm").stories[-1]
    types = [step.type for step in _flat(story.steps)]
    assert types.count("node_lost") == 1 and types.count("restart_wanted") >= 2 and "vm_unplaced" in types
    assert "vm_started" in types and "vm_recovered" in types


def _flat(steps: list[Step]) -> list[Step]:
    return [one for step in steps for one in (step, *_flat(step.effects))]


# --- disks of one node ------------------------------------------------------------------------------------------------


def test_a_vm_on_disks_of_its_node_waits_for_that_node() -> None:
    cluster = Cluster(apart=True)
    cluster.vm("vm")
    refused = cluster.guard("vm", mode=Mode.RESTART)
    assert refused.reason == "LOCAL_DISK" and "in-place" in refused.remedy
    cluster.lose(within_s=20.0)
    assert isinstance(cluster.state("vm"), Stopped) and not cluster.events("restart_wanted")
    (owed,) = cluster.decoded("vm_owed")
    assert "once that is back" in owed.sentence
    cluster.back(within_s=10.0)
    assert cluster.at("vm") == "n1"


# --- it fails by itself -----------------------------------------------------------------------------------------------


def test_a_vm_that_dies_is_started_where_it_was_and_elsewhere_when_it_dies_too_often() -> None:
    cluster = Cluster()
    cluster.vm("vm", "n2")
    cluster.guard("vm", failures_max=2, window_s=600)
    where = []
    for _ in range(3):
        cluster.kill("vm", 15.0)
        where.append(cluster.at("vm"))
    assert where[:2] == ["n2", "n2"] and where[2] in ("n1", "n3")
    for _ in range(3):
        cluster.kill("vm", 25.0)
    assert isinstance(cluster.state("vm"), Stopped)
    ended = cluster.decoded("guard_ended")
    assert ended[-1].given_up and "elsewhere too" in ended[-1].sentence


def test_a_guest_that_shuts_itself_down_is_left_alone() -> None:
    cluster = Cluster()
    cluster.vm("vm", "n2")
    cluster.world.agents["n2"].host.vms["vm"].status = "shutdown"
    cluster.kill("vm", 5.0)
    assert isinstance(cluster.state("vm"), Stopped) and not cluster.events("vm_owed")


# --- the reserve ------------------------------------------------------------------------------------------------------


def test_what_is_kept_free_takes_the_vms_of_whichever_node_is_lost() -> None:
    """Nodes are filled until starts are denied what is kept; then one is lost, and all its VMs find their place."""
    cluster = Cluster()
    ledgers = {e.node: e for e in cluster.decoded("capacity_set")}
    mib = ledgers["n1"].capacity_mib // 8
    refused = ""
    for n in range(24):
        define = DefineVm(vm=f"vm-{n}", memory_mib=mib, priority=Priority.CRITICAL, disks=(DiskWish(image="tiny"),))
        cluster.ask("compute", f"vm-vm-{n}", define, 0.3)
        reply = cluster.ask("compute", f"vm-vm-{n}", StartVm(vm=f"vm-{n}"), 3.0)
        if reply.status == "refused":
            refused = reply.sentence
            break
    assert "beside what is kept for a failed node's VMs" in refused
    plan = cluster.decoded("reserve_set")[-1].plan
    assert (plan.wanted, plan.covers, plan.sentence) == (1, 1, "")
    largest = max(("n1", "n2", "n3"), key=lambda node: sum(cluster.at(f"vm-{i}") == node for i in range(n)))
    cluster.lose(largest, 6.0)
    assert all(cluster.at(f"vm-{i}") not in ("", largest) for i in range(n))
    after = cluster.decoded("reserve_set")[-1].plan
    assert (after.wanted, after.away, after.waiting_mib) == (0, (largest,), 0)


def test_a_node_can_be_drained_into_what_is_kept_for_its_vms() -> None:
    cluster = Cluster()
    mib = {e.node: e for e in cluster.decoded("capacity_set")}["n1"].capacity_mib // 5
    for n in range(6):
        cluster.vm(f"vm-{n}", f"n{n % 3 + 1}", memory_mib=mib, priority=Priority.CRITICAL)
    assert cluster.decoded("reserve_set")[-1].plan.covers == 1
    assert cluster.ask("compute", "drain-n1", DrainNode(node="n1"), 60.0).status == "accepted"
    assert cluster.events("node_drained") and "n1" not in {cluster.at(f"vm-{n}") for n in range(6)}


# --- faults on the way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(9000, 9006))
def test_services_that_die_meanwhile_change_nothing(seed: int) -> None:
    cluster = Cluster(seed)
    world = cluster.world
    for n in range(5):
        cluster.vm(f"vm-{n}")
    processes: list[HostProcess | RelayProcess] = [*world.services.values(), world.relay]
    for process in processes:
        at_us = world.random.randrange(600_000)
        world.net.after(at_us, process.crash)
        world.net.after(at_us + world.random.randrange(100_000, 2_000_000), process.begin)
    cluster.lose(within_s=20.0)
    assert all(cluster.at(f"vm-{n}") in ("n2", "n3") for n in range(5))
    answers = len(cluster.events("vm_unplaced")) + len(cluster.events("vm_recovered"))
    assert answers == len(cluster.events("restart_wanted")), "each wish has one answer"
    assert len(cluster.events("vm_recovered")) == 5
    cluster.back()
    world.run(30.0)
    world.checker.settled()


@pytest.mark.parametrize("seed", range(9100, 9104))
def test_two_nodes_one_after_the_other(seed: int) -> None:
    cluster = Cluster(seed, nodes=("n1", "n2", "n3", "n4"))
    for n in range(4):
        cluster.vm(f"vm-{n}", allotment=Allotment(apart="db" if n < 2 else ""), node="n1" if n % 2 else "n2")
    cluster.lose("n1", 0.02 * (seed % 4))
    cluster.lose("n2", 8.0)
    assert {cluster.at(f"vm-{n}") for n in range(4)} == {"n3", "n4"}
    assert cluster.at("vm-0") != cluster.at("vm-1")


def test_a_vm_that_is_deleted_while_owed_is_forgotten() -> None:
    cluster = Cluster()
    cluster.vm("vm")
    cluster.guard("vm", failures_max=1)
    for node in ("n2", "n3"):
        cluster.ask("compute", f"node-{node}", CordonNode(node=node))
    cluster.lose()
    cluster.ask("compute", "vm-vm", DeleteVm(vm="vm"))
    ended = cluster.decoded("guard_ended")
    assert ended and ended[-1].sentence == "it was deleted"
