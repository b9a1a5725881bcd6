"""Recorded commands decided again: what is equal, what differs and how it is told, what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from libs.common.decider import Refused
from libs.common.host.core import Host
from libs.common.host.service import Service
from libs.common.messages import NodeId, Recorded, encode
from libs.past.deciding import Code
from libs.past.difference import Difference
from libs.past.redecide import Redecider
from libs.past.source import Decided
from libs.past.written import Unreadable
from tests.model.test_service_stepper import NOW, Desk
from tests.toy import (
    COUNTER,
    DOWNCASTS,
    QUIET,
    TOY,
    UPCASTS,
    Expire,
    Raise,
    Raised,
    Refusal,
    Rename,
    Renamed,
    SeeRaised,
    Total,
)


def story(service: Service = QUIET) -> Desk:
    """All that a log may hold: commands, refusals, facts, ticks, reactions."""
    desk = Desk(service)
    desk.host = Host(service, UPCASTS, DOWNCASTS)
    desk.do(desk.host.ready(1, NOW))
    desk.say("1", Raise(counter="a", by=3))
    desk.say("2", Raise(counter="b", by=95))
    desk.say("3", Raise(counter="b", by=9))
    desk.fact("4", SeeRaised(node=NodeId("n1"), counter="a", by=4), "n1")
    desk.do(desk.host.on_own([Expire(now_us=NOW, counter="b")], NOW, iter(["tick"])))
    desk.say("5", Rename(counter="a", name="ada"))
    if service is TOY:
        desk.hear()
    assert desk.bugs == []
    return desk


def commands(desk: Desk) -> list[Decided]:
    rows = [
        Decided(kept.answer.position, kept.at_us, id, kept.stream, kept.payload, kept.answer.outcome)
        for id, kept in desk.log._commands.items()
    ]
    return sorted(rows, key=lambda row: row.position)


def code(service: Service) -> Code:
    return Code(service, UPCASTS, DOWNCASTS)


def again(desk: Desk, service: Service = QUIET, chunk: int = 1000, **more: Any) -> tuple[Difference | None, Redecider]:
    redecider = Redecider(code(service), **more)
    rows = commands(desk)
    redecider.hear(row for row in rows if row.position)
    found = redecider.hear_eventless(row for row in rows if not row.position)
    events = desk.events()
    for start in range(0, len(events), chunk):
        found = found or redecider.take(events[start : start + chunk])
    return found or redecider.end(), redecider


def changed(decide: Any) -> Service:
    """The toy with another policy: `decide` gives None where it agrees."""

    def mine(command: Any, state: Total) -> Sequence[Any]:
        found: Sequence[Any] | None = decide(command, state)
        return COUNTER.decide(command, state) if found is None else found

    return replace(QUIET, deciders=(replace(COUNTER, decide=mine),))


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
@pytest.mark.parametrize("service", [QUIET, TOY])
def test_today_s_code_decides_what_was_recorded(service: Service, chunk: int) -> None:
    desk = story(service)
    found, redecider = again(desk, chunk=chunk)
    assert found is None
    counts = redecider.counts
    assert (counts.unasked, counts.cut, counts.late) == (0, 0, 0), "every event's command was kept"
    assert counts.folded == len(desk.events()) == redecider.position
    assert counts.decided + counts.eventless == len(desk.log._commands)
    assert counts.eventless >= 1
    states = {name: (slot.state, slot.version) for name, slot in redecider.slots.items() if slot}
    assert states == {name: (slot.state, slot.version) for name, slot in desk.host.slots.items()}


def test_the_first_difference_is_told_with_state_events_and_fields() -> None:
    desk = story()
    policy = changed(lambda c, s: [Raised(counter=c.counter, by=c.by + 1)] if isinstance(c, SeeRaised) else None)
    found, _ = again(desk, policy)
    assert found is not None
    assert (found.stream, found.version, found.position) == ("counter-a", 3, 99)
    assert found.before == {"type": "Total", "total": 3, "name": "", "why": ""}
    assert (found.command.type, found.command.body["by"]) == ("see_raised", 4)
    assert [event.body["by"] for event in (*found.recorded, *found.produced)] == [4, 5]
    assert [tuple(field) for field in found.fields] == [("events[0].by", 4, 5)]


def test_events_that_are_missing_or_too_many_differ() -> None:
    desk = story()
    found, _ = again(desk, changed(lambda c, s: COUNTER.decide(c, s)[:1]))
    assert found is not None and found.position == 1
    assert (len(found.recorded), len(found.produced)) == (3, 1)
    assert {field.path for field in found.fields} == {"reply.version", "events[1]", "events[2]"}
    found, _ = again(desk, changed(lambda c, s: [*COUNTER.decide(c, s), *COUNTER.decide(c, s)]), chunk=1)
    assert found is not None and (len(found.recorded), len(found.produced)) == (3, 6)


def test_a_refusal_that_is_none_any_more_differs_and_the_other_way_round() -> None:
    desk = story()
    found, _ = again(desk, changed(lambda c, s: [] if isinstance(c, Raise) and s.total + c.by > 100 else None))
    assert found is not None and (found.position, found.recorded_reply["status"]) == (0, "refused")
    assert found.stream == "counter-b" and found.version == 95 and found.before["total"] == 95

    def stricter(c: Any, s: Total) -> Any:
        if isinstance(c, Rename):
            raise Refused(Refusal.TOO_HIGH, "no more names")
        return None

    found, _ = again(desk, changed(stricter))
    assert found is not None and found.produced_reply["sentence"] == "no more names" and found.produced == []


def test_another_sentence_of_the_same_refusal_differs() -> None:
    def other(c: Any, s: Total) -> Any:
        if isinstance(c, Raise) and s.total + c.by > 100:
            raise Refused(Refusal.TOO_HIGH, "too high", "raise by less")
        return None

    found, _ = again(story(), changed(other))
    assert found is not None
    assert [tuple(field) for field in found.fields] == [("reply.sentence", "95 + 9 is over 100", "too high")]


def test_a_bug_of_today_is_a_difference() -> None:
    found, _ = again(story(), changed(lambda c, s: 1 // 0 if isinstance(c, Expire) else None))
    assert found is not None and found.bug.startswith("ZeroDivisionError") and found.command.type == "expire"


def test_only_what_is_asked_for_is_decided() -> None:
    desk = story()
    policy = changed(lambda c, s: [] if isinstance(c, Raise) else None)
    found, redecider = again(desk, policy, first=99)
    assert found is not None and found.position == 0, "the refusal"
    rows = [row for row in commands(desk) if row.position]
    redecider = Redecider(code(policy), first=99)
    redecider.hear(rows)
    assert redecider.take(desk.events()) is None
    assert redecider.counts.decided == 3


def test_what_ends_in_the_middle_of_a_command_is_folded_alone() -> None:
    desk = story()
    redecider = Redecider(code(QUIET))
    redecider.hear(row for row in commands(desk) if row.position)
    assert redecider.take(desk.events()[:2]) is None
    assert redecider.position == 0
    assert redecider.end() is None
    assert (redecider.position, redecider.counts.cut, redecider.counts.decided) == (2, 1, 0)


def test_events_whose_command_was_not_kept_are_counted() -> None:
    desk = story()
    redecider = Redecider(code(QUIET))
    redecider.hear(row for row in commands(desk) if row.position and not row.id.startswith("fact:"))
    assert redecider.take(desk.events()) is None
    assert redecider.counts.unasked == 1


def with_event(desk: Desk, at: int, **more: Any) -> list[Recorded]:
    events = list(desk.events())
    old = events[at]
    events[at] = Recorded(*(more.get(name, getattr(old, name)) for name in Recorded.__struct_fields__))
    return events


def taken(events: Iterable[Recorded], rows: Iterable[Decided] = ()) -> Redecider:
    redecider = Redecider(code(QUIET))
    redecider.hear(rows)
    assert redecider.take(list(events)) is None
    return redecider


def test_gaps_and_two_logs_in_one_are_told() -> None:
    desk = story()
    with pytest.raises(ValueError, match="event 3 is missing, 4 comes next"):
        taken(event for event in desk.events() if event.position != 3)
    with pytest.raises(ValueError, match="version 7 of counter-a, and comes after version 2"):
        taken(with_event(desk, 2, version=7))


def test_what_is_of_a_later_release_says_so() -> None:
    desk = story()
    with pytest.raises(Unreadable, match=r"event 2 .*`teleported`, which this release does not know; a release .* is needed"):
        taken(with_event(desk, 1, type="teleported"))
    with pytest.raises(Unreadable, match="`raised` version 2; this release reads it up to version 1"):
        taken(with_event(desk, 1, v=2))
    with pytest.raises(Unreadable, match="`raised` version 1, cannot be read"):
        taken(with_event(desk, 1, data=encode({"type": "raised", "counter": "a", "by": "three"})))
    (row, *_) = commands(desk)[1:]
    odd = msgspec.structs.replace(row, payload=encode({"id": "x", "data": msgspec.Raw(encode({"type": "teleport"}))}))
    with pytest.raises(Unreadable, match="`teleport`, which toy of this release does not know"):
        taken(desk.events(), [odd])


def test_an_older_version_is_compared_as_it_is_read_today() -> None:
    """Written at protocol 1 as version 1; today's writer, finalized at 2 before that, would write version 2."""
    desk = story()
    renamed = next(event for event in desk.events() if event.type == "renamed")
    assert renamed.v == 1
    redecider = Redecider(code(QUIET))
    redecider.code._writer.protocol = 2
    redecider.hear(row for row in commands(desk) if row.position)
    assert redecider.take(desk.events()) is None
    other = changed(lambda c, s: [Renamed(counter=c.counter, name=c.name.upper(), why=c.why)] if isinstance(c, Rename) else None)
    redecider = Redecider(Code(other, UPCASTS, {}))
    redecider.code._writer.protocol = 2
    redecider.hear(row for row in commands(desk) if row.position)
    found = redecider.take(desk.events())
    assert found is not None and [field.path for field in found.fields if field.path != "events[0].why"] == ["events[0].name"]
