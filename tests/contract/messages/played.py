"""Plays a service's table: many cases side by side on one host and one log, each under names of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.log import Duplicate
from libs.common.messages import Fact, Recorded, Reply, Tick, decode_meta
from tests.contract.messages.rig import Alone
from tests.contract.messages.settings import Given, Heard, Setting, group

ALONE = ("cluster-main", "balance-cluster", "ha-main", "reserve-main")
"""streams of which there is one: a case of theirs has a log to itself"""


@dataclass(slots=True)
class Outcome:
    """reply: None for a tick. again: to the same id, and `after` that, to the same id, once another process has folded the log.
    wrote_again: events of this command that the second time has written. kept: the log's own note of how it was answered."""

    reply: Reply | None
    events: list[Recorded]
    again: Reply | None = None
    wrote_again: int = 0
    after: Reply | None = None
    kept: Duplicate | None = None
    types: list[str] = field(default_factory=list)


async def play(alone: Alone, settings: Sequence[Setting]) -> dict[str, Outcome]:
    """By the setting's name."""
    apart = [s.name for s in settings if s.apart or s.incarnation > 1 or any(one.after_s for one in s.heard)]
    own = [s for s in settings if s.name in apart or alone.stream(s.message()) in ALONE]
    out: dict[str, Outcome] = {}
    for setting in own:
        out |= await _play(alone, {setting.name: setting})
    shared = {s.name: renamed(s, f"c{n}") for n, s in enumerate(settings) if s not in own}
    return out | await _play(alone, shared)


async def _play(alone: Alone, cases: dict[str, Setting]) -> dict[str, Outcome]:
    incarnation = max((case.incarnation for case in cases.values()), default=1)
    given = group(tuple(event for case in cases.values() for event in case.given), alone.name)
    await alone.begin(given, incarnation=incarnation)
    out = {name: await _one(alone, name, case) for name, case in cases.items()}
    await alone.serve()
    for name, case in cases.items():
        if not isinstance(case.message(), Tick | Fact):
            out[name].after = await alone.do(case.send, name)
    return out


async def _one(alone: Alone, name: str, case: Setting) -> Outcome:
    await alone.tell(case.heard)
    message = case.message()
    stream, before = alone.stream(message), (await alone.log.head()).position
    reply = await alone.do(case.send, name)
    new = await alone.log.read_all(before)
    mine = [e for e in new if decode_meta(e.meta).command == name or (reply is None and e.stream == stream)]
    outcome = Outcome(reply, mine, types=[event.type for event in mine])
    outcome.again = await alone.do(case.send, name)
    of_it = [e for e in await alone.log.read_all(before) if decode_meta(e.meta).command == name]
    outcome.wrote_again = len(of_it) - len([e for e in mine if decode_meta(e.meta).command == name])
    outcome.kept = await alone.log.command(name)
    return outcome


def renamed(setting: Setting, prefix: str) -> Setting:
    """The same story about VMs, nodes, pools, networks and images of other names."""
    names = {event.stream.partition("-")[2] for event in setting.given} | _named(setting.send)
    for event in setting.given:
        names |= _named(event.body)
    new = {name: f"{prefix}-{name}" for name in names if name}
    given = tuple(
        Given(_stream(event.stream, new), event.type, event.v, _renamed(event.body, new)) for event in setting.given
    )
    heard = tuple(Heard(_subject(one.subject, new), _renamed(one.body, new)) for one in setting.heard)
    return msgspec.structs.replace(setting, send=_renamed(setting.send, new), given=given, heard=heard)


OWN = ("vm", "node", "source", "target", "image", "network", "bridge", "identity", "wave")
"""fields whose values are names that two cases may not share"""
SHARED = ("", "user")
"""names that mean the same everywhere"""


def _named(body: dict[str, Any]) -> set[str]:
    return {body[key] for key in OWN if isinstance(body.get(key), str) and body[key] not in SHARED}


def _stream(stream: str, new: dict[str, str]) -> str:
    kind, _, key = stream.partition("-")
    return f"{kind}-{new.get(key, key)}"


def _subject(subject: str, new: dict[str, str]) -> str:
    return ".".join(new.get(word, word) for word in subject.split("."))


def _renamed(value: Any, new: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {new.get(key, key): item if key == "type" else _renamed(item, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, new) for item in value]
    return new.get(value, value) if isinstance(value, str) else value
