"""The guard of one VM (stream `guard-VM`): whether it is to run again by itself, and how far that is. Pure.

              OweVm                WantRestart: its turn          NoteRestart: runs
    at rest ────────▶ owed ─────────────────────────▶ asked ────────────────────────▶ at rest
       ▲               │ ▲                              │
       │               │ └── unplaced, for a while ◀────┘ NoteRestart: came to nothing
       └── GuardEnded ─┘    somebody stopped or deleted it; it failed too often; the guard was switched off

What somebody starts by hand is asked for by that (VmInHand): it runs, or is owed on.

What somebody stopped is never owed: compute says of each end whether the VM was to run on (VmStopped.unwished), and starts nothing
else upon RestartWanted. A lost node's VM is started elsewhere where other nodes reach its disks, else there once that node is back.
One that failed by itself is started where it was, after a pause that doubles with each failure; when it failed more often than its
guard allows, elsewhere, and when it fails there as well, not again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import asdict, replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, Value, VmId
from proto.guard import (
    Cause,
    Guard,
    GuardCommand,
    GuardEnded,
    GuardEvent,
    GuardSet,
    Mode,
    NoteHand,
    NoteRestart,
    OweVm,
    Refusal,
    ReleaseVm,
    RestartWanted,
    SetGuard,
    Then,
    VmInHand,
    VmOwed,
    VmRecovered,
    VmUnplaced,
    WantRestart,
)
from proto.machine import Priority

FAILED_AGAIN_US = 10_000_000
"""the pause before the second start within a window; the first is at once, each further one waits twice as long"""
DENIED_US = 2_000_000
"""until a start that came to nothing is tried again though nothing changed; each further time twice as long"""
PAUSE_US_MAX = 300_000_000


class Owed(Value):
    """since_us: since when it does not run. asked: compute has been asked, and has not answered; by_hand: by somebody. denied: how
    often in a row a start came to nothing; sentence: why it is owed, or why it could not be started."""

    cause: Cause
    node: NodeId
    generation: int
    since_us: int
    priority: Priority = Priority.NORMAL
    elsewhere: bool = False
    attempt: int = 0
    asked: bool = False
    by_hand: bool = False
    try_us: int = 0
    denied: int = 0
    sentence: str = ""
    remedy: str = ""


class Watch(Value, tag=True):
    """failures: when it failed by itself, as far as that counts. moved_us: when it was sent elsewhere for that, 0: never. last: the
    latest generation that was owed."""

    guard: Guard = Guard()
    owed: Owed | None = None
    failures: tuple[int, ...] = ()
    moved_us: int = 0
    last: int = 0


def decide(command: GuardCommand, watch: Watch) -> Sequence[GuardEvent]:
    match command:
        case SetGuard():
            return _set(command, watch)
        case OweVm():
            return _owe(command, watch)
        case WantRestart():
            return [] if watch.owed is None else _want(command, watch.guard, watch.owed)
        case NoteRestart():
            return [] if watch.owed is None else _note(command, watch.owed)
        case NoteHand():
            waits = watch.owed is None or watch.owed.by_hand
            return [] if waits else [VmInHand(vm=VmId(command.vm), node=NodeId(command.node))]
        case ReleaseVm():
            ended = [GuardEnded(vm=VmId(command.vm), sentence=command.sentence)] if watch.owed is not None else []
            plain = command.deleted and watch.guard != Guard()
            return [*ended, GuardSet(vm=VmId(command.vm), guard=Guard())] if plain else ended


# --- what is set ---------------------------------------------------------------------------------------------------


def _set(command: SetGuard, watch: Watch) -> Sequence[GuardEvent]:
    vm = VmId(command.vm)
    if not command.defined:
        raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {vm}", "see `asvctl vm ls`")
    if command.unknown:
        raise Refused(Refusal.NOT_DEFINED, f"{vm} cannot wait for {', '.join(command.unknown)}: not defined", "name VMs that are")
    if command.circle:
        said = f"{' waits for '.join((*command.circle, command.circle[0]))}: none of them would ever be started"
        raise Refused(Refusal.CIRCLE, said, "take one of them out of `after`")
    if command.mode is Mode.RESTART and command.why_not:
        remedy = "take in-place, which starts it there again, or move its disks to a pool that other nodes reach too"
        raise Refused(Refusal.LOCAL_DISK, f"{vm} cannot be started elsewhere: {command.why_not}", remedy)
    named = {name: value for name in Guard.__struct_fields__ if (value := getattr(command, name)) is not None}
    guard = Guard(**asdict(watch.guard) | named)
    if guard == watch.guard:
        return []
    off = guard.mode is Mode.OFF and watch.owed is not None
    ended = [GuardEnded(vm=vm, sentence="its guard was switched off")] if off else []
    return [GuardSet(vm=vm, guard=guard), *ended]


# --- it is to run and does not -------------------------------------------------------------------------------------


def _owe(command: OweVm, watch: Watch) -> Sequence[GuardEvent]:
    if watch.guard.mode is Mode.OFF or command.generation <= watch.last:
        return []
    owed = VmOwed(
        vm=VmId(command.vm), cause=command.cause, node=NodeId(command.node), generation=command.generation,
        at_us=command.at_us, sentence=command.sentence, priority=command.priority, try_us=command.at_us,
    )  # fmt: skip
    if command.cause is not Cause.NODE_LOST:
        return _failed(owed, watch, can_move(watch.guard, command.why_not))
    if can_move(watch.guard, command.why_not):
        return [owed]
    why = "its guard keeps it there" if watch.guard.mode is Mode.IN_PLACE else command.why_not
    said = f"it is to run on {command.node} alone, once that is back ({why})"
    return [replace(owed, sentence=f"{said}; {command.sentence}" if command.sentence else said)]


def can_move(guard: Guard, why_not: str) -> bool:
    """It may be started elsewhere than where it was."""
    return guard.mode in (Mode.AUTO, Mode.RESTART) and not why_not


def _failed(owed: VmOwed, watch: Watch, may_move: bool) -> Sequence[GuardEvent]:
    guard, at_us = watch.guard, owed.at_us
    recent = sum(at_us - then_us < guard.window_s * 1_000_000 for then_us in watch.failures) + 1
    if recent <= guard.failures_max:
        pause_us = pause(FAILED_AGAIN_US, recent - 1)
        return [replace(owed, failures=recent, try_us=at_us + pause_us)]
    often = f"it failed {recent} times within {guard.window_s} s"
    moved = watch.moved_us > 0 and at_us - watch.moved_us < guard.window_s * 1_000_000
    if guard.then is Then.ELSEWHERE and may_move and not moved:
        return [replace(owed, failures=recent, elsewhere=True, sentence=f"{often}, so it goes elsewhere; {owed.sentence}")]
    also = ", elsewhere too" if moved else ""
    given_up = f"{often}{also}; see what it says (asvctl ha verdicts, asvctl vm console) and start it by hand"
    return [GuardEnded(vm=owed.vm, sentence=given_up, given_up=True, generation=owed.generation)]


def pause(first_us: int, times: int) -> int:
    """None the first time, then twice as long each time."""
    return 0 if times <= 0 else int(min(PAUSE_US_MAX, first_us * 2 ** min(times - 1, 16)))


# --- its turn ------------------------------------------------------------------------------------------------------


def where(guard: Guard, owed: Owed, away: bool, why_not: str) -> tuple[str, str]:
    """(only there, not there). away: where it was is lost."""
    moves = can_move(guard, why_not)
    if owed.elsewhere and moves:
        return "", "" if owed.denied else owed.node
    if moves and (owed.cause is Cause.NODE_LOST or away or owed.denied):
        return "", ""
    return owed.node, ""


def _want(command: WantRestart, guard: Guard, owed: Owed) -> Sequence[GuardEvent]:
    due = command.now_us >= owed.try_us or command.changed
    if owed.asked or not command.turn or not due:
        return []
    only, not_node = where(guard, owed, command.away, command.why_not)
    if only and command.away:
        return []
    return [
        RestartWanted(
            vm=VmId(command.vm), attempt=owed.attempt + 1, at_us=command.now_us, node=only, not_node=not_node,
            failover=(owed.cause is Cause.NODE_LOST or command.away) and not only, sentence=command.sentence,
        )
    ]  # fmt: skip


def _note(command: NoteRestart, owed: Owed) -> Sequence[GuardEvent]:
    vm = VmId(command.vm)
    if command.running:
        if command.generation <= owed.generation:
            return []
        after_ms = max(0, command.at_us - owed.since_us) // 1000
        node = NodeId(command.node)
        return [VmRecovered(vm=vm, node=node, generation=command.generation, after_ms=after_ms)]
    same = command.by_hand or command.attempt == owed.attempt
    if not owed.asked or command.by_hand != owed.by_hand or not same:
        return []
    try_us = command.at_us + pause(DENIED_US, owed.denied + 1)
    return [VmUnplaced(vm=vm, sentence=command.sentence, remedy=command.remedy, try_us=try_us)]


# --- state ---------------------------------------------------------------------------------------------------------


def evolve(watch: Watch, event: GuardEvent) -> Watch:
    owed = watch.owed
    match event:
        case VmOwed():
            return _owing(watch, event)
        case GuardSet():
            return replace(watch, guard=event.guard)
        case GuardEnded(given_up=True):
            return Watch(guard=watch.guard, last=max(watch.last, event.generation))
        case GuardEnded():
            return replace(watch, owed=None)
        case VmRecovered():
            return replace(watch, owed=None)
        case _ if owed is None:
            return watch
        case RestartWanted():
            return replace(watch, owed=replace(owed, asked=True, by_hand=False, attempt=event.attempt))
        case VmInHand():
            return replace(watch, owed=replace(owed, asked=True, by_hand=True))
        case VmUnplaced():
            after = replace(
                owed, asked=False, by_hand=False, denied=owed.denied + 1, try_us=event.try_us, sentence=event.sentence,
                remedy=event.remedy,
            )  # fmt: skip
            return replace(watch, owed=after)


def _owing(watch: Watch, event: VmOwed) -> Watch:
    """One that is owed already was started, and that came to an end before it ran: it waits on."""
    before = watch.owed
    owed = Owed(
        cause=event.cause, node=event.node, generation=event.generation, priority=event.priority, elsewhere=event.elsewhere,
        try_us=event.try_us, sentence=event.sentence, since_us=before.since_us if before else event.at_us,
        attempt=before.attempt if before else 0,
    )  # fmt: skip
    if event.cause is Cause.NODE_LOST:
        return replace(watch, owed=owed, last=event.generation)
    window_us = watch.guard.window_s * 1_000_000
    recent = tuple(at_us for at_us in watch.failures if event.at_us - at_us < window_us)
    moved_us = event.at_us if event.elsewhere else watch.moved_us
    failures = () if event.elsewhere else (*recent, event.at_us)
    return replace(watch, owed=owed, last=event.generation, failures=failures, moved_us=moved_us)


GUARD: Decider[GuardCommand, Watch, GuardEvent] = Decider(
    kind="guard",
    commands=get_args(GuardCommand),
    events=get_args(GuardEvent),
    state=Watch,
    key=lambda command: command.vm,
    initial=Watch(),
    decide=decide,
    evolve=evolve,
)
