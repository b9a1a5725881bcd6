"""From events and their metadata to the tree of causes: who asked, what was decided because of it, what was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from libs.common.messages import Meta, Recorded
from services.gateway.why.sentences import sentence

AGENT = "node:"


class Known(NamedTuple):
    """An event, decoded (None: of a type not known here)."""

    recorded: Recorded
    meta: Meta
    event: Any


class Step(msgspec.Struct):
    """One event, and those it caused. evidence: what it was decided on, a line each. observed_us: by the clock of whoever asked
    for it or saw it; at_us: by the log's."""

    position: int
    at_us: int
    stream: str
    type: str
    sentence: str
    actor: str
    evidence: list[str] = []
    observed_us: int = 0
    effects: list[Step] = []


class Story(msgspec.Struct):
    """All that came of one request or fault. task: its id, which all its events carry; asked_by: who began it."""

    task: str
    asked_by: str
    at_us: int
    steps: list[Step]


def stories(
    events: Iterable[Known], evidence: Mapping[int, list[str]] | None = None, joined: Mapping[str, str] | None = None
) -> list[Story]:
    """In the order they began. Where the cause of an event is not among them, the event stands at the root of its story. joined:
    tasks that are told in the story of another."""
    found = sorted(events, key=lambda known: known.recorded.position)
    steps: dict[int, Step] = {}
    told: dict[str, Story] = {}
    for known in found:
        recorded, meta = known.recorded, known.meta
        step = Step(
            recorded.position, recorded.at_us, recorded.stream, recorded.type, sentence(recorded.type, known.event),
            meta.actor, list((evidence or {}).get(recorded.position, ())), meta.observed_us,
        )  # fmt: skip
        steps[recorded.position] = step
        cause = steps.get(cause_of(meta))
        if cause is not None:
            cause.effects.append(step)
            continue
        task = (joined or {}).get(meta.correlation, meta.correlation)
        story = told.get(task)
        if story is None:
            story = told[task] = Story(task, meta.actor, recorded.at_us, [])
        story.steps.append(step)
    return list(told.values())


def cause_of(meta: Meta) -> int:
    """The position of the event that led to it; 0 at a root."""
    position = meta.causation.rpartition("-")[2]
    return int(position) if position.isdigit() else 0
