"""The digest beside each event, and the chain over batches: what `log verify` recomputes to find a changed byte.

An event's digest covers what its writer knew (stream, version, type, v, data, meta); position and time are covered by the
chain, which append_batch computes (infra/sql/006_log_batches.sql).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from libs.common.log import NewEvent

_blake = hashlib.blake2b
DIGEST_BYTES = 16


def event_digest(stream: str, version: int, event: NewEvent) -> bytes:
    """16 bytes of BLAKE2b over the words, then data and meta, with the length of data between them."""
    words = f"{stream}\n{version}\n{event.type}\n{event.v}\n{len(event.data)}\n".encode()
    return _blake(b"".join((words, event.data, event.meta)), digest_size=DIGEST_BYTES).digest()


def chain(before: bytes, first: int, last: int, at_us: int, digests: Iterable[bytes]) -> bytes:
    """The chain's value behind a batch of the events first..last."""
    numbers = b"".join(n.to_bytes(8, "big") for n in (first, last, at_us))
    return hashlib.sha256(before + numbers + b"".join(digests)).digest()
