"""What is known of each VM that may have to be judged: where it runs by the log, what its guard says, and the signs that its node
tells. Pure.

react   a panic, and a process that died, are judged at once
look    about once a second: those of whom a node tells something, and panics that were to wait
enrich  the evidence, and what the guard makes of it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from libs.common.host import hearing
from libs.common.messages import Command, Recorded
from proto.compute import (
    GoneCause,
    NodeRemoved,
    VmDeleted,
    VmFound,
    VmPaused,
    VmPauseRequested,
    VmReset,
    VmResumed,
    VmResumeRequested,
    VmStarted,
    VmStopped,
    VmStopRequested,
)
from proto.guard import Guard, GuardSet, Mode
from proto.lease import HaArmed, HaDisarmed
from proto.migration import VmIncomingGone, VmMigrationEnded, VmMigrationRequested
from proto.panics import VmPanicked, VmPanicOver
from proto.vitals import (
    BEAT_S,
    Evidence,
    Finding,
    JudgeVm,
    Kind,
    LiftVerdict,
    Sign,
    VerdictLifted,
    VerdictReached,
    VitalsBeat,
    VmVitals,
)
from services.ha.verdict_rule import lone_watchdog, two_signs

FRESH_US = round(4 * BEAT_S * 1e6)
"""what a node said longer ago says nothing of now"""
FOLLOWS = (
    *(VmStarted, VmFound, VmStopRequested, VmStopped, VmPauseRequested, VmPaused, VmResumed, VmDeleted, NodeRemoved),
    *(VmMigrationRequested, VmMigrationEnded, VmIncomingGone, VmPanicked, VmPanicOver, VmResumeRequested, VmReset),
)
"""events of others that this is made of"""

_decode = msgspec.msgpack.Decoder(VitalsBeat).decode


class Ward(msgspec.Struct, gc=False):
    """A VM that runs by the log. held: why its silence says nothing; panic: its guest's word, at panic_us; died: its process ended
    by itself, and this was said. reached: verdicts of this generation; open: upon one of them nothing was done. again: it was being
    moved as one was to be done upon, which has come to nothing since."""

    node: str
    generation: int
    held: str = ""
    panic: VmPanicked | None = None
    panic_us: int = 0
    died: str = ""
    reached: tuple[Kind, ...] = ()
    open: tuple[Kind, ...] = ()
    again: bool = False


@dataclass(slots=True)
class NodeVitals:
    heard_us: int = 0
    slow: bool = False
    vms: dict[str, VmVitals] = field(default_factory=dict)


@dataclass(slots=True)
class VitalsViews:
    NOT_OF_LOG: ClassVar = frozenset({"nodes"})

    wards: dict[str, Ward] = field(default_factory=dict)
    nodes: dict[str, NodeVitals] = field(default_factory=dict)
    guards: dict[str, Guard] = field(default_factory=dict)
    disarmed: bool = False
    disarmed_until_us: int = 0

    def apply(self, recorded: Recorded, event: Any) -> None:
        if (does := self.HEARS.get(type(event))) is not None:
            does(self, recorded, event)

    def _rare(self, recorded: Recorded, event: Any) -> None:
        match event:
            case VmDeleted():
                self.wards.pop(event.vm, None)
                self.guards.pop(event.vm, None)
            case HaDisarmed():
                self.disarmed, self.disarmed_until_us = True, event.until_us
            case HaArmed():
                self.disarmed = False
            case NodeRemoved():
                self.nodes.pop(event.node, None)

    def _guard(self, recorded: Recorded, event: GuardSet) -> None:
        self.guards[event.vm] = event.guard

    def _reset(self, recorded: Recorded, event: VmReset) -> None:
        """What was told is of the boot before."""
        if (ward := self.wards.get(event.vm)) is not None and (node := self.nodes.get(ward.node)) is not None:
            node.vms.pop(event.vm, None)

    def _runs(self, recorded: Recorded, event: VmStarted | VmFound | VmMigrationEnded) -> None:
        self.wards[event.vm] = Ward(event.node, event.generation)

    def _stopping(self, recorded: Recorded, event: VmStopRequested) -> None:
        if (ward := self.wards.get(event.vm)) is not None:
            ward.held = "it is being stopped"

    def _stopped(self, recorded: Recorded, event: VmStopped) -> None:
        if (ward := self.wards.get(event.vm)) is not None:
            ward.held, ward.panic = "it has stopped", None
            if event.generation == ward.generation and event.cause is GoneCause.CRASHED:
                ward.died = event.sentence or "QEMU ended by itself"

    def _ward(self, recorded: Recorded, event: Any) -> None:
        if (ward := self.wards.get(event.vm)) is not None:
            _follow(ward, recorded, event)

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys((*FOLLOWS, VmMigrationRequested, VerdictReached, VerdictLifted), _ward),
        **dict.fromkeys((VmDeleted, NodeRemoved, HaDisarmed, HaArmed), _rare),
        GuardSet: _guard,
        VmReset: _reset,
        **dict.fromkeys((VmStarted, VmFound, VmMigrationEnded), _runs),
        VmStopRequested: _stopping,
        VmStopped: _stopped,
    }

    def hear(self, subject: str, data: bytes, now_us: int) -> None:
        """`tel.NODE.vitals`, only in the node's own name."""
        beat = _decode(data)
        if subject == f"tel.{beat.node}.vitals":
            self.nodes[beat.node] = NodeVitals(now_us, beat.slow, {vm.vm: vm for vm in beat.vms})

    def is_disarmed(self, now_us: int) -> bool:
        return self.disarmed and not 0 < self.disarmed_until_us <= now_us


