"""Conditions: what they say, what they cannot do, and the event at which one broke."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.past.breaking import History, checked, halve, scan
from libs.past.condition import BadCondition, Condition, Scene
from libs.past.deciding import Code
from tests.model.test_service_stepper import Desk
from tests.toy import QUIET, Raise, SeeRaised

OWN: dict[str, Any] = {
    "type": "vm_stopped", "stream": "vm-web-1", "position": 12, "version": 3, "at_us": 5,
    "event": {"type": "vm_stopped", "cause": "panic", "disks": [{"size": 7}], "unwished": True, "why": None},
    "before": {"type": "Running", "total": 3}, "after": {"type": "Stopped"},
}  # fmt: skip
STATES: dict[str, tuple[Any, int]] = {"vm-web-1": ({"type": "Running", "node": "n1", "state": "odd"}, 9)}


def holds(text: str) -> bool:
    return Condition(text).holds(Scene(OWN, STATES.get))


@pytest.mark.parametrize(
    "text",
    [
        'type == "vm_stopped"', "type == 'vm_stopped' and position >= 12", 'event.cause in ["panic", "hang"]',
        "event.disks[0].size == 7",
        'vm-web-1.state.kind == "Running"', "vm-web-1.version == 9", 'vm-web-1.node != "n2"', 'vm-web-1.state.state == "odd"',
        "event.unwished == true", "event.unwished", "event.why == none", "event.nothing.at.all == none",
        "vm-gone.state.kind == none",
        "not (before.total > 3)", "before.total > 2 and not before.total > 3 or false", "before.total == 3.0", "-1 < before.total",
        '"stop" in type', 'after.kind == "Stopped"', "(((true)))", "event.disks[4].size == none",
    ],
)  # fmt: skip
def test_what_holds(text: str) -> None:
    assert holds(text) and not holds(f"not ({text})")


NONSENSE = ["event.nothing < 3", "event.nothing > 3", "event.cause < 3", "3 in event.cause", "1 in position", "[]"]


@pytest.mark.parametrize("text", NONSENSE)
def test_what_makes_no_sense_does_not_hold(text: str) -> None:
    assert not holds(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the end"), ("type ==", "the end"), ("type = 3", "`= 3` is not understood"), ("(type", "the end .*`\\)`"),
        ("size > 3", "no word"),
        ("__import__('os')", "no word"), ("type == 3 type", "`type`"), ("event.__class__()", "`\\(`"), ("[1, 2", "the end"),
        ("in 3", "`in`"), ("x" * 501, "501 characters"), ("(" * 40 + "true" + ")" * 40, "deep"),
        ("lambda: 3", "no word|not understood"),
    ],
)  # fmt: skip
def test_what_is_not_understood_says_where(text: str, said: str) -> None:
    with pytest.raises(BadCondition, match=said):
        Condition(text)


@given(st.text(alphabet="ab-.[]()0'\"<=! \nnotinadr", max_size=40))
def test_any_text_is_a_condition_or_is_refused(text: str) -> None:
    try:
        assert holds(text) in (True, False)
    except BadCondition as no:
        assert str(no)


def history(*totals: int) -> tuple[History, dict[str, Code]]:
    """Of counter-a, which goes by these steps; another counter is between."""
    desk = Desk()
    for by in totals:
        desk.fact("f", SeeRaised(node="n1", counter="a", by=by), "n1")  # type: ignore[arg-type]
        desk.say("c", Raise(counter="b"))
    codes = {"counter": Code(QUIET)}
    return History(codes, [event for event in desk.events() if event.stream == "counter-a"]), codes


def test_the_first_event_at_which_it_broke_is_found() -> None:
    found, codes = history(1, 2, 4, -5, 3, -4)
    condition = checked("counter-a.total >= 3", codes)
    broke = scan(condition, found, 1, 100)
    assert broke is not None and broke.by.position == 7, "it did not hold at first, then did: that is no break"
    assert broke.before["counter-a"]["total"] == 7 and broke.after["counter-a"]["total"] == 2
    assert scan(condition, found, 8, 100) is not None
    assert scan(checked("counter-a.total < 100", codes), found, 1, 100) is None


def test_halving_finds_it_by_few_looks_where_it_stays_broken() -> None:
    found, codes = history(*[1] * 60)
    condition = checked("counter-a.total < 38", codes)
    slow, quick = scan(condition, found, 3, 119), halve(condition, found, 3, 119)
    assert slow is not None and quick is not None and slow.by == quick.by
    assert slow.looks > 30 and quick.looks <= 8


def test_where_there_is_nothing_to_halve_it_says_so() -> None:
    found, codes = history(1, 1)
    with pytest.raises(BadCondition, match="does not hold before position 1"):
        halve(checked("counter-a.total > 0", codes), found, 1, 4)
    assert halve(checked("counter-a.total < 9", codes), found, 2, 4) is None


@pytest.mark.parametrize("text", ["event.by == 1", "true", "lorry-a.total == 1"])
def test_conditions_on_states_name_streams_that_there_may_be(text: str) -> None:
    with pytest.raises(BadCondition):
        checked(text, {"counter": Code(QUIET)})
