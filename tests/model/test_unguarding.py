"""A VM that gets a disk in a pool of one node alone is guarded by its node's lease no more, as nothing could start it elsewhere;
once that disk is gone it is again, when its agent says so."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.world.area import Area
from libs.world.world import World
from proto.compute import DefineVm, NoteDevices, ProtectVm, Seen, StartVm, VmDevicesNoted, VmStopped
from proto.guard import Mode, SetGuard
from proto.io import AttachDisk, DetachDisk
from proto.machine import DiskWish
from services.compute.model import VM
from services.compute.states import Running
from services.io.devices import make_disk
from tests.model.compute_story import DEVICES, LAUNCHED, MEMORY, N1, N2, NICS, RESERVING, STARTED, A, report
from tests.model.test_guarding import ASK, ASKED, GUARDED, HERE, WORD, Told, lose, running, vm

OWN = "0e0e"
LOCAL = replace(make_disk("a", DiskWish(size_mib=5, pool="local"), {}, 7, 9), pool_id=OWN)
MORE = replace(make_disk("a", DiskWish(size_mib=5), {}, 8, 10), pool_id=WORD)
RUNS = (*RESERVING, MEMORY, DEVICES, replace(LAUNCHED, spec=replace(LAUNCHED.spec, disks=HERE)), replace(STARTED, epoch=4))
PLUG = NoteDevices(
    vm="a", node=N1, generation=1, granted=True, disks=(*HERE, LOCAL), nics=NICS, changed=True, protected=False
)
PLUGGED = VmDevicesNoted(vm=A, generation=1, disks=PLUG.disks, nics=NICS, changed=True, protected=False)
GONE = replace(PLUGGED, disks=HERE, leaving=(9,), protected=True)


def test_with_a_disk_of_one_node_alone_its_nodes_lease_says_nothing_of_it() -> None:
    assert [type(event) for event in vm.given(*RUNS).when(lose(9)).events] == [VmStopped]
    vm.given(*RUNS).when(PLUG).then(PLUGGED).twice()
    vm.given(*RUNS, PLUGGED).when(lose(9)).nothing()
    state = VM.fold((*RUNS, PLUGGED))
    assert isinstance(state, Running) and not state.spec.protected, "and its agent is told so"


def test_a_change_in_pools_that_it_has_already_says_nothing_new() -> None:
    noted = vm.given(*RUNS).when(replace(PLUG, disks=(*HERE, MORE))).events
    assert [event.protected for event in noted] == [True]  # type: ignore[union-attr]


def test_once_that_disk_is_gone_it_is_guarded_when_its_agent_says_so() -> None:
    before = (*RUNS, PLUGGED, GONE)
    vm.given(*before).when(lose(9)).nothing()
    vm.given(*RUNS, PLUGGED).when(ASK).nothing()
    vm.given(*before).when(ASK).then(ASKED)
    version = len((*before, ASKED))
    word = report(Seen.RUNNING, guarded=True, epoch=4)
    vm.given(*before, ASKED).when(replace(word, order_version=version - 1)).nothing()
    vm.given(*before, ASKED).when(replace(word, order_version=version)).then(GUARDED)
    vm.given(*before, ASKED, GUARDED).when(lose(3)).nothing()


def test_it_is_looked_for_again_once_that_disk_is_gone() -> None:
    told = Told()
    for node in (N2, N1):
        ids = {"default": WORD, "local": OWN if node == N1 else "0f0f"}
        told.reported(node, pools=("default", "local"), pool_ids=ids, lease_pools=("default", "local"))
    for event in RUNS[-3:]:
        assert told.tell(event) == []
    assert told.tell(PLUGGED) == []
    assert told.tell(GONE) == [ProtectVm(vm="a", node="n1")]


@pytest.fixture
def world() -> World:
    """Three nodes that share one pool, and have each one of their own beside it."""
    made = World(3, two=True, ha=1)
    for name, node in made.agents.items():
        node.reaches({"default": node.pool_words[0], "second": f"own-{name}"}, node.lease_pools)
        made.areas[f"own-{name}"] = Area(made.net)
    made.begin()
    made.run(6.0)
    made.ask("compute", "vm-a", DefineVm(vm="a", disks=(DiskWish(image="tiny"),)))
    made.run(1.0)
    made.ask("compute", "vm-a", StartVm(vm="a", node="n1"))
    made.run(5.0)
    assert running(made).covered
    return made


def plugged(world: World) -> None:
    world.ask("io", "devices-a", AttachDisk(vm="a", disk=DiskWish(size_mib=64, pool="second")))
    world.run(8.0)


def test_the_whole(world: World) -> None:
    plugged(world)
    assert not running(world).spec.protected
    assert not world.agents["n1"].host.vms["a"].spec.protected
    holder = world.agents["n1"].watchdog.holder
    assert holder is not None and holder.vms == {}
    world.ask("io", "devices-a", DetachDisk(vm="a", name="disk1", delete=True))
    world.run(12.0)
    assert running(world).covered and holder.vms == {"a": 1}
    world.agents["n1"].power_off()
    world.run(15.0)
    assert running(world).node != "n1"


def test_where_it_was_promised_to_start_elsewhere_such_a_disk_is_refused(world: World) -> None:
    set = world.ask("ha", "guard-a", SetGuard(vm="a", mode=Mode.RESTART))
    world.run(3.0)
    assert world.replies[set].status == "accepted"
    id = world.ask("io", "devices-a", AttachDisk(vm="a", disk=DiskWish(size_mib=64, pool="second")))
    world.run(3.0)
    reply = world.replies[id]
    assert reply.status == "refused" and "second own-n1, which one node alone reaches" in reply.sentence
    assert "asvctl vm guard a --mode auto" in reply.remedy
    assert running(world).covered
