"""From events and their metadata to the tree of causes: who asked, what was decided because of it, what was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from libs.common.messages import Meta, Recorded
from proto.placement import Candidate, Rejected
from services.gateway.why.policies import choice_of, policy_of
from services.gateway.why.sentences import sentence

AGENT = "node:"
"""how actors begin that are agents: they say what they saw, and of which task, but not because of which event"""


LOST = "the event that led to it is gone: the database was restored to a moment before it"
"""of one whose position is another event's now"""


class Known(NamedTuple):
    """An event, decoded (None: of a type not known here)."""

    recorded: Recorded
    meta: Meta
    event: Any


class Step(msgspec.Struct):
    """One event, and those it caused. evidence: what it was decided on, a line each. observed_us: by the clock of whoever asked
    for it or saw it; at_us: by the log's. policy: by which it was decided, with its version (`not recorded`: by one that events do
    not name; empty: it was asked for, ordered or seen). candidates, rejected: of a choice of node, as recorded, best first. cause:
    the position of the event that led to it, 0 where none is recorded; cause_told: that one is in this story. follows: of what an
    agent saw, the step of the same task in the same stream that came before, under which it is told."""

    position: int
    at_us: int
    stream: str
    type: str
    sentence: str
    actor: str
    evidence: list[str] = []
    observed_us: int = 0
    policy: str = ""
    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    cause: int = 0
    cause_told: bool = False
    follows: int = 0
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
    before: dict[tuple[str, str], Step] = {}
    told: dict[str, Story] = {}
    for known in found:
        recorded, meta = known.recorded, known.meta
        step = _step(known, (evidence or {}).get(recorded.position, ()))
        steps[recorded.position] = step
        last, before[thread(known)] = before.get(thread(known)), step
        cause = steps.get(step.cause)
        if cause is not None:
            step.cause_told = True
        elif was_seen(meta) and last is not None:
            cause, step.follows = last, last.position
        if cause is not None:
            cause.effects.append(step)
            continue
        task = (joined or {}).get(meta.correlation, meta.correlation)
        story = told.get(task)
        if story is None:
            story = told[task] = Story(task, meta.actor, recorded.at_us, [])
        story.steps.append(step)
    return list(told.values())


def _step(known: Known, evidence: Sequence[str]) -> Step:
    recorded, meta = known.recorded, known.meta
    candidates, rejected = choice_of(known.event)
    cause, lines = cause_of(meta), list(evidence)
    if cause >= recorded.position:
        cause, lines = 0, [LOST, *lines]
    return Step(
        recorded.position, recorded.at_us, recorded.stream, recorded.type, sentence(recorded.type, known.event), meta.actor,
        lines, meta.observed_us, policy_of(known.event), candidates, rejected, cause,
    )  # fmt: skip


def was_seen(meta: Meta) -> bool:
    """By an agent."""
    return not meta.causation and meta.actor.startswith(AGENT)


def thread(known: Known) -> tuple[str, str]:
    """What is asked and seen of one object in one task: (stream, task)."""
    return known.recorded.stream, known.meta.correlation


def cause_of(meta: Meta) -> int:
    """The position of the event that led to it; 0 at a root."""
    position = meta.causation.rpartition("-")[2]
    return int(position) if position.isdigit() else 0
