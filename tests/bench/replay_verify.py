"""How fast a log is verified: `figures(...)` for tests/bench/replay.py, and `python -m tests.bench.replay_verify`.

verify_per_s       events per second of a verifier in a process of its own: chain, gaps, versions, times, commands
verify_read_per_s  and that today's code reads each event (what `asvctl log verify` does); not with --quick
verify_deep_per_s  and folded by all services' code (`--deep`: a process beside it, where there are two cores); only where a log of
                   theirs is given: single events do not fold
verify_rss_mb      that process at its peak, and the one beside it at its own
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import asyncpg
import uvloop

from libs.common import loop
from libs.common.log import NewEvent
from libs.common.log.digest import event_digest
from libs.common.log.link import Access
from libs.common.log.migrate import migrate
from libs.common.log.replay import replay
from libs.verify import Batch
from libs.verify.blame import link
from libs.verify.postgres import PostgresEvidence
from libs.verify.reading import Reading
from libs.verify.verify import Reader, Report, verify
from proto.families import REGISTRY
from services.cli.log_deep import Held, folding
from tests.bench.common import Options, alternate, options, report
from tests.bench.eventlog import META, OUTCOME, PAYLOAD, SETTINGS, variants
from tests.servers import Postgres

DATABASE = "verify"
STREAMS = 1000
BLOCK, BATCH = 10_000, 100
"""events written at a time, and in one batch of the chain; half of them have a command"""
BEGUN_US, STEP_US = 1_795_000_000_000_000, 1000
COLUMNS = ("position", "at_us", "version", "v", "stream", "type", "data", "meta", "hash")
COMMANDS = """
insert into asv.commands (id, stream, position, at_us, payload, outcome, batch, hash)
select r.*, substr(sha256(textsend(id || E'\\n' || stream || E'\\n' || length(payload) || E'\\n') || payload || outcome), 1, 16)
    || int8send(position)
