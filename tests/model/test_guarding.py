"""A VM that was started before its node had a lease is guarded as soon as it has one; until that is seen no lease's end ends it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded
from libs.common.testing import Spec
from libs.world.world import World
from proto.compute import (
    DefineVm,
    GoneCause,
    LoseVm,
    NodeJoined,
    NodeReported,
    ProtectVm,
    Seen,
    StartVm,
    VmFound,
    VmGuarded,
    VmGuardRequested,
    VmStopped,
)
from proto.examples import example
from proto.machine import DiskWish
from proto.migration import VmIncomingRequested, VmMigrationEnded
from services.compute import bare
from services.compute.enriching import enrich
from services.compute.model import VM
from services.compute.states import Running, Stopping
from services.compute.views import Views
from services.node.effects import Act
from tests.model import migration_story as moves
from tests.model.compute_story import (
    DEFINED,
    DEVICES,
    DISKS,
    LAUNCHED,
    MEMORY,
    N1,
    N2,
    RESERVING,
    RUNNING,
    STARTED,
    STOP_REQUESTED,
    A,
    report,
)
from tests.model.test_agent import Node, machine, order
from tests.model.test_agent_fit import wish

vm = Spec(VM)
WORD = "5a5a"
SHARED = {"default": WORD}
HERE = tuple(replace(disk, pool_id=WORD) for disk in DISKS)
BARE = replace(LAUNCHED, spec=replace(LAUNCHED.spec, protected=False, disks=HERE))
RUNS = (*RESERVING, MEMORY, DEVICES, BARE, STARTED)
ASK = ProtectVm(vm="a", node="n1", shared=SHARED)
ASKED = VmGuardRequested(vm=A, node=N1, generation=1)
GUARDED = VmGuarded(vm=A, node=N1, generation=1, epoch=4)
GONE = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.NODE_LOST, unwished=True)


def lose(epoch: int) -> LoseVm:
    return LoseVm(vm="a", node="n1", epoch=epoch, guarded=True)


# --- compute --------------------------------------------------------------------------------------------------------


def test_it_is_asked_for_once_where_all_its_disks_may_be_guarded() -> None:
    vm.given(*RUNS).when(ASK).then(ASKED).twice()
    for other in ({}, {"default": "other"}, None):
        vm.given(*RUNS).when(replace(ASK, shared=other)).nothing()
    vm.given(*RUNS).when(replace(ASK, node="n2")).nothing()
    vm.given(*RUNNING).when(ASK).nothing()
    vm.given(*RESERVING, MEMORY, DEVICES, BARE).when(ASK).nothing()
    vm.given(*moves.SENDING).when(ASK).nothing()
    nowhere = replace(BARE, spec=replace(BARE.spec, disks=DISKS))
    vm.given(*RESERVING, MEMORY, DEVICES, nowhere, STARTED).when(replace(ASK, shared={"default": ""})).nothing()


def test_until_it_is_seen_guarded_the_end_of_its_nodes_lease_says_nothing_of_it() -> None:
    vm.given(*RUNS, ASKED).when(lose(9)).nothing()
    vm.given(*RUNS, ASKED, STOP_REQUESTED).when(lose(9)).nothing()
    vm.given(*RUNS, ASKED, GUARDED).when(lose(4)).then(GONE)
    state = VM.fold((*RUNS, ASKED, GUARDED, STOP_REQUESTED))
    assert isinstance(state, Stopping) and state.protected


def test_a_lease_that_was_over_before_says_nothing_of_it_either() -> None:
    vm.given(*RUNS, ASKED, GUARDED).when(lose(3)).nothing()


def test_only_its_agents_word_under_a_lease_says_that_it_is_guarded() -> None:
    word = report(Seen.RUNNING, guarded=True, epoch=4)
    vm.given(*RUNS, ASKED).when(word).then(GUARDED).twice()
    vm.given(*RUNS, ASKED).when(replace(word, guarded=False)).nothing()
    vm.given(*RUNS, ASKED).when(replace(word, epoch=0)).nothing()
    vm.given(*RUNS).when(word).nothing()


def test_what_was_found_after_a_restore_is_guarded_in_the_same_way() -> None:
    found = VmFound(vm=A, node=N1, generation=1, memory_mib=256, vcpus=1, priority=DEFINED.priority)
    vm.given(DEFINED, found).when(ASK).then(ASKED)


CAN = replace(
    example(NodeReported).capabilities, pools=("default",), pool_ids=SHARED, lease_pools=("default",), watchdog=True
)


class Told:
    def __init__(self) -> None:
        self.views = Views()
        self.at = 0
        for node in (N1, N2):
            self.tell(replace(example(NodeJoined), node=node))

    def tell(self, event: Any) -> list[Any]:
        self.at += 1
        recorded = Recorded(self.at, "s", self.at, "t", 1, self.at, b"", b"")
        self.views.apply(recorded, event)
        return list(bare.react(event, self.views))

    def reported(self, node: NodeId, **more: Any) -> list[Any]:
        return self.tell(NodeReported(node=node, boot_id="b", capabilities=replace(CAN, **more)))


def test_it_is_looked_for_when_a_node_says_what_it_can_and_when_a_vm_runs() -> None:
    told = Told()
    told.reported(N2)
    told.reported(N1, watchdog=False)
    told.tell(DEFINED)
    told.tell(replace(DEVICES, disks=HERE))
    assert told.tell(BARE) == [] and told.tell(STARTED) == []
    assert told.reported(N1) == [ProtectVm(vm="a", node="n1")]
    assert told.reported(N2) == [ProtectVm(vm="a", node="n1")]
    assert enrich(ProtectVm(vm="a", node="n1"), told.views, 1) == ASK
    told.tell(ASKED)
    assert told.reported(N1) == []


def test_one_whose_start_was_on_its_way_is_looked_for_when_it_runs() -> None:
    told = Told()
    told.reported(N2)
    told.tell(replace(DEVICES, disks=HERE))
    told.tell(BARE)
    assert told.reported(N1) == []
    assert told.tell(STARTED) == [ProtectVm(vm="a", node="n1")]
    told.tell(GONE)
    assert told.reported(N1) == []


@pytest.mark.parametrize("lacks", [{"lease_pools": ()}, {"pool_ids": {"default": "other"}}, {"watchdog": False}], ids=str)
def test_where_no_lease_could_guard_it_nothing_is_asked(lacks: dict[str, Any]) -> None:
    told = Told()
    told.reported(N2)
    told.tell(replace(DEVICES, disks=HERE))
    told.tell(BARE)
    told.tell(STARTED)
    assert told.reported(N1, **lacks) == []


def test_it_is_what_it_was_born_as_where_it_moved_to() -> None:
    told = Told()
    told.reported(N1, watchdog=False)
    told.tell(BARE)
    told.tell(STARTED)
    moved = replace(example(VmIncomingRequested), vm=A)
    told.tell(replace(moved, spec=replace(moved.spec, protected=True)))
    told.tell(replace(example(VmMigrationEnded), vm=A))
    assert "a" not in told.views.bare.vms
    told.tell(replace(moved, spec=replace(moved.spec, protected=False)))
    told.tell(replace(example(VmMigrationEnded), vm=A))
    assert "a" in told.views.bare.vms


# --- its agent ------------------------------------------------------------------------------------------------------


def said(node: Node) -> bool:
    """That it is guarded."""
    return node.facts[-1].guarded


class Watched(Node):
    """guards: of each act, whether it is to be guarded from then on."""

    def __init__(self, *slow: str) -> None:
        super().__init__(*slow)
        self.guards: list[bool] = []

    def do(self, effects: Any) -> Watched:
        every = list(effects)
        self.guards += [effect.guards for effect in every if isinstance(effect, Act) and effect.verb != "look"]
        super().do(every)
        return self


def test_the_agent_guards_it_under_a_lease_and_says_so_once_that_is_done() -> None:
    node = Watched("fit")
    node.order(order(spec=wish(protected=False))).tick()
    assert node.acts == ["start"] and not said(node)
    node.order(order(version=6, spec=wish(protected=True)))
    assert node.acts == ["start", "fit"] and node.guards[-1]
    node.do(node.agent.on_done("a", "fit", "this node holds no lease", machine(), node.now_us)).tick(2)
    assert not said(node) and node.acts == ["start", "fit", "fit"]
    node.do(node.agent.on_done("a", "fit", "", machine(), node.now_us)).tick()
    assert said(node) and node.facts[-1].order_version == 6


def test_what_was_born_guarded_needs_no_lease_for_another_fit() -> None:
    node = Watched("fit")
    node.order(order(spec=wish(protected=True))).tick()
    assert said(node)
    node.order(order(version=6, spec=wish(vcpus=2, protected=True)))
    assert node.acts == ["start", "fit"] and not node.guards[-1]


# --- the whole ------------------------------------------------------------------------------------------------------


def running(world: World) -> Running:
    host = world.services["compute"].host
    assert host is not None
    state = host.states()["vm-a"]
    assert isinstance(state, Running)
    return state


def test_a_vm_that_ran_before_there_were_leases_starts_elsewhere_when_its_node_is_lost() -> None:
    world = World(3, ha=1)
    world.begin()
    world.services["ha"].crash()
    world.run(6.0)
    world.ask("compute", "vm-a", DefineVm(vm="a", disks=(DiskWish(image="tiny"),)))
    world.run(1.0)
    world.ask("compute", "vm-a", StartVm(vm="a", node="n1"))
    world.run(3.0)
    assert not world.agents["n1"].host.vms["a"].spec.protected
    world.services["ha"].begin()
    world.run(10.0)
    holder = world.agents["n1"].watchdog.holder
    assert holder is not None and holder.vms == {"a": 1} and not holder.pending
    state = running(world)
    assert state.covered and (state.node, state.epoch) == ("n1", 1)
    world.agents["n1"].power_off()
    world.run(12.0)
    assert running(world).node != "n1"
