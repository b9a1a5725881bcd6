"""What a replay has found, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from libs.past.difference import Difference
from libs.past.fields import Absent, Field
from libs.past.replaying import Replayed

VALUE_MAX = 200
"""characters of a value on one line"""


def as_json(service: str, replayed: Replayed) -> str:
    found = {
        "service": service, "from": replayed.first, "to": replayed.last, "counts": replayed.counts, "answers": replayed.answers,
        "difference": replayed.difference and {
            **msgspec.structs.asdict(replayed.difference),
            "fields": [_sides(field) for field in replayed.difference.fields],
        },
    }  # fmt: skip
    return json.dumps(msgspec.to_builtins(found), indent=2, ensure_ascii=False)


def lines(service: str, replayed: Replayed) -> Iterator[str]:
    counts, difference = replayed.counts, replayed.difference
    whose, many = service or "all services", counts.decided + counts.eventless
    yield f"{whose}, events {replayed.first} to {replayed.last}: {many} commands decided again"
    left = ((counts.unasked, "of its events came of commands that were not kept (a log from before they were)"),
            (counts.cut, "command goes on behind the last event that was asked for"),
            (counts.late, "answers came out of order"))  # fmt: skip
    yield from (f"  not decided: {count} {what}" for count, what in left if count)
    if not replayed.answers:
        yield "  not decided: commands that wrote no event, which this log does not give"
    if difference is None:
        yield "no difference: today's code decides what was recorded"
    else:
        yield ""
        yield from told(difference)


def told(found: Difference) -> Iterator[str]:
    where = f"event {found.position}" if found.position else "a command that wrote no event"
    yield f"first difference: {where}, {moment(found.at_us)}, on {found.stream} at version {found.version}"
    yield f"command {found.command.type} ({found.id})"
    yield from _fields(found.command.body)
    yield f"state before: {found.before.get('type', '') if isinstance(found.before, dict) else ''}"
    yield from _fields({k: v for k, v in found.before.items() if k != "type"} if isinstance(found.before, dict) else {})
    yield f"recorded: {_answer(found.recorded_reply)}; {', '.join(f'{e.type} v{e.v}' for e in found.recorded) or 'no event'}"
    made = f"raised {found.bug}" if found.bug else _answer(found.produced_reply)
    yield f"produced: {made}; {', '.join(f'{e.type} v{e.v}' for e in found.produced) or 'no event'}"
    yield "what differs (recorded -> produced):"
    yield from (f"  {line}" for line in differing(found.fields))


def differing(fields: Any) -> Iterator[str]:
    for field in fields:
        one: Field = field
        yield f"{one.path}: {value(one.left)} -> {value(one.right)}"


def moment(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def value(given: Any) -> str:
    """On one line, with nothing that a terminal would obey."""
    text = repr(given) if isinstance(given, Absent) else json.dumps(given, ensure_ascii=False, default=str)
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= VALUE_MAX else f"{shown[:VALUE_MAX]}… ({len(shown)} characters)"


def _answer(reply: dict[str, Any]) -> str:
    words = [str(reply.get("status", "")), str(reply.get("reason", "")), str(reply.get("sentence", ""))]
    return " ".join(value(word).strip('"') for word in words if word)


def _fields(body: dict[str, Any]) -> Iterator[str]:
    yield from (f"    {name}: {value(given)}" for name, given in body.items())


def _sides(field: Field) -> dict[str, Any]:
    """A side that has no such field is left out."""
    sides = {"recorded": field.left, "produced": field.right}
    return {"path": field.path, **{name: given for name, given in sides.items() if not isinstance(given, Absent)}}
