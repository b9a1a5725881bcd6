"""What a service's streams are like, in digests: the answer to `query.<service>.digests`, for whoever folds the log to compare.

Each stream stands for itself, with its version: a service goes on deciding while it is asked page by page, and each page is still
right, as of one stream and version there is only one state (docs/decisions/0037-integrity.md). Views are not in it: they are
of one position, and are compared as snapshots have them (libs/verify/states.py).
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from libs.common.host.core import Host

PAGE_MAX = 4000
"""streams in one answer: a few milliseconds of work, and less than a message may be long"""
DIGEST_BYTES = 16

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Page(msgspec.Struct, frozen=True):
    """Streams by name behind this one."""

    after: str = ""


class StreamDigest(msgspec.Struct, frozen=True, array_like=True):
    stream: str
    version: int
    digest: bytes


class Digests(msgspec.Struct, frozen=True):
    """position: up to which the service has heard the log; more: there are further pages."""

    position: int
    incarnation: int
    streams: list[StreamDigest]
    more: bool


def digest(state: Any) -> bytes:
    """Of a stream's state: equal states give equal ones, in any process."""
    return hashlib.blake2b(_encode(state), digest_size=DIGEST_BYTES).digest()


def of(host: Host, page: Page, count: int = PAGE_MAX) -> Digests:
    """The next `count` streams."""
    names = sorted(name for name, slot in host.slots.items() if slot.version and name > page.after)
    here = [StreamDigest(name, host.slots[name].version, digest(host.slots[name].state)) for name in names[:count]]
    return Digests(host.reactions.taken, host.incarnation, here, len(names) > count)


def answer(host: Host, question: bytes) -> Digests:
    """question: msgpack of a Page, or nothing. Raises KeyError for something else."""
    try:
        return of(host, msgspec.msgpack.decode(question, type=Page) if question else Page())
    except msgspec.DecodeError as error:
        raise KeyError(f"digests: {error}") from error
