"""A checkpoint: where the chain was, signed by the cluster's key and kept outside the database.

Whoever owns the database can write its log anew, chain and all; what was signed before that cannot be had again. A checkpoint is of
the end of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from libs.common.bus.credentials import BadCredentials, Key, signed_by
from libs.verify import Batch, Ends, Evidence, Fault

FORMAT = "asv-checkpoint-1"
BYTES_MAX = 4096


class BadCheckpoint(Exception):
    """A file is no checkpoint, or not as it was signed; the text says what is wrong."""


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """position, batch, at_us: the last ones of the chain; hash: its value there, in hex; taken_us: the clock of who took it."""

    format: str = FORMAT
    position: int
    batch: int
    at_us: int
    incarnation: int
    hash: str
    taken_us: int
    signer: str
    signature: str = ""

    @property
    def words(self) -> bytes:
        """What is signed."""
        return msgspec.json.encode(msgspec.structs.replace(self, signature=""), order="deterministic")


def take(ends: Ends, key: Key, now_us: int) -> Checkpoint:
    """Of the log's end, signed. Raises BadCheckpoint for an empty log."""
    if not ends.batches:
        raise BadCheckpoint("the log is empty: there is nothing to hold it to yet")
    unsigned = Checkpoint(
        position=ends.position, batch=ends.batches, at_us=ends.at_us, incarnation=ends.incarnation, hash=ends.hash.hex(),
        taken_us=now_us, signer=key.public,
    )  # fmt: skip
    return msgspec.structs.replace(unsigned, signature=key.sign(unsigned.words).hex())


def write(checkpoint: Checkpoint) -> bytes:
    return msgspec.json.format(msgspec.json.encode(checkpoint), indent=1) + b"\n"


def read(data: bytes, signer: str = "") -> Checkpoint:
    """signer: the public key that has to have signed it; empty: any. Raises BadCheckpoint."""
    try:
        found = msgspec.json.decode(data[:BYTES_MAX], type=Checkpoint)
        signature = bytes.fromhex(found.signature)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadCheckpoint(f"it is not of `asvctl log checkpoint`, or torn: {error}") from error
    if found.format != FORMAT:
        raise BadCheckpoint(f"it is in the format {found.format}; this release reads {FORMAT}")
    try:
        good = signed_by(found.signer, found.words, signature)
    except BadCredentials as error:
        raise BadCheckpoint(str(error)) from error
    if not good:
        raise BadCheckpoint(f"its signature is not that of {found.signer}: it was changed after it was signed")
    if signer and signer != found.signer:
        raise BadCheckpoint(f"{found.signer} signed it, not {signer}: it is of another cluster, or forged")
    return found


async def compare(evidence: Evidence, ends: Ends, checkpoint: Checkpoint) -> list[Fault]:
    """Whether the log has that very link. (That its rows give this link, the chain proves.)"""
    number = checkpoint.batch
    rows = [batch async for chunk in evidence.batches(number - 1, number, 1) for batch in chunk]
    return list(_differences(rows[0] if rows else None, ends, checkpoint))


def _differences(batch: Batch | None, ends: Ends, was: Checkpoint) -> Iterator[Fault]:
    where = f"checkpoint at {was.position}"
    if ends.incarnation < was.incarnation:
        yield Fault(where, f"is of incarnation {was.incarnation}; the log says that it is at {ends.incarnation}")
    if batch is None:
        end = f"the log ends with batch {ends.batches} at {ends.position}"
        yield Fault(where, f"is of batch {was.batch}, which is not there: {end}. It was restored to before it, or is another log")
        return
    if batch.hash.hex() != was.hash:
        said = f"the chain was at {was.hash[:16]}… behind batch {was.batch}, and is at {batch.hash.hex()[:16]}…"
        yield Fault(where, f"{said}: the log up to there is not the one that was signed")
    elif (batch.last, batch.at_us) != (was.position, was.at_us):
        said = f"batch {was.batch} ended at {was.position} ({was.at_us} µs), and ends at {batch.last} ({batch.at_us} µs)"
        yield Fault(where, said)
