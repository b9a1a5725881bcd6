"""How far causes and effects are looked for, and what is said of the rest: over a log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from libs.common.log import Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Meta, encode
from services.cli.why import tree
from services.gateway.why import around
from services.gateway.why.ask import Subject, Why, why, why_event, why_task
from services.gateway.why.reading import read_at
from services.gateway.why.tree import LOST, Known

type Row = tuple[str, str, str, str]
"""stream, causation, task, actor"""


def log_of(rows: Iterable[Row]) -> MemoryLog:
    log, versions = MemoryLog(lambda: 1_000_000), dict[str, int]()

    async def write() -> None:
        for n, (stream, causation, task, actor) in enumerate(rows, 1):
            meta = encode(Meta(f"c{n}", causation, task, actor, 0))
            unit = Unit(stream, versions.get(stream, 0), (NewEvent("strange_thing", 1, encode({}), meta),))
            await log.append(Group((unit,)))
            versions[stream] = versions.get(stream, 0) + 1

    asyncio.run(write())
    return log


def service(stream: str, cause: int = 0, task: str = "t") -> Row:
    return stream, f"1-{cause}" if cause else "", task, "service:x"


def quiet(count: int) -> list[Row]:
    return [service("noise", task="other")] * count


def everything(known: Known) -> Known | None:
    return known


def told(log: MemoryLog, position: int, shown: around.Shown = everything) -> Why:
    async def ask() -> Why:
        (one,) = await read_at(log, [position])
        return await why_event(log, Subject(f"event/{position}"), one, shown)

    return asyncio.run(ask())


def positions(found: Why) -> list[int]:
    steps, seen = [step for story in found.stories for step in story.steps], []
    while steps:
        step = steps.pop(0)
        seen.append(step.position)
        steps += step.effects
    return sorted(seen)


def test_both_ways_and_nothing_beside() -> None:
    log = log_of([service("a"), service("b", 1), service("c", 1), service("b", 2), service("d", 4), *quiet(3)])
    assert positions(told(log, 4)) == [1, 2, 4, 5], "3 came of the same cause, and is none of it"
    assert told(log, 4).unread == 0


def test_what_an_agent_saw_follows_the_step_of_its_task_before_it() -> None:
    seen = ("a", "", "t", "node:n1")
    log = log_of([service("a"), service("a", 1), service("a", task="u"), seen, service("b", 4)])
    assert positions(told(log, 5)) == [1, 2, 4, 5], "3 lies between, in another task"
    assert positions(told(log, 2)) == [1, 2, 4, 5]
    assert positions(told(log, 3)) == [3]
    by_person = ("a", "", "t", "user:ann")
    assert positions(told(log_of([service("a"), by_person]), 1)) == [1], "somebody's wish follows from nothing"


def test_a_cause_does_not_come_after_its_effect() -> None:
    """The database was restored: the event that this was, is lost, and another has its position."""
    log = log_of([service("a", 3), service("b"), service("c")])
    found = told(log, 1)
    assert positions(found) == [1]
    ((step,),) = [story.steps for story in found.stories]
    assert step.cause == 0 and step.evidence == [LOST]


def test_where_it_is_quiet_no_more_effects_are_looked_for_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "QUIET", 20)
    monkeypatch.setattr(around, "READ_AT_ONCE", 7)
    rows = [service("a"), *quiet(15), service("b", 1), *quiet(15), service("c", 17), *quiet(40), service("d", 33), *quiet(30)]
    found = told(log_of(rows), 1)
    assert positions(found) == [1, 17, 33], "each found one is looked behind again"
    assert 33 + 20 <= found.unread < 33 + 20 + 7
    both = [*rows, service("a", task="v"), service("e", len(rows) + 1, "v")]
    whole = asyncio.run(why(log_of(both), Subject("a", ["a"]), everything, effects=True))
    assert positions(whole) == [1, 17, 33, len(rows) + 1, len(rows) + 2] and whole.unread == 0
    own = asyncio.run(why(log_of(both), Subject("a", ["a"]), everything))
    assert positions(own) == [1, len(rows) + 1]


def test_no_more_is_read_than_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "READ_MAX", 50)
    monkeypatch.setattr(around, "READ_AT_ONCE", 10)
    log = log_of([service("a"), *(service("a", n) for n in range(1, 100))])
    found = told(log, 1)
    assert positions(found) == list(range(1, 52)) and found.unread == 51


def test_a_task_is_all_that_carries_it() -> None:
    log = log_of([service("a"), service("b", 1), service("c", task="u"), service("d", 3, "t"), service("e", 4, "u")])
    found = asyncio.run(why_task(log, Subject("task/t"), "t", 0, everything))
    assert positions(found) == [1, 2, 3, 4], "3 led to one of it"


def test_what_may_not_be_seen_leaves_a_gap_that_is_said() -> None:
    log = log_of([service("a"), service("secret", 1), service("b", 2)])
    found = told(log, 3, lambda known: None if known.recorded.stream == "secret" else known)
    ((step,),) = [story.steps for story in found.stories]
    assert (step.position, step.cause, step.cause_told) == (3, 2, False)
    (line, below) = tree([{
        "position": 3, "at_us": 2_500_000, "stream": "b", "sentence": "strange thing", "actor": "service:x", "cause": 2,
        "policy": "not recorded",
    }], 1_000_000, asked=3)  # fmt: skip
    assert line == "└─ »3  +1.50 s  b: strange thing  (policy not recorded)"
    assert below.strip() == "because of event 2, which is not shown here"
