"""Is an old name still in it? The bytes of an anonymized log are searched, whatever fields they are in. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from libs.common.messages import Message, decode_envelope
from libs.past.aslog import Aslog
from libs.past.slices.leaves import Leaf, mapped, words
from libs.past.slices.names import KEPT

_TOKEN = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_.:@+/-]*[A-Za-z0-9]|[A-Za-z0-9]")
_PART = re.compile(rb"[A-Za-z0-9-]+")
LENGTH_MIN = 2
"""of a name that is looked for: single letters are everywhere"""


def leaks(content: Aslog, old: Mapping[str, str], classes: Mapping[str, type[Message]]) -> list[str]:
    """Old names that stand in it, whole or as a part of something, sorted. old: new names by old ones. A name that is a word of
    ours as well (a VM called `running`) cannot be told from it, and is not looked for."""
    ours = {word for kind in classes.values() for word in words(kind)} | _said(content, classes) | KEPT
    looked = {name.encode() for name, new in old.items() if name != new and len(name) >= LENGTH_MIN and name not in ours}
    said = set(old.values())
    found = {token for data in _bytes(content) for token in _tokens(data) if token in looked}
    return sorted(name for token in found if (name := token.decode()) not in said)


def _said(content: Aslog, classes: Mapping[str, type[Message]]) -> set[str]:
    """Words that stand where words stand: types of machines, versions of QEMU."""
    found: set[str] = set()

    def note(leaf: Leaf, text: str) -> str:
        if leaf is Leaf.WORD:
            found.add(text)
        return text

    for event in content.events:
        mapped(classes.get(event.type), msgspec.msgpack.decode(event.data), note)
    for one in content.commands:
        body = msgspec.msgpack.decode(decode_envelope(one.payload).data)
        mapped(classes.get(body["type"]), body, note)
    return found


def _tokens(data: bytes) -> Iterator[bytes]:
    """Whole ones, and their parts: a name within a file's or an address's is found, too."""
    for match in _TOKEN.finditer(data):
        token = match[0]
        yield token
        for part in _PART.finditer(token):
            yield part[0]
            yield from part[0].split(b"-")


def _bytes(content: Aslog) -> Iterator[bytes]:
    yield content.header.note.encode()
    for event in content.events:
        yield event.stream.encode()
        yield event.data
        yield event.meta
    for one in content.commands:
        yield one.stream.encode()
        yield one.id.encode()
        yield one.payload
        yield one.outcome
