"""A log in small partitions, what can be read of it, and runs that archive it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from libs.common.log.postgres import PostgresLog
from libs.past.postgres import PostgresPast
from libs.retention.archiver import Archiver, Run
from libs.retention.policy import Policy
from libs.verify.postgres import PostgresEvidence
from libs.verify.verify import Report, verify

type Connection = asyncpg.Connection[asyncpg.Record]

PARTITION = 300
"""events"""
SMALL = 12
"""partitions of that size, the first ones"""
NOW_US = 4_000_000_000_000_000
POLICY = Policy(keep_events=200, commands_days=30.0)
NO_COMMANDS = Policy(keep_events=200, commands_days=0.0)


async def small_partitions(owner: Connection, size: int = PARTITION) -> None:
    """Of a log that is empty: the first ones are small, the last one ends where it did."""
    await owner.execute("drop table asv.events_1")
    bounds = [*range(1, SMALL * size + 2, size), 4_000_001]
    for first, end in pairwise(bounds):
        await owner.execute(f"create table asv.events_{first} partition of asv.events for values from ({first}) to ({end})")
        await owner.execute(f"alter table asv.events_{first} owner to asv_owner")


class Read(NamedTuple):
    """All that a log's readers are given."""

    events: list[Any]
    commands: list[Any]
    unwritten: list[Any]
    streams: dict[str, list[Any]]
    refusals: dict[str, list[Any]]
    single: list[Any]
    times: list[int]
    audit: list[Any]


async def read(service: str, reader: str, archive: Path | None = None) -> Read:
    """By the DSNs of a service and of the reader."""
    log = await PostgresLog.open(service, archive=archive)
    past = await PostgresPast.open(reader, archive=archive)
    evidence = await PostgresEvidence.open(reader, archive=archive)
    try:
        events = [r async for chunk in log.replay() for r in chunk]
        assert events == [r async for chunk in past.replay() for r in chunk]
        names = sorted({r.stream for r in events})
        streams = {name: await _stream(log, name) for name in names}
        assert streams == {name: await past.read_stream(name, 0, 10_000) for name in names}
        await evidence.ends()
        return Read(
            events,
            [c async for chunk in past.commands() for c in chunk],
            sorted([c async for chunk in past.unwritten() for c in chunk], key=lambda c: (c.at_us, c.id)),
            streams,
            {name: await log.eventless(name, 10_000) for name in names},
            [await log.read_all(at, 3) for at in range(0, len(events), 41)],
            [await past.position_at(events[at].at_us + d) for at in range(0, len(events), 97) for d in (-1, 0, 1)],
            sorted([c async for rows in evidence.commands(0) for c in rows]),
        )
    finally:
        await evidence.close()
        await past.close()
        await log.close()


async def _stream(log: PostgresLog, name: str) -> list[Any]:
    """By pages, as who reads a stream does."""
    found: list[Any] = []
    while rows := await log.read_stream(name, found[-1].version if found else 0, 7):
        found += rows
    return found


async def archive(
    dsn: str, folder: Path, policy: Policy = POLICY, step: Callable[[str, str], None] = lambda word, what: None
) -> Run:
    archiver = await Archiver.open(dsn, folder, step)
    try:
        return await archiver.run(policy, (), NOW_US)
    finally:
        await archiver.close()


async def verified(reader: str, archive: Path | None = None) -> Report:
    evidence = await PostgresEvidence.open(reader, archive=archive)
    try:
        return await verify(evidence)
    finally:
        await evidence.close()
