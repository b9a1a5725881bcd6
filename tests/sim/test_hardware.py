"""Hardware of running VMs in the world: plugged, unplugged and resized with the agent killed at each step; changed by somebody's
hand, found, told and set right. Always in the end log, agent and process have the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import Command
from libs.world.net import Weather
from libs.world.nodes import NodeProcess
from libs.world.world import World
from proto.compute import DefineVm, ResetVm, StartVm
from proto.families import REGISTRY
from proto.growth import ResizeVm
from proto.io import AttachDisk, AttachNic, DetachDisk, DetachNic, LimitDisk, ResizeDisk, SetNic
from proto.machine import DiskLimits, DiskWish, NicWish
from proto.snapshots import DeleteSnapshot, TakeSnapshot
from services.compute.model import VM
from services.compute.states import Running
from services.io.model import DEVICES
from services.io.states import Granted
from services.node.drift import differences
from services.node.drivers import simfit
from services.node.drivers.simparams import SimParams
from services.node.drivers.simvm import Due, SimVm

READY_S, CHANGE_S, LOOK_S = 25.0, 20.0, 20.0
STEPS_MAX = 60
"""of an agent, for one change: far more than any takes"""
CHANGES: dict[str, tuple[tuple[str, str, Command], ...]] = {
    "plug a disk": (("io", "devices-a", AttachDisk(vm="a", disk=DiskWish(size_mib=64))),),
    "plug a NIC": (("io", "devices-a", AttachNic(vm="a")),),
    "unplug a disk": (("io", "devices-a", DetachDisk(vm="a", name="disk1", delete=True)),),
    "unplug a NIC": (("io", "devices-a", DetachNic(vm="a", name="nic1")),),
    "grow": (("compute", "vm-a", ResizeVm(vm="a", vcpus=3, memory_mib=512)),),
    "shrink": (("compute", "vm-a", ResizeVm(vm="a", vcpus=1, memory_mib=256)),),
    "grow a disk": (("io", "devices-a", ResizeDisk(vm="a", name="disk1", size_mib=128)),),
    "limit and cable": (
        ("io", "devices-a", LimitDisk(vm="a", name="disk1", limits=DiskLimits(iops=100))),
        ("io", "devices-a", SetNic(vm="a", name="nic0", link=False)),
    ),
    "take a snapshot": (("io", "devices-a", TakeSnapshot(vm="a", name="now")),),
    "merge a snapshot": (("io", "devices-a", DeleteSnapshot(vm="a", name="old")),),
}
BEFORE = {"merge a snapshot": TakeSnapshot(vm="a", name="old")}
"""what has to be there for a change"""


def world(seed: int = 1, params: SimParams | None = None) -> World:
    """One node, one VM that runs with two disks and two NICs, and room to grow."""
    made = World(seed, ("n1",), params or SimParams(), Weather())
    made.begin()
    made.run(10.0)
    disks = (DiskWish(size_mib=64), DiskWish(size_mib=64))
    define = DefineVm(
        vm="a", vcpus=2, memory_mib=256, vcpus_max=4, memory_max_mib=1024, disks=disks, nics=(NicWish(), NicWish())
    )
    made.ask("compute", "vm-a", define)
    made.run(2.0)
    made.ask("compute", "vm-a", StartVm(vm="a"))
    made.run(READY_S)
    assert process(made).status == "running"
    return made


def process(made: World) -> SimVm:
    return made.agents["n1"].host.vms["a"]


def agree(made: World) -> None:
    """Log (compute's order and io's set), agent and process have the same; nothing is under way."""
    vm, granted = fold(made, "vm-a"), fold(made, "devices-a")
    assert isinstance(vm, Running) and isinstance(granted, Granted)
    assert (granted.coming, granted.leaving, vm.growth, vm.drifts) == ((), (), None, ())
    has = simfit.look(made.agents["n1"].host, Due(0, 0, "look", "a"), process(made)).machine
    assert has is not None and has.present is not None
    assert differences(vm.spec, vm.hardware, has.present) == ()
    made_all = tuple(replace(disk, made=True) for disk in vm.spec.disks)  # compute hears of that at the next change
    assert (made_all, vm.spec.nics) == (granted.disks, granted.nics)
    assert {d.slot for d in process(made).spec.disks} == {d.slot for d in granted.disks}
    assert {n.slot for n in process(made).spec.nics} == {n.slot for n in granted.nics}
    held = {key for key, holders in made.pool.holders.items() if holders and key.startswith("disk ")}
    assert held == {f"disk {d.pool}/{file}" for d in granted.disks for file in (d.file, *(layer.file for layer in d.layers))}


def fold(made: World, stream: str) -> Any:
    events: list[Any] = [REGISTRY.event(r) for r in made.log.read_all_now(0, 10**6) if r.stream == stream]
    return VM.fold(events) if stream.startswith("vm-") else DEVICES.fold(events)


def types(made: World) -> list[str]:
    return [recorded.type for recorded in made.log.read_all_now(0, 10**6)]


# --- the agent is killed at each step ---------------------------------------------------------------------------------------


class Killer:
    """Counts what the agent of n1 is told and told of; kills it at the step it is set to, and again at the same step of the life
    after."""

    def __init__(self, made: World, step: int) -> None:
        self.node = made.agents["n1"]
        self.made, self.step, self.kills, self.seen = made, step, 0, 0
        self.real = self.node._do
        self.node._do = self._do  # type: ignore[method-assign]

    def _do(self, effects: Any) -> None:
        for effect in effects:
            self.seen += 1
            if self.seen == self.step and self.kills < 2:
                self.kills, self.seen = self.kills + 1, 0
                self.made.net.after(0, self.node.crash)
                self.made.net.after(300_000, self.node.begin)
                return  # what it was about to do is not done
            self.real((effect,))


@pytest.mark.parametrize("name", CHANGES)
def test_an_agent_killed_at_each_step_twice_converges(name: str) -> None:
    reached = 0
    for step in range(1, STEPS_MAX):
        made = world(step)
        if (before := BEFORE.get(name)) is not None:
            made.ask("io", "devices-a", before)
            made.run(CHANGE_S)
        killer = Killer(made, step)
        for service, stream, command in CHANGES[name]:
            made.ask(service, stream, command)
        made.run(CHANGE_S)
        reached = max(reached, killer.kills)
        if not killer.kills:
            break
        made.run(LOOK_S)
        agree(made)
    assert reached == 2 and step > 5, "a change is several steps"


# --- somebody's hand --------------------------------------------------------------------------------------------------------


def pull_the_cable(vm: SimVm) -> None:
    vm.spec = replace(vm.spec, nics=tuple(replace(n, link=False) for n in vm.spec.nics))


def lift_the_limits(vm: SimVm) -> None:
    first, *rest = vm.spec.disks
    vm.spec = replace(vm.spec, disks=(replace(first, limits=DiskLimits(iops=1)), *rest))


def pull_a_nic(vm: SimVm) -> None:
    vm.spec = replace(vm.spec, nics=vm.spec.nics[:1])


def take_memory(vm: SimVm) -> None:
    vm.spec = replace(vm.spec, shape=replace(vm.spec.shape, memory_mib=512))


@pytest.mark.parametrize("hand", [pull_the_cable, lift_the_limits, pull_a_nic, take_memory])
def test_what_a_hand_changed_is_told_and_set_right(hand: Callable[[SimVm], None]) -> None:
    made = world()
    hand(process(made))
    made.run(LOOK_S)
    told = types(made)
    assert told.count("vm_drifted") == 1 and told.count("vm_agreed") == 1, told[-10:]
    assert told.index("vm_drifted") < told.index("vm_agreed")
    agree(made)


def test_what_a_hand_plugged_is_told_once_and_stays() -> None:
    made = world()
    process(made).foreign = (("mine", "virtio-rng-pci"),)
    made.run(60.0)
    assert (types(made).count("vm_drifted"), types(made).count("vm_agreed")) == (1, 0)
    assert [d.name for d in fold(made, "vm-a").drifts] == ["mine"]
    process(made).foreign = ()
    made.run(LOOK_S)
    assert types(made).count("vm_agreed") == 1 and fold(made, "vm-a").drifts == ()


def test_a_difference_is_known_after_its_agent_was_killed_too() -> None:
    made = world()
    process(made).foreign = (("mine", "virtio-rng-pci"),)
    made.run(LOOK_S)
    node: NodeProcess = made.agents["n1"]
    node.crash()
    made.net.after(300_000, node.begin)
    made.run(LOOK_S)
    assert types(made).count("vm_drifted") == 1, "it is no news"
    process(made).foreign = ()
    made.run(LOOK_S)
    assert types(made).count("vm_agreed") == 1


def test_nothing_is_told_of_a_machine_that_nobody_touched() -> None:
    made = world()
    for name, changes in CHANGES.items():
        before = [("io", "devices-a", BEFORE[name])] if name in BEFORE else []
        for service, stream, command in (*before, *changes):
            made.ask(service, stream, command)
            made.run(LOOK_S)
    assert not {"vm_drifted", "vm_agreed"} & set(types(made))
    agree(made)


def test_a_guest_that_ignores_an_unplug_does_it_at_its_next_reset() -> None:
    made = world(params=SimParams(ignores_unplug=1.0))
    made.ask("io", "devices-a", DetachDisk(vm="a", name="disk1", delete=True))
    made.run(LOOK_S)
    assert [one.name for one in fold(made, "devices-a").leaving] == ["disk1"]
    assert "device_misfit" in types(made) and "device_detached" not in types(made)
    made.ask("compute", "vm-a", ResetVm(vm="a"))
    made.run(LOOK_S)
    assert "device_detached" in types(made) and "vm_drifted" not in types(made)
    agree(made)