def _follow(ward: Ward, recorded: Recorded, event: Any) -> None:
    match event:
        case VmMigrationRequested():
            ward.held = "it is being moved"
        case VmPauseRequested() | VmPaused():
            ward.held = "it is paused"
        case VmIncomingGone():
            ward.held, ward.again = "", any(kind not in ward.open for kind in ward.reached)
        case VmResumeRequested() | VmResumed():
            ward.held = ""
        case VmPanicked():
            ward.panic, ward.panic_us = event, recorded.at_us
        case VmPanicOver():
            ward.panic = None
        case VerdictReached() if event.generation == ward.generation:
            ward.again = False
            ward.reached = (*ward.reached, event.kind)
            if not event.treated:
                ward.open = (*ward.open, event.kind)
        case VerdictLifted() if event.generation == ward.generation:
            ward.reached = tuple(kind for kind in ward.reached if kind is not event.kind)
            ward.open = tuple(kind for kind in ward.open if kind is not event.kind)
        case _:
            pass


# --- who is judged ---------------------------------------------------------------------------------------------


def react(event: Any, recorded: Recorded) -> Sequence[Command]:
    match event:
        case VmPanicked() | VmStopped(cause=GoneCause.CRASHED):
            return [JudgeVm(vm=event.vm, generation=event.generation, now_us=recorded.at_us)]
        case VmIncomingGone():
            return [JudgeVm(vm=event.vm, generation=event.source_generation, now_us=recorded.at_us)]
        case VmPanicOver():
            said = "it was reset"
            return [LiftVerdict(vm=event.vm, generation=event.generation, sentence=said, now_us=recorded.at_us)]
        case _:
            return ()


def look(now_us: int, views: VitalsViews) -> Iterable[Command]:
    told = [(name, ward) for name, ward in views.wards.items() if ward.panic is not None or ward.open or ward.died]
    for name, ward in sorted(told, key=lambda one: one[0]):
        yield from _looked(name, ward, views, now_us)
    for _, node in sorted(views.nodes.items()):
        for name in sorted(node.vms):
            found = views.wards.get(name)
            if found is not None and found.panic is None and not found.open and not found.died:
                yield from _looked(name, found, views, now_us)


