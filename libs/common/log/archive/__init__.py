"""The log's past in files: partitions of events that were moved out of the database, and read on as if they had not been.

    file.py      one archive: its format, how it is written, how it is read and found torn
    shelf.py     all archives of a log, as the database records them (asv.archives)
    reading.py   what a log gives from archives and from the database as one

    BadArchive(LogError)    an archive is missing, torn, changed or another log's; the text names file, positions and remedy
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from libs.common.log import LogError


class BadArchive(LogError):
    """Nothing that depends on the file can be answered until it is put right."""


class Link(NamedTuple):
    """A batch (asv.log_batches): its number, the positions it wrote (first = last + 1: none), the writer's time, how many commands
    (None: of a release that did not chain them), and the chain's value behind it."""

    number: int
    first: int
    last: int
    at_us: int
    commands: int | None
    hash: bytes


class Ordered(NamedTuple):
    """A command (asv.commands). batch 0, hash empty: of a release that did not chain them."""

    batch: int
    position: int
    at_us: int
    id: str
    stream: str
    payload: bytes
    outcome: bytes
    hash: bytes


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds: all events from `first` to `last`, and all batches that end among them.

    log          the chain's value behind the very first batch: which log it is
    first_batch, last_batch, ended       batches; `ended` is the last position of the last one. What lies behind it, up to `last`,
                                         is of a batch that the next archive has, or the database
    before, hash                         the chain's value before and behind them
    before_us, at_us                     the time of the batch before and of the last one
    until_us                             the time of the last event
    carried, pending                     digests, one after the other: of events before `first` that are of the first batch, and of
                                         those behind `ended`
    carried_us                           the time of the former
    made_us                              the clock of who made it
    """

    format: int = 1
    log: bytes
    incarnation: int
    first: int
    last: int
    first_batch: int
    last_batch: int
    ended: int
    before: bytes
    hash: bytes
    before_us: int
    at_us: int
    until_us: int
    carried: bytes
    carried_us: int
    pending: bytes
    commands: int
    made_us: int

    @property
    def span(self) -> str:
        return f"positions {self.first} to {self.last}"
