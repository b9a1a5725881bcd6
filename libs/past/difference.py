"""What today's code decides otherwise than was recorded, told with all that one needs to see why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from libs.common.messages import Command, Recorded, Reply
from libs.past.deciding import Code, Produced, Slot
from libs.past.fields import Field, differing
from libs.past.source import Decided
from libs.past.written import Shown, shown


class Counts(msgspec.Struct):
    """What a run went through. folded: own events; decided: commands decided again that wrote events; eventless: that wrote none.
    Not decided: unasked, own events whose command was not kept; cut, commands some of whose events are beyond the end; late,
    commands without events that the log gave after their stream had moved on."""

    folded: int = 0
    decided: int = 0
    eventless: int = 0
    unasked: int = 0
    cut: int = 0
    late: int = 0


class Difference(msgspec.Struct, frozen=True):
    """The first one. position: of the command's first event, 0 where none was recorded; version: of the stream before it; fields:
    where answers and events differ, `reply.…` and `events[n].…`; bug: what today's code raised."""

    position: int
    at_us: int
    stream: str
    version: int
    id: str
    command: Shown
    before: Any
    recorded: Sequence[Shown]
    produced: Sequence[Shown]
    recorded_reply: dict[str, Any]
    produced_reply: dict[str, Any]
    fields: Sequence[Field]
    bug: str = ""


def difference(
    code: Code, decided: Decided, command: Command, slot: Slot, mine: Sequence[Recorded], produced: Produced
) -> Difference | None:
    """None where what differs are bytes alone."""
    events = [code.event(recorded) for recorded in mine]
    old_reply = code.answer(decided)
    alike = len(events) == len(produced.events) and all(
        code.reader.same(recorded, event, *made) for recorded, event, made in zip(mine, events, produced.events, strict=True)
    )
    if alike and old_reply == produced.reply:
        return None
    recorded_shown = [shown(event, recorded.v) for recorded, event in zip(mine, events, strict=True)]
    produced_shown = [shown(event, v) for event, v, _ in produced.events]
    old, new = _reply(old_reply), _reply(produced.reply)
    fields = [*differing(old, new, "reply"), *([] if alike else differing(_bare(recorded_shown), _bare(produced_shown), "events"))]
    return Difference(
        decided.position, decided.at_us, slot.name, slot.version, decided.id, shown(command, type(command).VERSION),
        msgspec.to_builtins(slot.state), recorded_shown, produced_shown, old, new, fields, produced.bug,
    )  # fmt: skip


def _reply(reply: Reply) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(reply)
    return found


def _bare(events: Sequence[Shown]) -> list[dict[str, Any]]:
    """Without the version it was written as, which says nothing of what was decided."""
    return [{"type": event.type, **event.body} for event in events]