def _looked(name: str, ward: Ward, views: VitalsViews, now_us: int) -> Iterable[Command]:
    judged = enrich(JudgeVm(vm=name, generation=ward.generation, now_us=now_us), views, now_us)
    if judged.kind is not None and not judged.held and (ward.again or judged.kind not in ward.reached):
        yield JudgeVm(vm=name, generation=ward.generation, now_us=now_us)
    elif (Kind.HANG in ward.open or Kind.WATCHDOG in ward.open) and shows_life(name, ward, views, now_us):
        said = "it shows life again"
        yield LiftVerdict(vm=name, generation=ward.generation, sentence=said, now_us=now_us)


def shows_life(name: str, ward: Ward, views: VitalsViews, now_us: int) -> bool:
    """Its node tells that all is well with it, or its agent answers."""
    node = views.nodes.get(ward.node)
    if node is None or now_us - node.heard_us > FRESH_US or node.slow or ward.held:
        return False
    told = node.vms.get(name)
    well = [("agent", "answers")]
    return told is None or any((f.sign.value, f.word) in well for f in told.findings)


# --- what it is judged by --------------------------------------------------------------------------------------


def enrich(command: JudgeVm, views: VitalsViews, now_us: int) -> JudgeVm:
    """Overwrites all but the name, whoever sent it."""
    ward, guard = views.wards.get(command.vm), views.guards.get(command.vm, Guard())
    empty = JudgeVm(vm=command.vm, generation=command.generation, now_us=now_us)
    if ward is None or ward.generation != command.generation:
        return empty
    kind, evidence, held = _found(command.vm, ward, guard, views, now_us)
    if kind is None:
        return empty
    if kind is not Kind.DIED and views.is_disarmed(now_us):
        held = held or "high availability is disarmed"
    why_not = _why_not(kind, guard)
    return JudgeVm(
        vm=command.vm, generation=command.generation, now_us=now_us, node=ward.node, kind=kind, evidence=evidence, held=held,
        treated=not why_not, why_not=why_not, again=ward.again,
    )  # fmt: skip


def _found(
    vm: str, ward: Ward, guard: Guard, views: VitalsViews, now_us: int
) -> tuple[Kind | None, Evidence | None, str]:
    if ward.died:
        return Kind.DIED, Evidence(said=ward.died, findings=(Finding(sign=Sign.PROCESS, word="gone"),)), ""
    if ward.panic is not None:
        told = Finding(sign=Sign.PANIC, word="told", for_s=max(0, now_us - ward.panic_us) / 1e6)
        early = now_us - ward.panic_us < guard.panic_wait_s * 1_000_000
        held = ward.held or (f"it is left for {guard.panic_wait_s} s" if early else "")
        return Kind.PANIC, Evidence(findings=(told,), screen=ward.panic.screen, said=ward.panic.sentence), held
    node = views.nodes.get(ward.node)
    told_vm = node.vms.get(vm) if node is not None else None
    if node is None or told_vm is None or told_vm.generation != ward.generation:
        return None, None, ""
    kind = Kind.HANG if two_signs(told_vm.findings) else Kind.WATCHDOG if lone_watchdog(told_vm.findings) else None
    evidence = Evidence(findings=told_vm.findings, screen=told_vm.screen, up_s=told_vm.up_s)
    return kind, evidence, _held(ward, guard, node, told_vm, now_us)


def _held(ward: Ward, guard: Guard, node: NodeVitals, told: VmVitals, now_us: int) -> str:
    """Why its silence says nothing just now."""
    if now_us - node.heard_us > FRESH_US:
        return f"{ward.node} has not been heard for {(now_us - node.heard_us) / 1e6:.0f} s"
    if node.slow:
        return f"{ward.node} is slow itself"
    if told.up_s < guard.grace_s:
        return f"it began {told.up_s:.0f} s ago, and has {guard.grace_s} s"
    return ward.held or told.hold


def _why_not(kind: Kind, guard: Guard) -> str:
    """Empty: it is treated."""
    if guard.mode is Mode.OFF:
        return "its guard is off"
    if kind is Kind.HANG and not guard.hangs:
        return "its guard leaves hangs alone"
    if kind is Kind.PANIC and not guard.panics:
        return "its guard leaves panics alone"
    return "one sign is no verdict" if kind is Kind.WATCHDOG else ""
