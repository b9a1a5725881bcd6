"""What others' events mean for a VM's guard, and when the next may have its turn. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.messages import Command, Recorded
from proto.compute import (
    GoneCause,
    VmDeleted,
    VmFound,
    VmLeftStopped,
    VmRestartDenied,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.guard import (
    Cause,
    Guard,
    GuardEnded,
    Mode,
    NoteHand,
    NoteRestart,
    OweVm,
    ReleaseVm,
    SetGuard,
    VmOwed,
    VmRecovered,
    VmUnplaced,
    WantRestart,
)
from proto.lease import HaArmed, HaSet, NodeReturned
from services.ha.guard_views import GuardViews

CAUSES = {
    GoneCause.NODE_LOST: Cause.NODE_LOST,
    GoneCause.LEASE_ENDED: Cause.NODE_LOST,
    GoneCause.PANIC: Cause.PANIC,
    GoneCause.HANG: Cause.HANG,
}
FOLLOWS = (VmStartRequested, VmStartFailed, VmStopRequested, VmLeftStopped, VmRestartDenied)
"""events of others beside those of the views"""


def react(event: Any, recorded: Recorded, views: GuardViews) -> Sequence[Command]:
    match event:
        case VmStopped(unwished=True) if views.guards.get(event.vm, Guard()).mode is not Mode.OFF:
            return [_owe(event, recorded, views)]
        case VmOwed():
            return [WantRestart(vm=event.vm, now_us=recorded.at_us)]
        case VmUnplaced() | VmRecovered() | GuardEnded() | NodeReturned() | HaArmed() | HaSet():
            return list(_next(recorded.at_us, views))
        case VmDeleted():
            return [ReleaseVm(vm=event.vm, sentence="it was deleted", deleted=True)] if views.knows(event.vm) else ()
        case _ if getattr(event, "vm", "") in views.owed:
            return _of_owed(event, recorded)
        case _:
            return ()


def _owe(event: VmStopped, recorded: Recorded, views: GuardViews) -> OweVm:
    """That nobody saw how it ended, on a node that was lost, is no failure of its own."""
    cause = CAUSES.get(event.cause, Cause.DIED)
    if event.cause is GoneCause.UNKNOWN and views.was_lost(event.node, recorded.at_us):
        cause = Cause.NODE_LOST
    return OweVm(
        vm=event.vm, cause=cause, node=event.node, generation=event.generation,
        at_us=recorded.at_us, sentence=event.sentence,
    )  # fmt: skip


def _of_owed(event: Any, recorded: Recorded) -> Sequence[Command]:
    match event:
        case VmStarted() | VmFound():
            return [
                NoteRestart(
                    vm=event.vm, generation=event.generation, node=event.node, running=True, at_us=recorded.at_us
                )
            ]
        case VmRestartDenied():
            return [
                NoteRestart(
                    vm=event.vm, attempt=event.attempt, sentence=event.sentence, remedy=event.remedy, at_us=recorded.at_us
                )
            ]
        case VmStartRequested(attempt=0):
            return [NoteHand(vm=event.vm, node=event.node)]
        case VmStartFailed():
            return [NoteRestart(vm=event.vm, by_hand=True, sentence=event.sentence, at_us=recorded.at_us)]
        case VmStopRequested(cause=GoneCause.ORDERED) | VmLeftStopped():
            return [ReleaseVm(vm=event.vm, sentence="somebody wants it stopped")]
        case _:
            return ()


def _next(now_us: int, views: GuardViews) -> Iterator[Command]:
    for vm in views.turns(now_us):
        yield WantRestart(vm=vm, now_us=now_us)


def enrich(command: Any, views: GuardViews, now_us: int) -> Any:
    """Overwrites what only ha's own views may say, whoever sent the command."""
    match command:
        case SetGuard(after=after):
            return replace(
                command,
                defined=command.vm in views.priorities,
                why_not=views.why_not(command.vm),
                unknown=tuple(name for name in after or () if name not in views.priorities),
                circle=views.circle(command.vm, after or ()),
            )
        case OweVm():
            priority = views.priorities.get(command.vm, command.priority)
            return replace(command, priority=priority, why_not=views.why_not(command.vm))
        case WantRestart():
            return _turn(command, views, now_us)
        case _:
            return command


def _turn(command: WantRestart, views: GuardViews, now_us: int) -> WantRestart:
    waiting = views.owed.get(command.vm)
    said = views.turns(now_us)
    return replace(
        command,
        now_us=now_us,
        turn=command.vm in said,
        changed=waiting is not None and bool(waiting.unplaced) and views.is_changed(waiting),
        away=waiting is not None and waiting.node in views.lost,
        why_not=views.why_not(command.vm),
        sentence=said.get(command.vm, ""),
    )


def look(now_us: int, views: GuardViews) -> Iterator[Command]:
    """Whose turn it is by now."""
    yield from _next(now_us, views)
