"""From wire names to classes and back, with upcasts of older event versions in between.

A registry is built once per process from unions of messages. Decoding an unknown type raises UnknownType: readers of others'
streams skip it, the owner of a stream must stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, get_args

import msgspec

from libs.common.messages import Event, Message, Recorded, tag_of

type Upcast = Callable[[dict[str, Any]], dict[str, Any]]
type Downcast = Callable[[dict[str, Any]], dict[str, Any]]


class UnknownType(Exception):
    """No class here has that wire name; `name` is it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown message type {name!r}")
        self.name = name


class _Peek(msgspec.Struct):
    type: str


_peek = msgspec.msgpack.Decoder(_Peek).decode


def members(union: object) -> tuple[type[Message], ...]:
    """The classes of a union (or the one class)."""
    return get_args(union) or (union,)


class Registry:
    """Decodes messages of the given classes. `upcasts[(type, v)]` turns version v of an event into v + 1."""

    def __init__(
        self, classes: Iterable[type[Message]], upcasts: Mapping[tuple[str, int], Upcast] | None = None
    ) -> None:
        self.classes = {tag_of(c): c for c in classes}
        self._decoders = {t: msgspec.msgpack.Decoder(c).decode for t, c in self.classes.items()}
        union: Any = reduce(or_, self.classes.values()) if self.classes else _Peek
        self._any = msgspec.msgpack.Decoder(union).decode
        self._many: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list[union]).decode
        self._all_first = bool(self.classes) and all(getattr(c, "VERSION", 1) == 1 for c in self.classes.values())
        self.upcasts = dict(upcasts or {})

    def decode(self, data: bytes | msgspec.Raw) -> Any:
        """A message from msgpack. Raises UnknownType, msgspec.ValidationError, msgspec.DecodeError."""
        try:
            return self._any(data)
        except msgspec.ValidationError:
            name = _peek(data).type
            if name not in self.classes:
                raise UnknownType(name) from None
            raise

    def event(self, recorded: Recorded) -> Any:
        """The event in a log row, upcast to the newest version. Raises UnknownType."""
        decoder = self._decoders.get(recorded.type)
        if decoder is None:
            raise UnknownType(recorded.type)
        current = getattr(self.classes[recorded.type], "VERSION", 1)
        if recorded.v == current:
            return decoder(recorded.data)
        body: dict[str, Any] = msgspec.msgpack.decode(recorded.data)
        for v in range(recorded.v, current):
            body = self.upcasts[(recorded.type, v)](body)
        return msgspec.convert(body, self.classes[recorded.type])

    def events(self, records: Sequence[Recorded]) -> list[Any]:
        """The same for many rows; None where the type is unknown. One pass of the decoder unless some are old or unknown."""
        if self._all_first and {recorded.v for recorded in records} == {1}:
            try:
                return self._many(b"".join((_array_head(len(records)), *[recorded.data for recorded in records])))
            except msgspec.ValidationError:
                pass  # an unknown type among them, or a row that `event` will complain about
        return [self.event(recorded) if recorded.type in self._decoders else None for recorded in records]

    def knows(self, type: str) -> bool:
        return type in self._decoders


def _array_head(length: int) -> bytes:
    """The msgpack that goes before so many values to make them one array."""
    return b"\xdd" + length.to_bytes(4)


def event_version(event: Event) -> int:
    return type(event).VERSION
