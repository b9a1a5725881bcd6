"""A kept snapshot: the gateway's views at one position, each as compressed bytes of its own, so that only those that are asked
for are decoded. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

import msgspec

from libs.common.log import Snapshot
from services.gateway import snapshot
from services.gateway.model import ReadModel

NAME = "past"
EVERY = 25_000
"""events between two kept snapshots at first: folding half of that is a tenth of a second"""
KEPT_MAX = 64
"""kept ones. Of a log that is longer only every second, fourth, … is kept"""
LEVEL = 1
"""of zlib: a sixth of the size, for a third of the time that better levels take"""

PARTS = tuple(each.name for each in fields(ReadModel) if each.name != "position")
"""the views, by their names in ReadModel"""

_encode = msgspec.msgpack.Encoder().encode
_parts = msgspec.msgpack.Decoder(dict[str, bytes]).decode


@cache
def _decoders() -> dict[str, msgspec.msgpack.Decoder[Any]]:
    kinds = get_type_hints(ReadModel)
    return {name: msgspec.msgpack.Decoder(kinds[name]) for name in PARTS}


def raw(read: ReadModel) -> dict[str, bytes]:
    """Views as bytes, at this very moment."""
    return {name: _encode(getattr(read, name)) for name in PARTS}


def packed(position: int, parts: Mapping[str, bytes]) -> Snapshot:
    data = _encode({name: zlib.compress(part, LEVEL) for name, part in parts.items()})
    return Snapshot(NAME, position, snapshot.schema(), data)


def parts_of(kept: Snapshot) -> dict[str, bytes]:
    """Still compressed. Raises msgspec.DecodeError."""
    return _parts(kept.data)


def view(name: str, parts: Mapping[str, bytes]) -> Any:
    """The view of that name, an object of its own each time; without parts: as it is before the first event."""
    if name not in parts:
        return _fresh()[name]()
    return _decoders()[name].decode(zlib.decompress(parts[name]))


@cache
def _fresh() -> dict[str, Any]:
    return {each.name: each.default_factory for each in fields(ReadModel) if each.name != "position"}


def spacing(head: int, every: int = EVERY, kept_max: int = KEPT_MAX) -> int:
    """How far apart they lie in a log of that length: `every` times a power of two, so that no more than kept_max are there."""
    found = every
    while head // found > kept_max:
        found *= 2
    return found


def wanted(head: int, every: int = EVERY, kept_max: int = KEPT_MAX) -> list[int]:
    """Positions that are to have one."""
    step = spacing(head, every, kept_max)
    return list(range(step, head + 1, step))
