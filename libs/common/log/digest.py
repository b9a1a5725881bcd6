"""The digest beside each event: what `log verify` makes anew to find a changed byte (libs/verify).

It covers what the writer knew (stream, version, type, v, data, meta); position and time are covered by the chain over batches,
which append_batch computes (infra/sql/020_batch_numbers.sql), as are the commands.
"""

from __future__ import annotations

import hashlib

from libs.common.log import NewEvent

_blake = hashlib.blake2b
DIGEST_BYTES = 16


def event_digest(stream: str, version: int, event: NewEvent) -> bytes:
    """16 bytes of BLAKE2b over the words, then data and meta, with the length of data between them."""
    words = f"{stream}\n{version}\n{event.type}\n{event.v}\n{len(event.data)}\n".encode()
    return _blake(b"".join((words, event.data, event.meta)), digest_size=DIGEST_BYTES).digest()
