"""Walking through a log: steps and their states, breakpoints, causes, search, marks; deciding again where one stands."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from libs.common.messages import NodeId
from libs.past.condition import BadCondition
from libs.past.deciding import Code
from libs.past.steps import Steps
from libs.past.walking import Break, Line, Walk, outline
from services.host.replay.debug import debug
from tests.model.test_redecide import changed, code, commands, story
from tests.model.test_service_stepper import Desk
from tests.toy import COUNTER, TOY, Expire, Raise, Raised, SeeRaised


def walked(desk: Desk, first: int = 1, service: Any = TOY, **more: Any) -> Walk:
    steps = Steps([code(service)], first)
    steps.take(desk.events(), {row.position: row for row in commands(desk) if row.position})
    return Walk(steps, **more)


def echoed() -> Desk:
    """Events 1 to 3 raise `a`; each leads to one in `a-echo` and one in `all-echo`."""
    desk = Desk(TOY)
    desk.say("1", Raise(counter="a", by=3))
    return desk.hear()


def test_each_event_stands_between_two_states() -> None:
    walk = walked(echoed())
    between = [(step.recorded.position, step.before.total, step.after.total) for step in walk.steps.all]
    assert between[:3] == [(1, 0, 1), (2, 1, 2), (3, 2, 3)]
    assert walk.by(2) and walk.step.after.total == 3
    assert walk.by(-1) and walk.step.after.total == 2, "a step back"
    assert not walk.by(-1) or not walk.by(-1), "the beginning is an end"
    assert [field.path for field in walk.changed()] == ["total"]


def test_what_was_before_is_folded_and_not_walked() -> None:
    walk = walked(echoed(), first=3)
    assert (walk.step.recorded.position, walk.step.before.total) == (3, 2)
    assert not walk.to(2) and walk.to(4)
    assert walk.steps.state("counter-a", 9) is not None and walk.steps.state("counter-none", 9) is None


def test_causes_and_effects_lead_to_each_other() -> None:
    walk = walked(echoed())
    assert not walk.cause(), "a user's"
    effects = walk.effects()
    assert {step.recorded.stream for step in effects} == {"counter-a-echo", "counter-all-echo"}
    assert walk.effect() and walk.step.cause == 1 and walk.step.number == 0
    assert walk.cause() and walk.step.recorded.position == 1
    walk.by(2)
    assert walk.step.number == 2, "the third event of one command"


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("stream counter-all-echo", 5), ("type raised", 2), ("after.total == 3", 3), ("counter-a.total == 3", 3),
        ("position > 4", 5),
        ("event.counter == 'a-echo' and after.total == 2", 6), ("counter-all-echo.version >= 2", 7),
    ],
)  # fmt: skip
def test_breakpoints_stop(text: str, position: int) -> None:
    walk = walked(echoed())
    walk.breaks.append(Break(text))
    hit = walk.run()
    assert hit is walk.breaks[0] and walk.step.recorded.position == position


def test_a_breakpoint_on_states_stops_where_it_begins_to_hold_and_backwards_too() -> None:
    walk = walked(echoed())
    walk.breaks.append(Break("counter-a.total >= 2"))
    assert walk.run() and walk.step.recorded.position == 2
    assert walk.run() is None, "it holds from there on"
    assert walk.step.recorded.position == 2, "one stays"
    walk.by(4)
    assert walk.run(-1) and walk.step.recorded.position == 2
    with pytest.raises(BadCondition):
        Break("counter a")
    assert walked(echoed()).run() is None, "without any"


def test_search_and_marks() -> None:
    walk = walked(echoed())
    assert walk.find("ALL-echo") and walk.step.recorded.stream == "counter-all-echo"
    assert walk.find("counter-a ", -1) and walk.step.recorded.position == 3
    assert not walk.find("nowhere") and walk.step.recorded.position == 3
    walk.mark()
    walk.by(-2)
    assert walk.marked() and walk.step.recorded.position == 3
    walk.mark()
    assert not walk.marked(-1) and walk.marks == set()


def test_only_one_service_s_events_are_walked_where_that_is_wanted() -> None:
    desk, other = echoed(), replace(TOY, name="other", deciders=(replace(COUNTER, kind="other"),))
    steps = Steps([code(TOY), Code(other)])
    steps.take(desk.events(), {})
    walk = Walk(steps, "toy")
    assert len(walk.shown) == len(desk.events()) and walk.only == "toy"
    with pytest.raises(LookupError, match="other decided nothing there"):
        walk.show("other")
    assert walk.only == "toy"


def test_where_one_stands_it_is_decided_again() -> None:
    desk = story()
    assert all(walk.steps.again(step) is None for walk in [walked(desk)] for step in walk.steps.all)
    policy = changed(lambda c, s: [Raised(counter=c.counter, by=0)] if isinstance(c, Expire) else None)
    walk = walked(desk, service=policy)
    assert walk.find("-95")
    found = walk.steps.again(walk.step)
    assert found is not None and [tuple(field) for field in found.fields] == [("events[0].by", -95, 0)]
    late = walked(desk, first=2)
    with pytest.raises(LookupError, match="before the first event"):
        late.steps.again(late.step)


def test_pdb_stands_at_the_entry_of_the_decision_with_command_and_state() -> None:
    desk = Desk()
    desk.fact("f", SeeRaised(node=NodeId("n1"), counter="a", by=4), "n1")
    walk = walked(desk)
    said = io.StringIO()
    came = debug(*walk.steps.decision(walk.step), stdin=io.StringIO("p command.by\np $state.total\ncontinue\n"), stdout=said)
    assert came == "decided: Raised"
    assert "decide(" in said.getvalue() and "(Pdb) 4" in said.getvalue() and "(Pdb) 0" in said.getvalue()
    assert debug(*walk.steps.decision(walk.step), stdin=io.StringIO("quit\n"), stdout=said) == "left before the end"
    refused = debug(COUNTER.decide, Raise(counter="a", by=101), COUNTER.initial, io.StringIO("c\n"), said)
    assert refused.startswith("refused: TOO_HIGH")


def test_an_outline_marks_what_changed() -> None:
    lines = list(outline({"a": 1, "b": {"c": [1, 2]}, "gone": 0}, {"a": 2, "b": {"c": [1]}, "new": {"x": "y"}}))
    assert lines == [
        Line("a: 2", "~", "1"), Line("b", "~"), Line("  c", "~"), Line("    [0]: 1"), Line("    [1]: 2", "-"),
        Line("new", "+"), Line("  x: y", "+"), Line("gone: 0", "-"),
    ]  # fmt: skip
    assert list(outline({"type": "A"}, {"type": "A"})) == [Line("type: A")]
    assert "\x1b" not in next(iter(outline("\x1b[2J", "\x1b[2J", "name"))).text
