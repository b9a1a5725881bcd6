"""The digests beside each event and command: what `log verify` makes anew to find a changed byte (libs/verify).

It covers what the writer knew (stream, version, type, v, data, meta); position and time are covered by the chain over batches,
which append_batch computes (infra/sql/020_batch_numbers.sql). A command has one as well (infra/sql/024_append_batch_contract.sql).
"""

from __future__ import annotations

import hashlib

from libs.common.log import CommandRow, NewEvent

_sha256 = hashlib.sha256
DIGEST_BYTES = 16
# A copy of an empty one is made in half the time of a new one: each event that is written pays for it.
_empty = hashlib.blake2b(digest_size=DIGEST_BYTES).copy


def event_digest(stream: str, version: int, event: NewEvent) -> bytes:
    """16 bytes of BLAKE2b over the words, then data and meta, with the length of data between them."""
    data = event.data
    digest = _empty()
    words = stream.encode(), version, event.type.encode(), event.v, len(data), data, event.meta
    digest.update(b"%b\n%d\n%b\n%d\n%d\n%b%b" % words)
    return digest.digest()


def command_digest(stream: str, command: CommandRow) -> bytes:
    """The first 16 bytes of SHA-256 (the server makes it anew to verify, and has no other) over the words, the length of the
    payload, then payload and outcome."""
    payload = command.payload
    words = command.id.encode(), stream.encode(), len(payload), payload, command.outcome
    return _sha256(b"%b\n%b\n%d\n%b%b" % words).digest()[:DIGEST_BYTES]
