"""Verdicts on VMs, in words. Pure."""

from __future__ import annotations

from typing import Any

from proto.vitals import Kind, VerdictLifted, VerdictReached

NAMES = {Kind.PANIC: "panicked", Kind.HANG: "hangs", Kind.DIED: "died", Kind.WATCHDOG: "one sign only"}


def of_verdicts(event: Any) -> str:
    match event:
        case VerdictReached():
            then = "it is to be ended and started again" if event.treated else f"nothing is done: {event.why_not}"
            then = "its guard has it started again" if event.treated and event.kind is Kind.DIED else then
            return f"verdict {event.number}, {NAMES[event.kind]}: {event.sentence}; {then}"
        case VerdictLifted():
            return f"verdict {event.number} ({NAMES[event.kind]}) is lifted: {event.sentence}"
        case _:
            return ""
