"""Events as they were written beside events as today's code writes them. Pure.

Bytes that are equal are equal. Where they differ, both are read as today's code reads them: an older version is upcast, and what
was produced is first taken back to the version that is in the record, as far as there are downcasts; what that version did not
have, and no downcast takes away, is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from libs.common.messages import Event, Message, Recorded, encode, tag_of
from libs.common.protocol import OURS
from libs.common.registry import Downcast, Registry, UnknownType


class Unreadable(Exception):
    """An event or a command that today's code cannot read: its owner has to stop. The sentence says where it is; remedy: what
    would be right."""

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(f"{sentence}; {remedy}")
        self.sentence, self.remedy = sentence, remedy

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str, str]]:
        """So that another process can be told."""
        return Unreadable, (self.sentence, self.remedy)


class Shown(msgspec.Struct, frozen=True):
    """An event for people: its type, its version, its fields."""

    type: str
    v: int
    body: dict[str, Any]


class Reader:
    """Reads the events that an owner must know."""

    def __init__(self, events: Registry, downcasts: Mapping[tuple[str, int], Downcast]) -> None:
        self._events = events
        self._downcasts = dict(downcasts)
        self._versions = {name: getattr(kind, "VERSION", 1) for name, kind in events.classes.items()}

    def event(self, recorded: Recorded, protocol: int) -> Any:
        """protocol: what the log was finalized at by then. Raises Unreadable."""
        if recorded.v > self._versions.get(recorded.type, recorded.v):
            newest = self._versions[recorded.type]
            said = f"{_where(recorded)} is `{recorded.type}` version {recorded.v}; this release reads it up to version {newest}"
            raise Unreadable(said, release(protocol))
        try:
            return self._events.event(recorded)
        except UnknownType:
            said = f"{_where(recorded)} is `{recorded.type}`, which this release does not know"
            raise Unreadable(said, release(protocol)) from None
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as bad:
            said = f"{_where(recorded)}, `{recorded.type}` version {recorded.v}, cannot be read: {bad!r}"
            raise Unreadable(said, "an upcast is missing (proto/upcasts.py), or the log is damaged (`asvctl log verify`)") from bad

    def same(self, recorded: Recorded, event: Any, produced: Event, v: int, data: bytes) -> bool:
        """Is what was recorded (`event`: as today's code reads it) what was produced, and is written as `data` of version v?"""
        if recorded.type != tag_of(type(produced)):
            return False
        return (recorded.v == v and recorded.data == data) or event == self._as_recorded(recorded, event, produced)

    def _as_recorded(self, recorded: Recorded, event: Any, produced: Event) -> Any:
        newest = self._versions[recorded.type]
        if recorded.v >= newest:
            return produced
        body, v = _body(encode(produced)), newest
        while v > recorded.v and (back := self._downcasts.get((recorded.type, v))) is not None:
            body, v = back(body), v - 1
        if v == recorded.v:
            return self._events.event(Recorded(0, "", 0, recorded.type, v, 0, encode(body), b""))
        there = _body(recorded.data)
        return msgspec.structs.replace(produced, **{f: getattr(event, f) for f in event.__struct_fields__ if f not in there})


def _body(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(data)
    return found


def _where(recorded: Recorded) -> str:
    return f"event {recorded.position} ({recorded.stream}, version {recorded.version})"


def release(protocol: int) -> str:
    """Which release is needed where this one does not do."""
    at = f"; the log was finalized at protocol {protocol}" if protocol > OURS.newest else ""
    return f"a release of aSV is needed that knows it: one later than this (protocol {OURS}){at}"


def shown(event: Message, v: int) -> Shown:
    body = msgspec.to_builtins(event)
    name = body.pop("type")
    return Shown(name, v, body)
