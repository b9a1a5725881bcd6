"""A VM with a backup, and its drills: compute and io on one log, and whoever else has a hand in it. What one service says upon an
event waits in that service's queue; a crash has it said once more."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import Command, Event, Recorded, VmId, encode, tag_of
from proto.backups import Definition
from proto.compute import DeleteVm, NoteMemory, Seen, StopVm, VmStartRequested
from proto.drills import AnswerDrill, CancelDrill, Drill, DrillVm
from proto.io import ReportDisksRemoved
from proto.machine import DiskWish
from proto.pools import PoolRoom
from services.compute import react as compute_react
from services.compute.enriching import enrich as compute_enrich
from services.compute.model import VM
from services.compute.states import Absent, Launching, Running, Stopping
from services.io.backups.drill_states import Drilling, Phase
from services.io.backups.model import BACKUPS
from services.io.backups.states import Backups
from services.io.backups.turns import ticks
from services.io.model import DEVICES
from services.io.react import react as io_react
from services.io.states import Removing
from services.io.views import enrich as io_enrich
from tests.model.backup_story import RUNS, TAKE, story
from tests.model.compute_story import DEFINED, SHAPE, report
from tests.model.test_recovery_chain import Both

A = VmId("a")
WISHES = (DiskWish(size_mib=64), DiskWish(size_mib=10))
SAVED = story(
    replace(
        TAKE,
        known=replace(
            RUNS, definition=Definition(shape=SHAPE, disks=WISHES, nics=DEFINED.nics),
            room=PoolRoom(name="safe", id="p9", size_mib=1000, free_mib=900),
        ),
    )
)  # fmt: skip
CHECKED = Drill(check=("true",), timeout_s=60)


class World(Both):
    """denied: nodes have no memory for what is started from now on."""

    def __init__(self, random: Random | None = None) -> None:
        self.queues: dict[str, deque[Any]] = {"compute": deque(), "io": deque()}
        self.random, self.now_us, self.denied = random or Random(0), 1_800_000_000_000_000, False
        super().__init__()
        for node in self.compute.nodes.values():
            node.heard_us = self.now_us
        self.append("vm-a", replace(DEFINED, vm=A, disks=WISHES, boot_image="", boot=None))
        for event in SAVED:
            self.append("backups-a", event)
        self.quiet()

    def append(self, stream: str, event: Event) -> None:
        self.events.setdefault(stream, []).append(event)
        self.hear(event)

    def hear(self, event: Event) -> deque[Command]:
        self.said.append(event)
        row = Recorded(1, "x-y", 1, tag_of(type(event)), 1, self.now_us, encode(event), b"")
        for views in (self.compute, self.io):
            views.apply(row, event)
        self.queues["compute"].extend(compute_react.react(event, row, self.compute))
        self.queues["io"].extend(io_react(event, row, self.io))
        if isinstance(event, VmStartRequested):
            note = NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=not self.denied)
            self.queues["compute"].append(note)
        return deque()

    def do(self, command: Any) -> None:
        """A refusal leaves nothing in a log."""
        deciders: tuple[tuple[Any, Any, Any], ...] = (
            (VM, compute_enrich, self.compute), (DEVICES, io_enrich, self.io), (BACKUPS, io_enrich, self.io),
        )  # fmt: skip
        for decider, enrich, views in deciders:
            if type(command) not in decider.commands:
                continue
            stream = f"{decider.kind}-{command.vm}"
            state = decider.fold(self.events.get(stream, []))
            try:
                events = list(decider.decide(enrich(command, views, self.now_us), state))
            except Refused:
                return
            for event in events:
                self.append(stream, event)

    def react(self, service: str, times: int = 1) -> None:
        if self.queues[service]:
            command = self.queues[service].popleft()
            for _ in range(times):
                self.do(command)

    def quiet(self) -> None:
        """All that is to be said upon what happened."""
        for _ in range(500):
            if not any(self.queues.values()):
                return
            for service in sorted(self.queues):
                self.react(service)
        raise AssertionError("they never come to an end")

    def tick(self, seconds: float = 1.0) -> None:
        self.now_us += round(seconds * 1e6)
        for node in self.compute.nodes.values():
            node.heard_us = self.now_us
        for command in list(ticks(self.now_us, [("backups-a", self.backups)])):
            self.do(command)

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def backups(self) -> Backups:
        return BACKUPS.fold(self.events["backups-a"])

    @property
    def drill(self) -> Drilling | None:
        drills = self.backups.drills
        return drills.now if drills is not None else None

    def made(self) -> set[str]:
        """VMs that drills have made, and that are there."""
        names = {stream.removeprefix("vm-") for stream in self.events if stream.startswith("vm-drill-")}
        return {name for name in names if not isinstance(self.vm(name), Absent)}

    def named(self, kind: str) -> list[Any]:
        return [event for event in self.said if type(event).__name__ == kind]

    # --- what others do -----------------------------------------------------------------------------------------------

    def agents(self) -> None:
        """Each does what it is ordered to."""
        for name in sorted(self.made()):
            vm = self.vm(name)
            if isinstance(vm, Launching):
                self.do(replace(report(Seen.RUNNING, vm.generation, vm.node), vm=name, boot_id="b"))
            elif isinstance(vm, Stopping):
                self.do(replace(report(Seen.GONE, vm.generation, vm.node), vm=name))
        for stream in sorted(self.events):
            if stream.startswith("devices-drill-"):
                name = stream.removeprefix("devices-")
                if isinstance(state := self.devices(name), Removing):
                    self.do(ReportDisksRemoved(vm=name, node=state.node, order_version=state.version))

    def dies(self) -> None:
        for name in sorted(self.made()):
            vm = self.vm(name)
            if isinstance(vm, Launching | Running):
                self.do(replace(report(Seen.GONE, vm.generation, vm.node), vm=name))

    def answers(self, exit_code: int | None = 0, **more: Any) -> None:
        if (now := self.drill) is not None and now.phase is Phase.CHECKING:
            self.do(AnswerDrill(vm="a", drill=now.id, generation=now.generation, exit_code=exit_code, **more))

    def goes(self, *, answers: bool = True, steps: int = 60) -> None:
        """Everybody does what is theirs, second by second."""
        for _ in range(steps):
            self.quiet()
            self.agents()
            self.quiet()
            if answers:
                self.answers()
            self.quiet()
            self.tick()

    def chance(self) -> None:
        """One thing of all that may happen."""
        target = (now := self.drill) and now.target
        done = self.random.choice(("compute", "io", "twice", "tick", "agents", "agents", "late", *LESS))
        match done:
            case "compute" | "io":
                self.react(done)
            case "twice":
                self.react(self.random.choice(("compute", "io")), 2)
            case "tick":
                self.tick()
            case "late":
                self.tick(self.random.choice((5, 30, 70, 400)))
            case "agents":
                self.agents()
            case "answer":
                self.answers(self.random.choice((None, 0, 1)))
            case "dies":
                self.dies()
            case "room":
                self.denied = not self.denied
            case "drill":
                self.do(DrillVm(vm="a", drill=replace(CHECKED, check=self.random.choice(((), ("true",))))))
            case "cancel":
                self.do(CancelDrill(vm="a"))
            case "delete" if target:
                self.do(StopVm(vm=target, deadline_s=0))
                self.do(DeleteVm(vm=target))


LESS = ("answer", "dies", "room", "drill", "drill", "cancel", "delete")
