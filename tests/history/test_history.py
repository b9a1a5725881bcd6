"""Every kept log, folded by today's code of every service: the states that were frozen beside it still hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from libs.common.messages import decode_envelope, decode_reply, tag_of
from libs.past.aslog import Aslog, read
from libs.past.slices.sound import sound
from proto.families import FAMILIES, REGISTRY
from services.gateway.model import ReadModel
from services.gateway.why.reading import known
from services.host.replay.codes import codes
from tests.history.make import HERE, states

FILES = sorted(HERE.glob("*.aslog"))
MOVED: dict[str, str] = {}
"""places of a state that say no more what they said (`compute.vm-a.generation`), and why that is right"""


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def history(request: pytest.FixtureRequest) -> tuple[Path, Aslog]:
    return request.param, read(request.param)


def otherwise(then: Any, now: Any, where: str) -> Iterator[str]:
    """Where today's state says something else than the frozen one."""
    if where in MOVED:
        return
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            yield from otherwise(value, now.get(key), f"{where}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for n, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from otherwise(a, b, f"{where}.{n}")
    elif then != now:
        yield f"{where}: was {then!r}, is {now!r}"


def test_it_folds_to_the_states_it_was_folded_to(history: tuple[Path, Aslog]) -> None:
    path, log = history
    then: dict[str, dict[str, Any]] = msgspec.json.decode(path.with_suffix(".states.json").read_bytes())
    now = states(log.events)
    assert set(then) <= set(now) and any(then.values())
    found = [said for name, streams in then.items() for said in otherwise(streams, now[name], name)]
    assert found == []
    extra = [f"{name}.{stream}" for name, streams in now.items() for stream in streams if stream not in then.get(name, {})]
    assert extra == [], "streams that were not there"


def test_the_gateway_shows_it_and_why_has_a_word_for_each_event(history: tuple[Path, Aslog]) -> None:
    _, log = history
    model = ReadModel()
    for event in log.events:
        model.apply(event)
        assert known(event).event is not None, event.type
    assert model.position == log.header.last and log.header.whole


def test_an_anonymized_export_is_among_them_and_can_be_taken_in() -> None:
    """Every check of `asvctl log import` still finds it to be one log that this release reads."""
    exports = [(path, log) for path in FILES if (log := read(path)).header.anonymized]
    assert exports
    for path, log in exports:
        assert log.header.was_last >= log.header.last
        sound(log, codes(), path.name)


def test_its_commands_can_be_read(history: tuple[Path, Aslog]) -> None:
    _, log = history
    assert log.commands
    for command in log.commands:
        REGISTRY.decode(decode_envelope(command.payload).data)
        assert decode_reply(command.outcome).status in {"accepted", "refused"}


def test_the_histories_hold_the_versions_that_were_replaced() -> None:
    """Of each event with more than one version, the older lie in one of the files."""
    there = {(event.type, event.v) for path in FILES for event in read(path).events}
    raised = [e for f in FAMILIES.values() for e in f.events if e.VERSION > 1]
    assert raised and {(tag_of(e), v) for e in raised for v in range(1, e.VERSION)} <= there


def test_a_value_that_is_otherwise_is_named() -> None:
    then = {"vm-a": {"type": "Running", "generation": 3, "disks": [1, 2]}}
    assert list(otherwise(then, {"vm-a": then["vm-a"] | {"later": 1}, "vm-b": {}}, "compute")) == []
    assert list(otherwise(then, {"vm-a": then["vm-a"] | {"generation": 4}}, "compute")) == ["compute.vm-a.generation: was 3, is 4"]
    assert list(otherwise(then, {}, "compute")) == [f"compute.vm-a: was {then['vm-a']!r}, is None"]
