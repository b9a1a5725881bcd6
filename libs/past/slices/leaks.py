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
_OF_A_FILE = re.compile(rb"s\d+-\d+")
"""by which the code tells files of snapshots apart (`web-disk0.s1-3.qcow2`)"""
_ANY = re.compile(r"[a-z]{1,3}|\d+")
"""such short words and numbers are in any sentence: of these it is looked only where names stand"""


def leaks(content: Aslog, old: Mapping[str, str], classes: Mapping[str, type[Message]]) -> list[str]:
    """Old names that stand in it where a name stands, or anywhere in its bytes, whole or as a part of something; sorted. old: new
    names by old ones. One that is a word of ours as well (a VM called `running`) is not looked for beyond where names stand."""
    standing = _leaves(content, classes)
    new = set(old.values())
    looked = {name for name, now in old.items() if name != now and name not in new}
    left = {name for name in looked if (Leaf.NAME, name) in standing}
    ours = {word for kind in classes.values() for word in words(kind)} | {text for leaf, text in standing if leaf is Leaf.WORD}
    distinct = {name.encode() for name in looked - ours - KEPT if not _ANY.fullmatch(name)}
    known = {word.encode() for word in ours}
    found = {token for data in _bytes(content) for token in _tokens(data, known) if token in distinct}
    return sorted(left | {token.decode() for token in found})


def _leaves(content: Aslog, classes: Mapping[str, type[Message]]) -> set[tuple[Leaf, str]]:
    found: set[tuple[Leaf, str]] = set()

    def note(leaf: Leaf, text: str) -> str:
        found.add((leaf, text))
        return text

    for event in content.events:
        mapped(classes.get(event.type), msgspec.msgpack.decode(event.data), note)
    for one in content.commands:
        body = msgspec.msgpack.decode(decode_envelope(one.payload).data)
        mapped(classes.get(body["type"]), body, note)
    return found


def _tokens(data: bytes, ours: set[bytes]) -> Iterator[bytes]:
    """Whole ones, and their parts, unless they are words of ours: a name within a file's or an address's is found, too."""
    for match in _TOKEN.finditer(data):
        token = match[0]
        yield token
        if token in ours:
            continue
        for part in _PART.finditer(token):
            yield part[0]
            if part[0] not in ours and not _OF_A_FILE.fullmatch(part[0]):
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
