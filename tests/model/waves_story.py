"""compute and io on one log, with the backups and the waves of io: VMs that were backed up and lost, and what becomes of them."""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import Command, Event, NodeId, Recorded, VmId
from proto.backups import BackupDone, BackupKind, BackupRequested, BackupTaken, Definition, SavedDisk
from proto.compute import NoteMemory, StartVm, VmDeleted, VmStartRequested
from proto.hardware import chain
from proto.io import DevicesRemoved
from proto.machine import DiskWish, Priority
from services.compute import react as compute_react
from services.compute.enriching import enrich as compute_enrich
from services.compute.model import VM
from services.compute.states import Launching
from services.io.backups.model import BACKUPS
from services.io.model import DEVICES
from services.io.react import react as io_react
from services.io.views import enrich as io_enrich
from services.io.waves import reacting
from services.io.waves.model import WAVE
from tests.model.compute_story import DEFINED, SHAPE
from tests.model.test_reach import NOW_US, row
from tests.model.test_recovery_chain import Both

S = 1_000_000
T0 = NOW_US + 1_000_000 * S
SIZE: dict[str, Any] = {"disks": (DiskWish(size_mib=64),), "nics": ()}


class Waves(Both):
    """refused: the commands of reactions that were refused, with why."""

    def __init__(self, twice: bool = False) -> None:
        self.now_us = T0
        self.refused: list[tuple[Any, str]] = []
        super().__init__(twice)
        self.heard("n1", "n2", "n3")

    def heard(self, *nodes: str) -> None:
        """By io; compute hears all."""
        for name in nodes:
            self.io.nodes[name].heard_us = self.now_us
        for node in self.compute.nodes.values():
            node.heard_us = self.now_us

    def hear(self, event: Event) -> deque[Command]:
        self.said.append(event)
        recorded: Recorded = replace(row(event), at_us=self.now_us)
        for views in (self.compute, self.io):
            views.apply(recorded, event)
        wishes = deque(compute_react.react(event, recorded, self.compute))
        wishes.extend(io_react(event, recorded, self.io))
        if isinstance(event, VmStartRequested):
            wishes.append(NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=True))
        return wishes

    def decide(self, command: Any) -> list[Any]:
        io = tuple((one, io_enrich, self.io) for one in (DEVICES, BACKUPS, WAVE))
        deciders: tuple[tuple[Any, Any, Any], ...] = ((VM, compute_enrich, self.compute), *io)
        for decider, enrich, views in deciders:
            if type(command) not in decider.commands:
                continue
            had = self.events.setdefault(decider.stream(command), [])
            try:
                events = list(decider.decide(enrich(command, views, self.now_us), decider.fold(had)))
            except Refused as no:
                self.refused.append((command, no.sentence))
                return []
            had.extend(events)
            return events
        return []

    def backed_up(self, vm: str, priority: Priority = Priority.NORMAL, mib: int = 3, at_us: int = T0 - 60 * S) -> str:
        """It has run on n3, in a pool that n3 alone has, and lies in one that n1 and n2 have; then it was stopped."""
        if vm not in self.io.vms:
            defined = replace(DEFINED, vm=VmId(vm), priority=priority, boot_image="", **SIZE)
            self.events[f"vm-{vm}"] = [defined]
            self.tell(defined)
            self.say(StartVm(vm=vm, node="n3"))
            self.runs(vm)
            self.ends(vm)
        had = self.events.setdefault(f"backups-{vm}", [])
        name = f"b1-{len(had) + 1}"
        definition = Definition(shape=SHAPE, priority=priority, **SIZE)
        disks = (SavedDisk(disk="disk0", file=f"{vm}-disk0.{name}.qcow2", size_mib=64, bytes=mib << 20, sha256="a" * 64),)
        wish = BackupRequested(
            vm=VmId(vm), backup=name, node=NodeId("n3"), generation=0, pool="safe", pool_id="p9", disks=(), definition=definition
        )
        taken = BackupTaken(vm=VmId(vm), backup=name, done=BackupDone(kind=BackupKind.FULL, disks=disks, at_us=at_us))
        for event in (wish, taken):
            had.append(event)
            self.tell(event)
        return name

    def deleted(self, vm: str) -> None:
        gone = VmDeleted(vm=VmId(vm), node=NodeId("n3"))
        self.events[f"vm-{vm}"].append(gone)
        self.events[f"devices-{vm}"] = []
        self.tell(gone)
        self.tell(DevicesRemoved(vm=VmId(vm)))

    def ticks(self, seconds: int = 1) -> None:
        self.now_us += seconds * S
        self.heard("n1", "n2")
        self.say(*reacting.look(self.now_us, self.io))

    def launching(self) -> list[str]:
        streams = sorted(name for name in self.events if name.startswith("vm-"))
        return [name.removeprefix("vm-") for name in streams if isinstance(self.vm(name.removeprefix("vm-")), Launching)]

    def home(self, vm: str) -> None:
        """Its agent sees that nothing of the backup is needed any more."""
        self.sees(chain, vm)

    def of[E: Event](self, kind: type[E]) -> list[E]:
        return [event for event in self.said if isinstance(event, kind)]
