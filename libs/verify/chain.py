"""The chain over batches, as a stepper: events, then the batch that ends with them. Pure.

What holds is only looked at; what does not is handed to blame.py, which says what was changed. One fault does not make the rest of
the log faulty: the chain goes on from whichever value the next batch goes on from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from libs.common.log.digest import DIGEST_BYTES
from libs.verify import Batch, Fault, Orders, Start
from libs.verify.blame import Case, blame, link, missing, of_head

_blake = hashlib.blake2b
NO_ORDERS = Orders(0, 0, b"", (), 0, 0, (), "")


class Doubt(NamedTuple):
    """The last batch does not hold: what it stores instead of what was computed, and whether a fault has told of it already."""

    batch: Batch
    told: bool


class Chain:
    """`take` events in order, then `close` the batch that ends with them, in the end `finish`. `faults`: as they were found."""

    def __init__(self, start: Start) -> None:
        self.faults: list[Fault] = []
        self.position = start.position
        """of the last event taken"""
        self.number = start.batch
        self.at_us = start.at_us
        self.hash: bytes | None = start.hash
        """the chain's value behind the last closed batch; None: not to be known, as batches are missing"""
        self.end = start.position - len(start.pending)
        """the last position of the last closed batch"""
        self._doubt: Doubt | None = None
        self._digests: list[bytes] = list(start.pending)
        self._times: list[int] = list(start.times)
        self._wrong: dict[int, bytes] = {}
        """positions whose stored digest is not that of their content, and the latter"""
        self._told = 0

    @property
    def doubtful(self) -> bool:
        """The last batch did not hold, and what follows will tell in which way."""
        return self._doubt is not None

    def take(self, first: int, rows: Sequence[Any], full: bool = False) -> None:
        """Events (Proof, by number) from position `first`, without a gap among them. full: data and meta stand beside the words."""
        if first != self.position + 1:
            count = first - self.position - 1
            self.faults.append(missing("position", self.position + 1, first - 1))
            self._digests += [b""] * count
            self._times += [-1] * count
        # The attributes of a row, and a digest's size by a global name, would cost a third of the whole.
        blake, size = _blake, DIGEST_BYTES
        contents = [b"".join((row[0], row[7], row[8])) for row in rows] if full else [row[0] for row in rows]
        digests = [blake(content, digest_size=size).digest() for content in contents]
        stored = [row[1] for row in rows]
        if digests != stored:
            pairs = enumerate(zip(digests, stored, strict=True), first)
            self._wrong.update((position, digest) for position, (digest, kept) in pairs if digest != kept)
        self._digests += stored
        self._times += [row[4] for row in rows]
        self.position = first + len(rows) - 1

    def close(self, batch: Batch, orders: Orders = NO_ORDERS, next_first: int = 0) -> None:
        """The next batch. All events up to its last one were taken, and up to `next_first`, where the batch behind it begins."""
        count = batch.last - self.end
        if self._holds(batch, orders, count):
            computed = link(self.hash or b"", batch, self._digests[:count], orders.hashes)
            if computed == batch.hash:
                self._pass(batch, batch.last, computed)
                return
        self._blame(batch, orders, next_first)

    def _holds(self, batch: Batch, orders: Orders, count: int) -> bool:
        """All but the hash."""
        return (
            batch.number == self.number + 1 and batch.first == self.end + 1 and 0 <= count <= len(self._digests)
            and batch.at_us >= self.at_us and self._times[:count].count(batch.at_us) == count
            and orders.many == (batch.commands or 0) and not orders.wrong
            and (not orders.many or orders.earliest == orders.latest == batch.at_us)
            and self.hash is not None and self._doubt is None and not self._wrong
        )  # fmt: skip

    def _pass(self, batch: Batch, end: int, value: bytes | None) -> None:
        count = end - self.end
        del self._digests[:count], self._times[:count]
        if self._wrong:
            self._wrong = {position: digest for position, digest in self._wrong.items() if position > end}
        self.number, self.at_us, self.end, self.hash = batch.number, max(batch.at_us, self.at_us), end, value
        self._told = len(self.faults)

    def _blame(self, batch: Batch, orders: Orders, next_first: int) -> None:
        if batch.number != self.number + 1:
            self.faults.append(missing("batch", self.number + 1, batch.number - 1))
            skipped = min(max(batch.first - 1, self.end), self.position)
            self._pass(Batch(batch.number - 1, 0, skipped, self.at_us, None, b""), skipped, None)
            self._doubt = None
        doubted = self._doubt.batch.hash if self._doubt else None
        befores = [value for value in (self.hash, doubted) if value is not None]
        case = Case(batch, self.end + 1, next_first, befores, self._digests, self._times, self._wrong, orders, self.at_us)
        found = blame(case)
        if self._doubt and not self._doubt.told:
            self.faults.append(of_head(self._doubt.batch, found.before == doubted or not found.sure))
        self.faults += found.faults
        told = len(self.faults) > self._told or b"" in self._digests[: found.end - self.end]
        self._doubt = None if found.sure or self.hash is None else Doubt(batch, told)
        # A time that was changed says nothing about the batches behind it.
        proven = batch._replace(at_us=found.at_us)
        self._pass(proven, found.end, batch.hash if found.sure or self.hash is None else found.computed)

    def finish(self, head: bytes) -> None:
        """The log's head says what the chain's value is; the last batch may still be in doubt."""
        doubt, self._doubt = self._doubt, None
        if doubt is not None:
            rows = head == doubt.batch.hash
            if not doubt.told:
                self.faults.append(of_head(doubt.batch, rows))
            self.hash = doubt.batch.hash if rows else self.hash
        if self.hash is not None and head != self.hash:
            said = f"its hash {head.hex()[:16]}… is not the chain's value behind batch {self.number}, {self.hash.hex()[:16]}…"
            self.faults.append(Fault("the head", said))
