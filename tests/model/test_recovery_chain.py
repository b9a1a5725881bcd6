"""A recovery from its wish to its end, through what both services decide upon one another's events; and each wish said twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import Command, Event, NodeId, VmId
from proto.compute import (
    DeleteVm,
    NodeJoined,
    NodeReported,
    NoteMemory,
    PrepareRecovery,
    Seen,
    StartVm,
    StopVm,
    VmDefined,
    VmLaunchRequested,
    VmRecoveryWaits,
    VmStartRequested,
)
from proto.hardware import Hardware, chain, standing
from proto.io import EndKind, EndRecovery, ReportDisksRemoved
from proto.machine import Disk, DiskWish
from proto.memory import CapacitySet
from services.compute import react as compute_react
from services.compute.enriching import enrich as compute_enrich
from services.compute.model import VM
from services.compute.states import Launching, Running, Stopped
from services.compute.views import Views as ComputeViews
from services.io.model import DEVICES
from services.io.react import react as io_react
from services.io.states import Granted, NoDevices
from services.io.views import Views as IoViews
from services.io.views import enrich as io_enrich
from tests.model.compute_story import DEFINED, report
from tests.model.recovery_story import ASKED
from tests.model.test_nodes import CAN
from tests.model.test_reach import NOW_US, row

A = VmId("a")
OWN = NodeId("n3")
POOLS = {"n1": ("shared", "p9"), "n2": ("shared", "p9"), "n3": ("own", "p8")}
"""of `default`, and of `safe`, in which the backup lies"""
WANTED = replace(ASKED, target=A, node="", pool="", isolated=False, lose="a")


class Both:
    """compute and io on one log; the ledger promises all. twice: each wish that comes of an event is said once more."""

    def __init__(self, twice: bool = False) -> None:
        self.compute, self.io = ComputeViews(), IoViews()
        self.events: dict[str, list[Any]] = {}
        self.ended: list[EndRecovery] = []
        self.said: list[Event] = []
        self.twice = twice
        for name, (default, safe) in POOLS.items():
            self.hear(NodeJoined(node=NodeId(name), key="k"))
            self.has(name, default=default, safe=safe)
            self.hear(CapacitySet(node=NodeId(name), capacity_mib=8000, physical_mib=8192))
            self.compute.nodes[name].heard_us = NOW_US

    def has(self, node: str, **ids: str) -> None:
        can = replace(CAN, pools=tuple(sorted(ids)), pool_ids=ids)
        self.hear(NodeReported(node=NodeId(node), capabilities=can, boot_id="b"))

    def hear(self, event: Event) -> deque[Command]:
        """What both make of it."""
        self.said.append(event)
        for views in (self.compute, self.io):
            views.apply(row(event), event)
        wishes = deque(compute_react.react(event, row(event), self.compute))
        wishes.extend(io_react(event, row(event), self.io))
        if isinstance(event, VmStartRequested):
            wishes.append(NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=True))
        return wishes

    def tell(self, *events: Event) -> None:
        for event in events:
            self.work(self.hear(event))

    def say(self, *commands: Command) -> None:
        for command in commands:
            for event in self.decide(command):
                self.work(self.hear(event))

    def work(self, wishes: deque[Command]) -> None:
        """In the order of the log, as services do."""
        while wishes:
            command = wishes.popleft()
            for _ in range(2 if self.twice else 1):
                for event in self.decide(command):
                    wishes.extend(self.hear(event))

    def decide(self, command: Any) -> list[Any]:
        if isinstance(command, EndRecovery):
            self.ended.append(command)
            return []
        deciders: tuple[tuple[Any, Any, Any], ...] = ((VM, compute_enrich, self.compute), (DEVICES, io_enrich, self.io))
        for decider, enrich, views in deciders:
            if type(command) in decider.commands:
                had = self.events.setdefault(f"{decider.kind}-{command.vm}", [])
                events = list(decider.decide(enrich(command, views, NOW_US), decider.fold(had)))
                had.extend(events)
                return events
        return []

    def vm(self, name: str = "a") -> Any:
        return VM.fold(tuple(self.events.get(f"vm-{name}", ())))

    def devices(self, name: str = "a") -> Any:
        return DEVICES.fold(tuple(self.events.get(f"devices-{name}", ())))

    def runs(self, name: str = "a") -> None:
        """Its agent has started it."""
        vm = self.vm(name)
        assert isinstance(vm, Launching), vm.word
        self.say(replace(report(Seen.RUNNING, vm.generation, vm.node), vm=name, boot_id="b"))

    def sees(self, has: Callable[[Disk], tuple[str, ...]], name: str = "a") -> None:
        vm = self.vm(name)
        assert isinstance(vm, Running)
        disks, slots = vm.spec.disks, (*(d.slot for d in vm.spec.disks), *(n.slot for n in vm.spec.nics))
        hardware = Hardware(
            vcpus=1, plugged_vcpus=1, memory_mib=256, slots=tuple(sorted(slots)),
            disk_mib=tuple((d.slot, d.size_mib) for d in disks), chains=tuple((d.slot, has(d)) for d in disks if d.layers),
        )  # fmt: skip
        self.say(replace(report(Seen.RUNNING, vm.generation, vm.node, hardware=hardware), vm=name))

    def ends(self, name: str = "a") -> None:
        vm = self.vm(name)
        self.say(StopVm(vm=name, deadline_s=0))
        self.say(replace(report(Seen.GONE, vm.generation, vm.node), vm=name))
        assert isinstance(self.vm(name), Stopped)


def lived(twice: bool = False) -> Both:
    """A VM that has run on n3, in a pool that n3 alone has."""
    both = Both(twice)
    both.events["vm-a"] = [defined := replace(DEFINED, vm=A, disks=(DiskWish(size_mib=64), DiskWish(size_mib=10)), boot_image="")]
    both.tell(defined)
    both.say(StartVm(vm="a", node="n3"))
    both.runs()
    both.ends()
    assert both.devices().node == OWN
    return both


@pytest.mark.parametrize("twice", [False, True], ids=["once", "each wish twice"])
def test_in_place_on_another_node_and_home(twice: bool) -> None:
    both = lived(twice)
    former = [disk.file for disk in both.devices().disks]
    both.tell(WANTED)
    launching = both.vm()
    assert isinstance(launching, Launching) and launching.node in ("n1", "n2"), "where the backup is reached"
    assert all(standing(d) and d.pool_id == "shared" for d in launching.spec.disks)
    assert launching.definition.disks == (DiskWish(size_mib=64), DiskWish(size_mib=10)), "on no image any more"
    both.runs()
    both.sees(lambda disk: (disk.file, *(one.file for one in disk.layers)))
    assert not both.ended and isinstance(both.devices(), Granted)
    both.sees(chain)
    assert {(one.vm, one.recovery, one.end) for one in both.ended} == {("a", "r1-9", EndKind.INDEPENDENT)}
    running, devices = both.vm(), both.devices()
    assert running.spec.disks == devices.disks and not any(d.layers for d in devices.disks)
    assert [(one.node, [d.file for d in one.disks]) for one in devices.unwanted] == [(OWN, former)]
    assert both.compute.homes.at["a"] == {"default": "shared"} and not both.compute.homes.backups


@pytest.mark.parametrize("twice", [False, True], ids=["once", "each wish twice"])
def test_anew_under_another_name_beside_the_first(twice: bool) -> None:
    both = lived(twice)
    both.tell(replace(ASKED, target=VmId("x"), node="n2", pool=""))
    first, second = both.vm(), both.vm("x")
    assert isinstance(first, Stopped) and isinstance(second, Launching) and second.node == "n2"
    assert not any(nic.link for nic in second.spec.nics), "isolated"
    assert second.spec.disks[0].serial != both.devices().disks[0].serial
    both.runs("x")
    both.ends("x")
    both.say(StartVm(vm="x"))
    assert isinstance(both.vm("x"), Launching) and both.vm("x").spec.disks == both.devices("x").disks, "on the backup still"
    both.runs("x")
    both.ends("x")
    both.say(DeleteVm(vm="x"))
    devices = both.devices("x")
    done = ReportDisksRemoved(vm="x", node=devices.node, order_version=devices.version)
    assert not both.ended, "until its files are gone"
    both.say(done)
    assert isinstance(both.devices("x"), NoDevices)
    assert {(one.recovery, one.end) for one in both.ended} == {("r1-9", EndKind.GONE)}


def test_one_that_is_not_to_start_is_there_on_the_backup() -> None:
    both = lived()
    both.tell(replace(WANTED, start=False))
    assert isinstance(both.vm(), Stopped) and all(map(standing, both.devices().disks)) and not both.ended


def test_a_start_that_came_between_lets_the_backup_go() -> None:
    """Of the two, whoever is first in the devices' own stream."""
    both = lived()
    wishes = both.hear(WANTED)
    (prepare,) = wishes
    assert isinstance(prepare, PrepareRecovery)
    (prepared,) = both.decide(prepare)
    both.say(StartVm(vm="a"))
    assert isinstance(both.vm(), Launching)
    both.tell(prepared)
    assert not any(map(standing, both.devices().disks)) and [one.end for one in both.ended] == [EndKind.REFUSED]
    both.runs()
    both.tell(replace(WANTED, recovery="r1-10"))
    assert [(one.recovery, one.end) for one in both.ended] == [("r1-9", EndKind.REFUSED), ("r1-10", EndKind.REFUSED)]


