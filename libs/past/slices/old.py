"""What names are in a log. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from libs.common.messages import Message, decode_envelope, decode_meta
from libs.past.aslog import Aslog
from libs.past.slices.leaves import Leaf, mapped
from libs.past.slices.names import Names
from libs.past.slices.select import SINGLE


def names_for(content: Aslog, classes: Mapping[str, type[Message]], key: bytes) -> Names:
    """Other names for all that are in it."""
    objects = {key_of(stream) for stream in (*(e.stream for e in content.events), *(c.stream for c in content.commands))}
    return Names(key, old_names(content, classes), objects)


def old_names(content: Aslog, classes: Mapping[str, type[Message]]) -> set[str]:
    """All names in it."""
    found: set[str] = set()

    def note(leaf: Leaf, text: str) -> str:
        if leaf is Leaf.NAME:
            found.add(text)
        return text

    for event in content.events:
        found.add(key_of(event.stream))
        mapped(classes.get(event.type), msgspec.msgpack.decode(event.data), note)
        meta = decode_meta(event.meta)
        found |= {meta.project, meta.owner, *who(meta.actor), *ids_of(meta.command, meta.correlation)}
    for one in content.commands:
        found.add(key_of(one.stream))
        envelope = decode_envelope(one.payload)
        body = msgspec.msgpack.decode(envelope.data)
        mapped(classes.get(body["type"]), body, note)
        ids = ids_of(one.id.rpartition(":")[2], envelope.id, envelope.correlation)
        found |= {envelope.project, envelope.owner, *who(envelope.actor), *ids}
    return found - {""}


def ids_of(*ids: str) -> tuple[str, ...]:
    """Those that others made: a service's own hold nothing but positions."""
    return tuple(id for id in ids if id and ":" not in id)


def who(actor: str) -> tuple[str, ...]:
    kind, _, name = actor.partition(":")
    return () if kind == "service" or not name else (name,)


def key_of(stream: str) -> str:
    return "" if stream in SINGLE else stream.partition("-")[2]
