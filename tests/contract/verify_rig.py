"""A log of many shapes of batches in a real database, and single bytes of it changed by a superuser, each put back afterwards."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, Self

import asyncpg

from libs.common.log import Group, NewEvent, Unit
from libs.common.log.digest import event_digest
from libs.common.log.postgres import PostgresLog
from libs.verify import Batch
from libs.verify.blame import link
from libs.verify.postgres import BATCHES
from tests.contract.test_eventlog import row as command_row

type Connection = asyncpg.Connection[asyncpg.Record]
HASHES = "select hash from asv.events where position between $1 and $2 order by position"
type Rows = Sequence[asyncpg.Record]

STREAMS = 40
COLUMNS = {
    "events": ("data", "data", "meta", "meta", "type", "stream", "version", "at_us", "hash", "v", "position"),
    "log_batches": ("first", "last", "at_us", "commands", "hash", "number"),
    "commands": ("payload", "outcome", "stream", "position", "at_us", "hash"),
}
FAULTS = {
    ("events", "stream"): 4,  # its content; its version of a stream that never was; the next of its own; no such head
    ("events", "version"): 3,  # its content; behind the version before; the next one behind it
    ("events", "position"): 3,  # it is gone; the next one of its stream; it lies beyond the head
    ("log_batches", "number"): 2,  # it is gone; it lies beyond the head
}
"""of a change in these columns, as each is a true sentence of another thing that it makes wrong; of any other there is one"""
APART = 3
"""batches between two changes: what is said of one is not hidden by the next"""
KEY_BIT = 1 << 20
"""of a position or number: a lower one would make it another row's, which no database lets be"""


class Change(NamedTuple):
    """A value of the log and another one with a byte changed: its table, the row (a condition), the column; and what a verifier has
    to name."""

    table: str
    row: str
    column: str
    old: object
    new: object
    named: str

    @property
    def then(self) -> str:
        return f"{self.column} = {self.new}" if self.row == f"{self.column} = {self.old}" else self.row

    @property
    def faults_max(self) -> int:
        return FAULTS.get((self.table, self.column), 1)

    def __str__(self) -> str:
        return f"{self.table}.{self.column} where {self.row}: {self.old!r} became {self.new!r}"


async def write(log: PostgresLog, chance: random.Random, units: int) -> None:
    """Batches of one unit and of many, with and without events, commands, refusals, marks."""
    versions = dict.fromkeys((f"vm-{n}" for n in range(STREAMS)), 0)
    made = 0
    while made < units:
        group = []
        for _ in range(chance.choice((1, 1, 1, 2, 7, 30))):
            stream = chance.choice(list(versions))
            count = chance.choice((0, 1, 1, 2, 5))
            news = tuple(
                NewEvent(f"thing_{chance.choice('abc')}", 1, chance.randbytes(chance.randrange(1, 300)), chance.randbytes(40))
                for _ in range(count)
            )
            command = command_row(f"c-{made}-{chance.randrange(10**6)}") if count == 0 or chance.random() < 0.7 else None
            group.append(Unit(stream, versions[stream], news, command, mark=made))
            versions[stream] += count
            made += 1
        result = await log.append(Group(tuple(group), "reader"))
        assert result.stopped is None


class Book:
    """All rows of a log, read once: a change is chosen among them."""

    def __init__(self, events: Rows, commands: Rows, batches: Rows) -> None:
        self.events = {row["position"]: row for row in events}
        self.batches = {row["number"]: row for row in batches}
        self.commands: dict[int, list[asyncpg.Record]] = {}
        for row in commands:
            self.commands.setdefault(row["batch"], []).append(row)

    @classmethod
    async def read(cls, owner: Connection) -> Self:
        return cls(*[await owner.fetch(f"table asv.{table}") for table in ("events", "commands", "log_batches")])

    def choose(self, chance: random.Random, count: int) -> list[Change]:
        """Values of rows of events, commands and batches, events most often; all of them batches apart from one another."""
        numbers = chance.sample(range(1, len(self.batches) - APART, 2 * APART), count)
        return [self._choose(chance, n + chance.randrange(APART)) for n in numbers]

    def _choose(self, chance: random.Random, number: int) -> Change:
        batch, commands = self.batches[number], self.commands.get(number, [])
        first, last = batch["first"], batch["last"]
        what = chance.choices(("events", "log_batches", "commands"), (7 * (last >= first), 1.5, 1.5 * bool(commands)))[0]
        if what == "events":
            row, key, named = self.events[chance.randint(first, last)], "position", "position"
        elif what == "log_batches":
            row, key, named = batch, "number", "batch"
        else:
            row, key, named = chance.choice(commands), "id", "command"
        column = chance.choice(COLUMNS[what])
        old = row[column]
        new = old ^ KEY_BIT if column == key else flipped(old, chance)
        return Change(what, f"{key} = {literal(row[key])}", column, old, new, f"{named} {row[key]}")


@asynccontextmanager
async def changed(owner: Connection, changes: Sequence[Change]) -> AsyncIterator[None]:
    """The values are the other ones inside."""
    await owner.execute("".join(_set(c.table, c.column, c.new, c.row) for c in changes))
    try:
        yield
    finally:
        await owner.execute("".join(_set(c.table, c.column, c.old, c.then) for c in changes))


def _set(table: str, column: str, value: object, row: str) -> str:
    return f"update asv.{table} set {column} = {literal(value)} where {row};"  # noqa: S608 our own words


@asynccontextmanager
async def rewritten(owner: Connection, position: int) -> AsyncIterator[None]:
    """An event says something else, and digests, links and head were all made anew after it, as the database's owner can."""
    event = await owner.fetchrow("select * from asv.events where position = $1", position)
    batches = [Batch(*row) for row in await owner.fetch(BATCHES, 0, 2**31)]
    assert event is not None
    data = b"something else"
    digest = event_digest(event["stream"], event["version"], NewEvent(event["type"], event["v"], data, event["meta"]))
    try:
        await _event(owner, position, data, digest)
        hash = b""
        for batch in batches:
            hashes = await owner.fetch(HASHES, batch.first, batch.last)
            orders = await owner.fetchval(
                "select string_agg(hash, '' order by position, id) from asv.commands where batch = $1", batch.number
            )
            hash = link(hash, batch, [row[0] for row in hashes], orders or b"")
            await owner.execute("update asv.log_batches set hash = $1 where number = $2", hash, batch.number)
        await owner.execute("update asv.log_head set hash = $1", hash)
        yield
    finally:
        await _event(owner, position, event["data"], event["hash"])
        await owner.executemany("update asv.log_batches set hash = $1 where number = $2", [(b.hash, b.number) for b in batches])
        await owner.execute("update asv.log_head set hash = $1", batches[-1].hash)


async def _event(owner: Connection, position: int, data: bytes, hash: bytes) -> None:
    await owner.execute("update asv.events set data = $1, hash = $2 where position = $3", data, hash, position)


def literal(value: object) -> str:
    """As SQL."""
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'::bytea"
    return f"'{value}'" if isinstance(value, str) else str(value)


def flipped(value: object, chance: random.Random) -> object:
    """With one byte changed."""
    if isinstance(value, bytes):
        at = chance.randrange(len(value))
        return value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]
    if isinstance(value, str):
        at = chance.randrange(len(value))
        return value[:at] + chance.choice([c for c in "abcxyz019-_" if c != value[at]]) + value[at + 1 :]
    assert isinstance(value, int)
    return value ^ (1 << chance.choice((0, 1, 2, 3, 5, 8, 13)))