def test_no_node_that_reaches_both_no_start_and_nothing_is_lost() -> None:
    both = lived()
    for name in ("n1", "n2"):
        both.has(name, default="shared", safe="p8")
    both.tell(WANTED)
    (waits,) = (event for event in both.said if isinstance(event, VmRecoveryWaits))
    assert (waits.vm, waits.recovery) == ("a", "r1-9") and waits.sentence
    assert isinstance(both.vm(), Stopped) and all(map(standing, both.devices().disks)) and not both.ended
    assert both.devices().unwanted == ()
    both.has("n2", default="shared", safe="p9")
    both.say(StartVm(vm="a"))
    assert both.vm().node == "n2"


def test_what_was_said_between_the_two_is_what_they_know() -> None:
    """Nothing is asked for again: each wish holds all that it needs."""
    both = lived()
    both.tell(WANTED)
    wished = [type(e).__name__ for e in both.said]
    last = len(wished) - 1 - wished[::-1].index("VmStartRequested")
    assert wished.index("VmRecoveryPrepared") < wished.index("DisksRecovered") < last
    assert not any(isinstance(e, VmDefined) for e in both.said[1 + wished.index("RecoveryRequested") :])
    launched = [e for e in both.said if isinstance(e, VmLaunchRequested)][-1]
    assert launched.spec.disks == both.devices().disks
