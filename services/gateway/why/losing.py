"""What events say of VMs whose node is lost, and of what their guard did about it. Pure."""

from __future__ import annotations

from typing import Any

from proto import guard as g
from proto.compute import (
    GoneCause,
    VmGuarded,
    VmGuardRequested,
    VmLeftStopped,
    VmRestartDenied,
    VmStartRequested,
    VmStopped,
)
from proto.placement import Filter
from proto.reserve import ReserveSet

_RELAXED = {
    Filter.APART: "beside a VM that it is to be apart from, as nothing else fits",
    Filter.HEALTH: "on a node that does badly, as nothing else fits",
}
_CAUSES = {
    g.Cause.NODE_LOST: "its node is lost, or its lease was over",
    g.Cause.DIED: "its process ended by itself",
    g.Cause.PANIC: "its guest gave up",
    g.Cause.HANG: "its guest hung",
}
UNGUARDED = "; with a disk that one node alone reaches its node's lease guards it no more, and it is started again only there"


def of_losing(event: Any) -> str:
    match event:
        case VmStopped(cause=GoneCause.NODE_LOST):
            return f"generation {event.generation} runs on {event.node} no more, as is proven: {event.sentence}"
        case VmGuardRequested():
            return f"{event.node}'s watchdog is to guard it from now on: it was started when nothing there was guarded"
        case VmGuarded():
            return f"{event.node}'s watchdog was seen to guard it: it may start elsewhere should that node be lost"
        case VmLeftStopped():
            return "somebody wants it stopped: nothing starts it by itself any more"
        case VmRestartDenied():
            return f"attempt {event.attempt} to start it again came to nothing: {_and(event.sentence, event.remedy)}"
        case _:
            return _of_guard(event)


def _of_guard(event: Any) -> str:
    match event:
        case g.GuardSet(guard=guard):
            after = f", after {', '.join(guard.after)}" if guard.after else ""
            often = f"at most {guard.failures_max} failures in {guard.window_s} s, then {guard.then}"
            return f"its guard: {guard.mode}{after}; {often}; hangs are {'' if guard.hangs else 'not '}treated"
        case g.VmOwed():
            said = f": {event.sentence}" if event.sentence else ""
            return f"it is to run again, since {_CAUSES.get(event.cause, event.cause)}{said}"
        case g.RestartWanted():
            where = f" on {event.node}" if event.node else f" elsewhere than on {event.not_node}" if event.not_node else ""
            kept = ", also in the memory that is kept for that" if event.failover else ""
            said = f"; {event.sentence}" if event.sentence else ""
            return f"its turn had come: attempt {event.attempt} to start it{where}{kept}{said}"
        case g.VmInHand():
            return f"somebody starts it, on {event.node}: its guard waits for what comes of that"
        case g.VmUnplaced():
            return f"it cannot be started by now, and is tried again: {_and(event.sentence, event.remedy)}"
        case g.VmRecovered():
            return f"it runs again, on {event.node} as generation {event.generation}, after {event.after_ms} ms"
        case g.GuardEnded(given_up=True):
            return f"its guard gave it up: {event.sentence}"
        case g.GuardEnded():
            return f"its guard let it go: {event.sentence}"
        case ReserveSet(plan=plan):
            kept = f"{sum(plan.shares.values())} MiB are kept free on {len(plan.shares)} nodes for VMs of lost ones"
            return f"{kept}; {plan.sentence}" if plan.sentence else f"{kept}: {plan.covers} may be lost, whichever they are"
        case _:
            return ""


def _and(sentence: str, remedy: str) -> str:
    return f"{sentence}; {remedy}" if remedy else sentence


def of_start(event: VmStartRequested) -> str:
    """What there is to add of a start: who asked, and what it went without."""
    asked = f" for its guard (attempt {event.attempt})" if event.attempt else ""
    return asked + "".join(f", {_RELAXED.get(filter, filter)}" for filter in event.placement.relaxed)
