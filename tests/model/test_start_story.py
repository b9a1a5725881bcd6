"""A start across compute, memory and io, in log order: every step fails once and is said twice; nothing leaks.

The three services run as the host runs them (views, react, enrich, decide), over one list instead of a log; a played agent
does what it is ordered, or does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from libs.common.decider import Decider, Refused
from libs.common.host.service import Order, Service
from libs.common.messages import Command, Meta, NodeId, Recorded, encode, tag_of
from libs.common.registry import Registry
from proto.compute import (
    Capabilities,
    DefineVm,
    DeleteVm,
    GoneCause,
    JoinNode,
    PauseVm,
    ReportNode,
    ReportVm,
    ResetVm,
    Seen,
    StartVm,
    StopVm,
)
from proto.io import (
    DeleteImage,
    ImageFormat,
    ImageInfo,
    ImportImage,
    ReportDisksRemoved,
    ReportImage,
    ReportImageRemoved,
)
from proto.machine import DiskWish, NicWish
from proto.memory import Area, SetAreas
from proto.migration import MigrateVm
from proto.node import Beat, OrderDisksRemoval, OrderImageImport, OrderImageRemoval, OrderVm, Want
from proto.plan import OrderPlan, ReportPlan
from proto.upcasts import UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.compute.states import Absent, Running, Stopped
from services.io.app import SERVICE as IO
from services.io.states import Granted, NoDevices
from services.memory.app import SERVICE as MEMORY
from services.memory.model import Ledger
from tests.model.test_nodes import CAN

STEPS_MAX = 1000
NOW_US = 1_000_000
META = encode(Meta("c", "", "t", "user:ops", NOW_US))
NODES = ("n1", "n2", "n3")
SEEN = {
    Want.RUNNING: Seen.RUNNING,
    Want.PAUSED: Seen.PAUSED,
    Want.INCOMING: Seen.INCOMING,
    Want.MIGRATING: Seen.GONE,
    Want.GONE: Seen.GONE,
}


def _seen(want: Want, wrong: str) -> Seen:
    if not wrong:
        return SEEN[want]
    return Seen.RUNNING if want is Want.MIGRATING else Seen.FAILED


class House:
    """One log, three services. `failing(node, order)` says why that agent cannot do an order, or ''."""

    def __init__(self, repeat: int = 1, failing: Callable[[NodeId, Any], str] = lambda node, order: "") -> None:
        self.log: list[tuple[Recorded, Any]] = []
        self.services: list[tuple[Service, Any, Registry]] = [
            (s, s.views(), Registry([*(e for d in s.deciders for e in d.events), *s.follows], UPCASTS))
            for s in (COMPUTE, MEMORY, IO)
        ]
        self.states: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.repeat, self.failing = repeat, failing
        self.read = 0
        self.acted: set[tuple[str, int]] = set()

    def say(self, command: Command) -> None:
        """Decide, as often as `repeat` says; then let everybody react until all is quiet."""
        for _ in range(self.repeat):
            self._decide(command)
            self._settle()

    def _decide(self, command: Command) -> None:
        service, views, decider = next(
            (s, v, d) for s, v, _ in self.services for d in s.deciders if type(command) in d.commands
        )
        stream = decider.stream(command)
        state = self.states.get(stream, decider.initial)
        events = decider.decide(service.enrich(command, views, NOW_US), state)
        self._append(decider, stream, state, events)

    def _append(self, decider: Decider[Any, Any, Any], stream: str, state: Any, events: Any) -> None:
        for event in events:
            version = self.versions[stream] = self.versions.get(stream, 0) + 1
            name = tag_of(type(event))
            recorded = Recorded(len(self.log) + 1, stream, version, name, 1, NOW_US, encode(event), META)
            self.log.append((recorded, event))
        self.states[stream] = decider.fold(events, state)

    def _settle(self) -> None:
        for _ in range(STEPS_MAX):
            if self.read < len(self.log):
                self._hear(self.log[self.read][0])
                self.read += 1
            elif not self._act():
                return
        pytest.fail(f"no rest after {STEPS_MAX} steps")

    def _hear(self, recorded: Recorded) -> None:
        for service, views, registry in self.services:
            if not registry.knows(recorded.type):
                continue
            event = registry.event(recorded)
            views.apply(recorded, event)
            for command in service.react(event, recorded, views):
                for _ in range(self.repeat):
                    self._decide(command)

    def _act(self) -> bool:
        """The first order that no agent has acted on, if any, done and reported."""
        for stream, order in self._orders():
            key = (f"{stream}@{order.node}", self.versions[stream])
            if key not in self.acted:
                self.acted.add(key)
                for fact in self._reports(order, self.versions.get(stream, 0)):
                    for _ in range(self.repeat):
                        self._try(fact)
                return True
        return False

    def _try(self, fact: Command) -> None:
        try:
            self._decide(fact)
        except Refused as refused:
            assert refused.reason == "NOT_YOURS"

    def _orders(self) -> Iterator[tuple[str, Order]]:
        for stream, state in sorted(self.states.items()):
            for service, _, _ in self.services:
                wanted = service.orders(stream, state, self.versions.get(stream, 0)) or ()
                for order in [wanted] if isinstance(wanted, Order) else wanted:
                    yield stream, order

    def _reports(self, order: Order, version: int) -> list[Command]:
        node, message, wrong = order.node, order.message, self.failing(order.node, order.message)
        match message:
            case OrderVm(vm=vm, generation=generation):
                seen = _seen(message.want, wrong)
                left = message.want is Want.MIGRATING and not wrong
                return [
                    ReportVm(
                        node=node,
                        vm=vm,
                        generation=generation,
                        order_version=version,
                        seen=_seen(message.want, wrong),
                        sentence=wrong,
                        cause=GoneCause.MIGRATED if left else GoneCause.ORDERED if seen is Seen.GONE else GoneCause.UNKNOWN,
                        resets=message.resets,
                        address="there" if message.want is Want.INCOMING else "",
                        unsent=wrong if message.want is Want.MIGRATING else "",
                        moved_to=message.incoming if left else 0,
                    )
                ]
            case OrderDisksRemoval():
                return [ReportDisksRemoved(node=node, vm=message.vm, order_version=version)]
            case OrderImageImport():
                info = None if wrong else ImageInfo(format=message.format.kept, size_mib=64, sha256="a" * 64)
                return [ReportImage(node=node, image=message.image, order_version=version, info=info, sentence=wrong)]
            case OrderImageRemoval():
                return [ReportImageRemoved(node=node, image=message.image, order_version=version)]
            case OrderPlan():
                applied = tuple(vm.vm for vm in message.vms)
                return [ReportPlan(node=node, order_version=message.version, applied=applied)]
        raise AssertionError(message)

    def beat(self) -> None:
        for service, views, _ in self.services:
            for node in NODES:
                beat = Beat(node=node, boot_id="b", at_us=NOW_US, free_mib=0, load=0.0)
                service.hear(f"tel.{node}.beat", encode(beat), NOW_US, views)

    def types(self) -> list[str]:
        return [recorded.type for recorded, _ in self.log]


def house(memory_mib: int = 4096, repeat: int = 1, failing: Callable[[NodeId, Any], str] = lambda n, o: "") -> House:
    """Three nodes and an image."""
    house = House(repeat, failing)
    can: Capabilities = msgspec.structs.replace(CAN, memory_mib=memory_mib)
    for node in NODES:
        house.say(JoinNode(node=node, key="k"))
        house.say(ReportNode(node=NodeId(node), capabilities=can, boot_id="b"))
    house.beat()
    import_tiny(house)
    return house


def import_tiny(house: House) -> None:
    house._decide(ImportImage(image="tiny", file="tiny.qcow2", format=ImageFormat.QCOW2))
    house._settle()


def define(house: House, vm: str = "a", memory_mib: int = 256) -> None:
    house._decide(DefineVm(vm=vm, memory_mib=memory_mib, disks=(DiskWish(image="tiny"),), nics=(NicWish(),)))
    house._settle()


def nothing_is_held(house: House) -> None:
    for stream, state in house.states.items():
        if isinstance(state, Ledger):
            assert not state.reserved, f"{stream} still holds {state.reserved}"
        assert not isinstance(state, Granted), f"{stream} still may be written"
    assert not list(house._orders()), "an agent is still ordered about"


@pytest.mark.parametrize("repeat", [1, 2], ids=["once", "twice"])
def test_a_life_in_full(repeat: int) -> None:
    h = house(repeat=repeat)
    define(h)
    h.say(StartVm(vm="a"))
    assert isinstance(h.states["vm-a"], Running)
    ledger = h.states[f"ledger-{h.states['vm-a'].node}"]
    assert ledger.reserved_mib == 228
    h.say(PauseVm(vm="a"))
    assert h.states["vm-a"].paused
    h.say(ResetVm(vm="a"))
    assert h.states["vm-a"].resets == repeat
    h.say(StopVm(vm="a"))
    assert isinstance(h.states["vm-a"], Stopped)
    nothing_is_held(h)
    h._decide(DeleteVm(vm="a"))
    h._settle()
    assert isinstance(h.states["vm-a"], Absent) and isinstance(h.states["devices-a"], NoDevices)
    h.say(DeleteImage(image="tiny")) if repeat == 1 else None
    nothing_is_held(h)


def test_saying_everything_twice_writes_nothing_twice() -> None:
    once, twice = house(repeat=1), house(repeat=2)
    for h in (once, twice):
        define(h)
        h.say(StartVm(vm="a"))
        h.say(StopVm(vm="a"))
    assert once.types() == twice.types()


def test_a_launch_that_fails_on_one_node_succeeds_on_the_next() -> None:
    h = house(failing=lambda node, order: "locked" if node == "n1" and isinstance(order, OrderVm) else "")
    define(h)
    h.say(StartVm(vm="a"))
    state = h.states["vm-a"]
    assert isinstance(state, Running) and (state.node, state.generation) == ("n2", 2)
    assert not h.states["ledger-n1"].reserved and h.states["ledger-n2"].reserved["a"].generation == 2


def test_a_launch_that_fails_everywhere_ends_explained_and_holds_nothing() -> None:
    h = house(failing=lambda node, order: f"locked on {node}" if isinstance(order, OrderVm) else "")
    define(h)
    h.say(StartVm(vm="a"))
    state = h.states["vm-a"]
    assert isinstance(state, Stopped) and state.generation == 3 and state.sentence == "locked on n3"
    nothing_is_held(h)


def test_a_ledger_that_is_fuller_than_the_views_believe_is_asked_once() -> None:
    """256 MiB fit by compute's facts, but not into the area of the VM's class: the ledger denies, each node in turn."""
    h = house()
    define(h)
    for node in NODES:
        h.say(SetAreas(node=node, areas=(Area(name="host", min_mib=512), Area(name="vms-normal", max_mib=200))))
    h.say(StartVm(vm="a"))
    assert isinstance(h.states["vm-a"], Stopped) and h.types().count("memory_denied") == 3
    assert "0 + 228 of 200 MiB in the area of its class" in h.states["vm-a"].sentence
    nothing_is_held(h)


def test_an_image_that_went_away_ends_the_start_explained() -> None:
    h = house()
    define(h)
    h.say(DeleteImage(image="tiny"))
    h.say(StartVm(vm="a"))
    assert isinstance(h.states["vm-a"], Stopped) and "image tiny" in h.states["vm-a"].sentence
    nothing_is_held(h)
    import_tiny(h)
    h.say(StartVm(vm="a"))
    assert isinstance(h.states["vm-a"], Running)


def test_an_image_under_disks_is_kept() -> None:
    h = house()
    define(h)
    h.say(StartVm(vm="a"))
    with pytest.raises(Refused, match="IMAGE_IN_USE"):
        h.say(DeleteImage(image="tiny"))


def test_vms_spread_and_a_full_cluster_says_so() -> None:
    h = house(memory_mib=2048)
    for i in range(4):
        define(h, f"v{i}", memory_mib=2048)
    for i in range(3):
        h.say(StartVm(vm=f"v{i}"))
    assert sorted(h.states[f"vm-v{i}"].node for i in range(3)) == list(NODES)
    with pytest.raises(Refused, match="short of memory: n1"):
        h.say(StartVm(vm="v3"))
    h.say(StopVm(vm="v1"))
    h.say(StartVm(vm="v3"))
    assert isinstance(h.states["vm-v3"], Running)


def test_a_vm_made_again_under_its_name_goes_on_counting() -> None:
    h = house()
    for generation in (1, 2):
        define(h)
        h.say(StartVm(vm="a"))
        assert h.states["vm-a"].generation == generation
        h.say(StopVm(vm="a"))
        h.say(DeleteVm(vm="a"))
        nothing_is_held(h)


# --- a running VM moves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeat", [1, 2], ids=["once", "twice"])
def test_a_vm_moves_and_each_node_holds_what_it_has(repeat: int) -> None:
    h = house(repeat=repeat)
    define(h)
    h.say(StartVm(vm="a"))
    before = h.states["vm-a"]
    h.say(MigrateVm(vm="a", node="n3"))
    after = h.states["vm-a"]
    assert isinstance(after, Running) and (after.node, after.generation) == ("n3", 2)
    made = tuple(msgspec.structs.replace(disk, made=True) for disk in before.spec.disks)
    assert (after.spec.disks, after.spec.nics) == (made, before.spec.nics)
    assert not h.states[f"ledger-{before.node}"].reserved
    assert h.states["ledger-n3"].reserved["a"].generation == 2
    devices = h.states["devices-a"]
    assert isinstance(devices, Granted) and (devices.node, devices.holder) == ("n3", 2)
    views = h.services[0][1]
    assert (views.at, views.moves) == ({"a": "n3"}, {})
    assert (list(views.nodes["n3"].vms), list(views.nodes[before.node].vms)) == (["a"], [])
    assert (views.plans.where, views.plans.needs["a"].generation) == ({"a": "n3"}, 2)
    h.say(StopVm(vm="a"))
    nothing_is_held(h)


@pytest.mark.parametrize("want", [Want.INCOMING, Want.MIGRATING])
def test_a_move_that_fails_gives_back_what_the_target_held(want: Want) -> None:
    def failing(node: NodeId, order: Any) -> str:
        return "no" if isinstance(order, OrderVm) and order.want is want else ""

    h = house(failing=failing)
    define(h)
    h.say(StartVm(vm="a"))
    h.say(MigrateVm(vm="a", node="n2"))
    state = h.states["vm-a"]
    assert isinstance(state, Running) and (state.node, state.generation, state.highest) == ("n1", 1, 2)
    assert not h.states["ledger-n2"].reserved and h.states["ledger-n1"].reserved["a"].generation == 1
    devices = h.states["devices-a"]
    assert isinstance(devices, Granted) and (devices.node, devices.holder, devices.generation) == ("n1", 1, 2)
    h.say(StopVm(vm="a"))
    nothing_is_held(h)
    h.say(StartVm(vm="a"))
    assert h.states["vm-a"].generation == 3


def test_without_room_elsewhere_nothing_moves() -> None:
    h = house(memory_mib=2048)
    with pytest.raises(Refused, match="NO_NODE_FITS"):
        for n in range(12):
            define(h, f"v{n}", memory_mib=1024)
            h.say(StartVm(vm=f"v{n}"))
    before = h.states["vm-v0"]
    with pytest.raises(Refused, match="short of memory"):
        h.say(MigrateVm(vm="v0"))
    assert h.states["vm-v0"] == before
