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
from msgspec.structs import FieldInfo, fields

from libs.common.messages import Event, Message, Recorded, tag_of

type Upcast = Callable[[dict[str, Any]], dict[str, Any]]
type Downcast = Callable[[dict[str, Any]], dict[str, Any]]


class UnknownType(Exception):
    """No class here has that wire name; `name` is it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown message type {name!r}")
        self.name = name


class TooNew(Exception):
    """An event that this code cannot read and must not pass over: of a later version, or of an unknown type in an own stream."""

    def __init__(self, recorded: Recorded, known: int) -> None:
        """known: up to which version of its type this code reads; 0: none."""
        reads = f"this release reads it up to v{known}" if known else "this release does not know it"
        where = f"{recorded.stream} holds {recorded.type}.v{recorded.v} at position {recorded.position}"
        super().__init__(f"{where}; {reads}")


class Renamed:
    """An upcast in which only a field's name changes, so that many are read at once without a map of each."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        return {self.new if name == self.old else name: value for name, value in body.items()}


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
        self._many: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list[union | None]).decode
        self._current = {t: getattr(c, "VERSION", 1) for t, c in self.classes.items()}
        self._lists: dict[str, Any] = {t: list[c] for t, c in self.classes.items()}  # type: ignore[valid-type]
        self.upcasts = dict(upcasts or {})
        self._older: dict[tuple[str, int], Callable[[bytes], list[Any]] | None] = {}

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
        """The event in a log row, upcast to the newest version. Raises UnknownType; TooNew for a version of later code."""
        decoder = self._decoders.get(recorded.type)
        if decoder is None:
            raise UnknownType(recorded.type)
        current = self._current[recorded.type]
        if recorded.v == current:
            return decoder(recorded.data)
        if recorded.v > current:
            raise TooNew(recorded, current)
        return msgspec.convert(self._upcast(msgspec.msgpack.decode(recorded.data), recorded), self.classes[recorded.type])

    def _upcast(self, body: dict[str, Any], recorded: Recorded) -> dict[str, Any]:
        for v in range(recorded.v, self._current[recorded.type]):
            body = self.upcasts[(recorded.type, v)](body)
        return body

    def events(self, records: Sequence[Recorded]) -> list[Any]:
        """The same for many rows; None where the type is unknown. One pass of the decoder over those of today's versions, and one
        over those of each older one."""
        current = self._current
        data = [recorded.data if current.get(recorded.type) == recorded.v else NIL for recorded in records]
        others = [n for n, one in enumerate(data) if one is NIL] if NIL in data else ()
        try:
            read = self._many(_array(data))
            return self._mixed(records, read, others) if others else read
        except msgspec.ValidationError:
            return [self.event(recorded) if recorded.type in current else None for recorded in records]  # it says which row

    def _mixed(self, records: Sequence[Recorded], read: list[Any], others: Sequence[int]) -> list[Any]:
        """read: what those of today's versions are; others: where the rest belongs, few mostly."""
        old: dict[tuple[str, int], list[int]] = {}
        for n in others:
            recorded = records[n]
            if recorded.type in self._current:
                old.setdefault((recorded.type, recorded.v), []).append(n)
        for places in old.values():
            for n, event in zip(places, self._aged([records[n] for n in places]), strict=True):
                read[n] = event
        return read

    def _aged(self, records: Sequence[Recorded]) -> list[Any]:
        """Rows of one type and one version that is not today's."""
        first = records[0]
        if first.v > (known := self._current[first.type]):
            raise TooNew(first, known)
        key, data = (first.type, first.v), _array([recorded.data for recorded in records])
        if key not in self._older:
            self._older[key] = self._renaming(*key)
        renamed = self._older[key]
        bodies = renamed(data) if renamed is not None else [self._upcast(body, first) for body in _maps(data)]
        read: list[Any] = msgspec.convert(bodies, self._lists[first.type], from_attributes=True)
        return read

    def _renaming(self, type: str, v: int) -> Callable[[bytes], list[Any]] | None:
        """Reads many of that version into Structs whose fields have today's names; None: more differs than names."""
        today = self.classes[type]
        written = {field.name: field.encode_name for field in fields(today)}
        for step in reversed([self.upcasts[(type, n)] for n in range(v, self._current[type])]):
            if not isinstance(step, Renamed):
                return None
            written = {name: step.old if was == step.new else was for name, was in written.items()}
        if len({*written.values()}) < len(written):
            return None  # another field has the old name by now
        defined = [(f.name, f.type, _default(f)) for f in fields(today)]
        older: Any = msgspec.defstruct(today.__name__, defined, rename=written, tag=type, tag_field="type", kw_only=True, gc=False)
        return msgspec.msgpack.Decoder(list[older]).decode

    def knows(self, type: str) -> bool:
        return type in self._decoders


NIL = b"\xc0"
"""msgpack's nothing, in the place of what is not read with the rest"""

_maps: Callable[[bytes], list[dict[str, Any]]] = msgspec.msgpack.Decoder(list[dict[str, Any]]).decode


def _default(field: FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return msgspec.field(default=field.default)


def _array(values: Sequence[bytes]) -> bytes:
    """So many msgpack values as one array."""
    return b"".join((b"\xdd", len(values).to_bytes(4), *values))


def event_version(event: Event) -> int:
    return type(event).VERSION
