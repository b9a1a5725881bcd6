"""The contracts can fail: a message that no table has is named by `make check`; a guard that is broken turns its suite red."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from libs.common.messages import Command, Event, Fact, Message
from proto.families import FAMILIES, Family, Stream
from tests.contract.messages import covered
from tests.contract.messages.settings import settings

ROOT = Path(__file__).parents[3]


class MoveMoon(Command):
    """A message that a release brings."""


class MoonMoved(Event):
    pass


class ReportMoon(Fact):
    pass


class OrderMoon(Message):
    pass


@pytest.mark.parametrize(
    ("wishes", "events", "named"),
    [
        ((MoveMoon,), (), "move_moon: no setting in tests/contract/io/wishes.json in which it is accepted"),
        ((MoveMoon,), (), "move_moon: no setting in tests/contract/io/wishes.json in which it is refused"),
        ((), (MoonMoved,), "moon_moved: no setting in tests/contract/io/wishes.json of which it comes"),
        ((ReportMoon,), (), "report_moon: no setting in tests/contract/io/wishes.json in which it is accepted"),
        ((ReportMoon,), (), "report_moon: comes of no order of tests/contract/node/said.py"),
    ],
)
def test_a_message_without_a_contract_is_named(
    monkeypatch: pytest.MonkeyPatch, wishes: tuple[type[Message], ...], events: tuple[type[Message], ...], named: str
) -> None:
    old = FAMILIES["io"]
    monkeypatch.setitem(FAMILIES, "io", Family("io", (*old.streams, Stream("moon", wishes, events))))
    assert [sentence for sentence in covered.check() if sentence.startswith(named)]
    monkeypatch.undo()
    assert covered.check() == []


def test_an_order_and_a_kind_of_telemetry_without_a_contract_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    old = FAMILIES["node"]
    later = Family("node", orders=(*old.orders, OrderMoon), asks=old.asks, answers=old.answers, telemetry=(*old.telemetry, int))
    monkeypatch.setitem(FAMILIES, "node", later)
    assert covered.check() == [
        "order_moon: no order of tests/contract/node/said.py", "int: no telemetry of tests/contract/node/said.py",
    ]  # fmt: skip


def test_a_setting_that_goes_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = settings
    monkeypatch.setattr(covered, "settings", lambda name: tuple(s for s in whole(name) if s.wish != "judge_memory"))
    missed = {sentence.partition(":")[0] for sentence in covered.check()}
    assert missed == {"judge_memory", "ladder_climbed", "ladder_descended", "vm_pause_wanted"}
    monkeypatch.undo()
    one = next(s for s in whole("memory") if s.refused)
    monkeypatch.setattr(covered, "settings", lambda name: (*whole(name), *((one,) if name == "memory" else ())))
    assert covered.check() == [f"tests/contract/memory/wishes.json: {one.name} is there twice"]


BREAKS = {
    "who may say it is not asked": (
        "from libs.common.host import intake; intake.wrong_source = lambda *a: None",
        "test_from_where_it_may_not_come_it_is_invalid",
    ),
    "a ledger that is not there promises": (
        """
from services.memory import model
old = model.LEDGER.decide
def decide(command, state):
    try: return old(command, state)
    except Exception: return ()
object.__setattr__(model.LEDGER, 'decide', decide)
""",
        "test_a_message_is_answered_and_its_events_are_in_the_log[set_areas-NO_LEDGER]",
    ),
    "a version has no upcast": (
        "from proto import upcasts; del upcasts.UPCASTS[('memory_released', 1)]",
        "test_a_message_is_answered_and_its_events_are_in_the_log",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_guard_turns_the_suite_red(what: str) -> None:
    broken, test = BREAKS[what]
    code = f"{broken}\nimport sys, pytest\nsys.exit(pytest.main(['-q', '-k', {test.partition('[')[0]!r}, 'tests/contract/memory']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert test in done.stdout
