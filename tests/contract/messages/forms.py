"""Every way in which a message may be ill-formed, from its class alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from libs.common.messages import Fact, Message, encode, tag_of
from proto.examples import example

STRANGE = "of_another_release"
"""a field that no message has"""
WRONG: tuple[Any, ...] = (7, "Not A Name!", -1, [7], {"a": 7}, True, b"\x00", None)


def body_of(kind: type[Message]) -> dict[str, Any]:
    """A whole message, every field filled, as it goes over the wire."""
    body: dict[str, Any] = msgspec.msgpack.decode(encode(example(kind)))
    return body


def ill_formed(kind: type[Message]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what is wrong, the body): each required field left out, each field of a wrong kind or out of its bounds; and, where it is a
    command, one field too many."""
    whole = body_of(kind)
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        if field.required:
            yield f"no {field.name}", {k: v for k, v in whole.items() if k != field.encode_name}
        for value in WRONG:
            if not _taken(kind, wrong := whole | {field.encode_name: value}):
                yield f"{field.name}: {value!r}", wrong
    if not issubclass(kind, Fact):
        yield STRANGE, whole | {STRANGE: 1}


def _taken(kind: type[Message], body: dict[str, Any]) -> bool:
    try:
        msgspec.msgpack.decode(encode(body), type=kind)
    except msgspec.ValidationError:
        return False
    return True


def never_a_message() -> Iterator[tuple[str, bytes]]:
    """What is no envelope, or one of nothing that a service knows."""
    yield "nothing", b""
    yield "no msgpack", b"\xc1"
    yield "no envelope", encode(7)
    yield "an envelope without an id", encode({"data": {"type": "start_vm"}, "actor": "user:test"})
    yield "a command that is none", encode({"id": "x", "data": 7, "actor": "user:test"})
    yield "a command of a later release", encode({"id": "x", "data": {"type": "teleport_vm"}, "actor": "user:test"})


def known(kinds: tuple[type[Message], ...]) -> dict[str, type[Message]]:
    return {tag_of(kind): kind for kind in kinds}