from (
    select '0190b3c8-7d5e-' || position as id, stream, position, at_us, $3::bytea as payload, $4::bytea as outcome,
        (position - 1) / 100 + 1 as batch
    from asv.events where position > $1 and position <= $2 and position % 2 = 1
) r
"""
HASHES = """
select batch, string_agg(hash, '' order by position, id) from asv.commands where batch > $1 and batch <= $2 group by batch
"""

type Told = tuple[str, int, str, int, bytes, bytes]
"""stream, version, type, v, data, meta"""


async def singles(events: int) -> AsyncIterator[Sequence[Told]]:
    """Three types of events in a thousand streams."""
    kinds = variants()
    for start in range(0, events, BLOCK):
        yield [
            (f"vm-web-{n % STREAMS}", n // STREAMS + 1, kinds[n % STREAMS][1], 1, kinds[n % STREAMS][2], META)
            for n in range(start, min(start + BLOCK, events))
        ]


async def copied(dsn: str) -> AsyncIterator[Sequence[Told]]:
    """The events of another log; the last few are left out, so that batches are whole."""
    rest: list[Told] = []
    async for chunk in replay(Access(dsn), 0, None):
        rest += [(r.stream, r.version, r.type, r.v, r.data, r.meta) for r in chunk]
        while len(rest) >= BLOCK:
            yield rest[:BLOCK]
            del rest[:BLOCK]
    yield rest[: len(rest) // BATCH * BATCH]


async def fill(server: Postgres, source: AsyncIterator[Sequence[Told]]) -> int:
    """A chained log of these events, written as fast as it can be: only its reading is measured. Returns how many."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute(f"create database {DATABASE}")
    await admin.close()
    await migrate(server.dsn(DATABASE))
    connection = await asyncpg.connect(server.dsn(DATABASE))
    count, hash = 0, b""
    async for block in source:
        rows = [_row(count + n + 1, told) for n, told in enumerate(block)]
        await connection.copy_records_to_table("events", schema_name="asv", records=rows, columns=COLUMNS)
        await connection.execute(COMMANDS, count, count + len(rows), PAYLOAD, OUTCOME)
        found = await connection.fetch(HASHES, count // BATCH, (count + len(rows)) // BATCH)
        orders = {row[0]: row[1] for row in found}
        batches = []
        for start in range(0, len(rows), BATCH):
            first, number = count + start + 1, (count + start) // BATCH + 1
            batch = Batch(number, first, first + BATCH - 1, _at_us(first), BATCH // 2, b"")
            hash = link(hash, batch, [row[-1] for row in rows[start : start + BATCH]], orders[number])
            batches.append(batch._replace(hash=hash))
        await connection.copy_records_to_table("log_batches", schema_name="asv", records=batches, columns=Batch._fields)
        count += len(rows)
    heads = "insert into asv.stream_heads (stream, version) select stream, max(version) from asv.events group by stream"
    await connection.execute(heads)
    ended = "update asv.log_head set position = $1, batches = $2, hash = $3, at_us = $4"
    await connection.execute(ended, count, count // BATCH, hash, _at_us(count))
    await connection.execute("vacuum (freeze, analyze)")
    await connection.close()
    return count


def _at_us(position: int) -> int:
    return BEGUN_US + (position - 1) // BATCH * STEP_US


def _row(position: int, told: Told) -> tuple[int, int, int, int, str, str, bytes, bytes, bytes]:
    stream, version, type, v, data, meta = told
    digest = event_digest(stream, version, NewEvent(type, v, data, meta))
    return position, _at_us(position), version, v, stream, type, data, meta, digest


@contextmanager
def readers(how: str, events: int) -> Iterator[Sequence[Reader]]:
    """Making the services' decoders is not measured."""
    if how == "deep":
        with folding(Held((), ()), events) as found:
            yield found
    else:
        yield [Reading(REGISTRY)] if how == "read" else []


async def look(dsn: str, how: str) -> Report:
    evidence = await PostgresEvidence.open(dsn)
    with readers(how, (await evidence.ends()).position) as looking:
        found = await verify(evidence, readers=looking)
    await evidence.close()
    return found


def verify_once(dsn: str, how: str) -> tuple[float, float]:
    """Events per second and the peak memory in MB, in a process of its own. Raises AssertionError where the log does not hold."""
    command = [sys.executable, "-m", "tests.bench.replay_verify", "--once", dsn, how]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert not found["faults"], found["faults"][:3]
    return found["events"] / found["seconds"], found["rss_mb"]


def figures(wanted: Options, server: Postgres | None = None, log: str = "") -> dict[str, float]:
    """log: the DSN of a log of all services' events (tests/bench/replay_log.py), of which a chained copy is made."""
    if server is None:
        with Postgres(SETTINGS) as own:
            return figures(wanted, own, log)
    wanted.say("verify: filling a chained log")
    count = uvloop.run(fill(server, copied(log) if log else singles(200_000 if wanted.quick else 1_000_000)))
    memory: list[float] = []

    def rate(how: str) -> float:
        per_s, rss_mb = verify_once(server.dsn(DATABASE, "asv_reader"), how)
        memory.append(rss_mb)
        wanted.say(f"  {count:,} events, {how}: {per_s:,.0f}/s")
        return per_s

    ways = ("chain", "deep") if log and wanted.quick else ("chain", "read", "deep") if log else ("chain", "read")
    best = alternate(1 if wanted.quick else 3, *(partial(rate, how) for how in ways))
    if wanted.quick:
        best[0] = max(best[0], rate("chain"))
    keys = {"chain": "verify_per_s", "read": "verify_read_per_s", "deep": "verify_deep_per_s"}
    found = {keys[how]: float(round(per_s)) for how, per_s in zip(ways, best, strict=True)}
    return found | {"verify_rss_mb": round(max(memory), 1)}


def once(dsn: str, how: str) -> None:
    found = loop.run(look(dsn, how))
    peak_mb = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    faults = [f"{fault.where} {fault.what}" for fault in found.faults]
    print(json.dumps({"events": found.events, "seconds": found.seconds, "rss_mb": peak_mb, "faults": faults}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--once"]:
        once(sys.argv[2], sys.argv[3])
    else:
        report(**figures(options("how fast a log is verified")))
