"""The event log against its yardsticks, on one server: `python -m tests.bench.eventlog [--quick] [--json]`.

append_vs_eventsourcing  commands per second, 256 callers, one event each (stream heads, command rows, digests, 1 % in
                         conflict), by eventsourcing's recorder with single events from 16 threads
append_seq_vs_pgbench    one caller after the other, by the same SQL through `pgbench -M prepared` with one client
replay_vs_copy           a million events into Structs, by `psql -c "COPY … (FORMAT binary)"` of the same rows to nothing
replay_vs_eventsourcing  the same, by eventsourcing's select_notifications and mapper.to_domain_event
replay_rss_mb            the replaying process at its peak
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time

import asyncpg
import uvloop

from libs.common.log import CommandRow, Group, NewEvent, Unit
from libs.common.log.batch import APPEND_FEW
from libs.common.log.migrate import migrate
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Event, Meta, encode, tag_of
from proto.compute import GoneCause, Placement, VmStarted, VmStartRequested, VmStopped
from proto.machine import DiskWish, NicWish, Priority
from tests.bench.common import alternate, options, report
from tests.bench.eventlog_peers import DATABASE, Eventsourcing, pgbench_per_s, psql_copy_per_s
from tests.servers import Postgres

CALLERS = 256
EVENTS = 1_000_000
PEER_EVENTS = 40_000
BOOT_ID = "b0f3e1d2-7c55-4f1e-9f6c-0d8f6f1b2a3c"
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}

META = encode(
    Meta("0190b3c8-7d5e-7000-8000-0123456789ab", "1-123456", "0190b3c8-7d5e", "user:ops", 1_795_000_000_000_000)
)
STARTED = encode(VmStarted(vm="web-1", node="n1", generation=7, boot_id=BOOT_ID, pcpus=(0, 1)))  # type: ignore[arg-type]
EVENT = NewEvent(tag_of(VmStarted), 1, STARTED, META)
PAYLOAD = b"p" * 160
OUTCOME = b"o" * 40
ROWS = "select position, stream, version, type, v, at_us, data, meta from asv.events order by position"

# The call that one sequential append makes, in its own words (batch.APPEND_FEW), with numbers counted up by pgbench. RUN is
# another word in each window: a command id that came before would be answered, not written.
_VALUES = (
    "1", "1795000000000000",
    "array[1]", "array['RUN']", "array[(:n)::int]", "array[true]", "array[(:n)::int + 1]", "array[1]",
    "array['RUN-0190b3c8-7d5e-' || (:n)::text]", f"array['\\x{PAYLOAD.hex()}'::bytea]",
    f"array['\\x{OUTCOME.hex()}'::bytea]",
    "array[1]", "array['RUN']", "array[(:n)::int + 1]", f"array['{EVENT.type}']", "array[1::smallint]",
    f"array['\\x{STARTED.hex()}'::bytea]", f"array['\\x{META.hex()}'::bytea]",
    "array[]::bytea[]",
    "array[]::int[]", "array[]::text[]", "array[]::bigint[]",
    f"'\\x{bytes(range(16)).hex() * 2}'::bytea",
)  # fmt: skip
ONE_APPEND = re.sub(r"\$(\d+)", lambda found: _VALUES[int(found[1]) - 1], APPEND_FEW) + ";\n"


def one(stream: str, version: int, id: str) -> Group:
    return Group((Unit(stream, version, (EVENT,), CommandRow(id, PAYLOAD, OUTCOME)),))


async def append_for(dsn: str, callers: int, seconds: float, run: str) -> float:
    """Committed commands per second, one event each; every 100th of a caller is decided on a wrong version."""
    log = await PostgresLog.open(dsn)
    committed = 0
    end = time.perf_counter() + seconds

    async def caller(name: str) -> None:
        nonlocal committed
        version = tries = 0
        while time.perf_counter() < end:
            tries += 1
            wrong = callers > 1 and tries % 100 == 50
            result = await log.append(one(name, version + 7 * wrong, f"0190b3c8-7d5e-7000-{name}-{tries}"))
            assert (result.stopped is not None) == wrong, result
            version += not wrong
            committed += not wrong

    begin = time.perf_counter()
    await asyncio.gather(*(caller(f"vm-{run}-{n}") for n in range(callers)))
    rate = committed / (time.perf_counter() - begin)
    await log.close()
    return rate


def appended_by_pgbench(server: Postgres, dsn: str, seconds: float, run: str) -> float:
    """Appends per second of pgbench; checks that each of them wrote its event."""
    rate = pgbench_per_s(server, "append", ONE_APPEND.replace("RUN", run), seconds, -1)
    last = uvloop.run(version_of(dsn, run))
    assert last >= rate * seconds * 0.5, f"pgbench made {rate:.0f} calls a second but the stream is at {last}"
    return rate


async def version_of(dsn: str, stream: str) -> int:
    connection = await asyncpg.connect(dsn)
    version = await connection.fetchval("select version from asv.stream_heads where stream = $1", stream)
    await connection.close()
    return version or 0


def variants() -> list[tuple[int, str, bytes]]:
    """A thousand different payloads of three types, as the services write them."""
    found: list[Event] = []
    for n in range(1000):
        vm, node = f"web-{n}", f"n{n % 3 + 1}"
        requested = VmStartRequested(
            vm=vm, node=node, generation=n, memory_mib=256, vcpus=1, priority=Priority.NORMAL,  # type: ignore[arg-type]
            placement=Placement(policy="spread-1"), disks=(DiskWish(image="tiny"),), nics=(NicWish(),),
        )  # fmt: skip
        started = VmStarted(vm=vm, node=node, generation=n, boot_id=BOOT_ID, pcpus=(n % 2, 2))  # type: ignore[arg-type]
        sentence = "the guest shut itself down"
        stopped = VmStopped(vm=vm, node=node, generation=n, cause=GoneCause.GUEST, sentence=sentence)  # type: ignore[arg-type]
        found.append((requested, started, stopped)[n % 3])
    return [(n, tag_of(type(e)), encode(e)) for n, e in enumerate(found)]


async def fill(dsn: str) -> None:
    """A million events straight into the table: only their reading is measured."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("drop index asv.events_stream")
    await connection.execute("create temp table variants (n int primary key, type text, data bytea)")
    await connection.copy_records_to_table("variants", records=variants())
    await connection.execute("analyze variants")
    await connection.execute(
        "insert into asv.events (position, at_us, version, v, stream, type, data, meta, hash)"
        " select p, 1795000000000000 + p * 250, p / 1000 + 1, 1, 'vm-web-' || p % 1000, v.type, v.data, $1, $2"
        f" from generate_series(1, {EVENTS}) p join variants v on v.n = p % 1000 order by p",
        META,
        b"0123456789abcdef",
    )
    await connection.execute(f"update asv.log_head set position = {EVENTS}")
    await connection.execute("vacuum (freeze, analyze) asv.events")
    await connection.close()


async def prepare(server: Postgres) -> None:
    admin = await asyncpg.connect(server.dsn())
    for name in ("append", "replay", DATABASE):
        await admin.execute(f"create database {name}")
    await admin.close()
    for name in ("append", "replay"):
        await migrate(server.dsn(name))


def replay_once(dsn: str) -> tuple[float, float]:
    """Events per second, and the peak memory in MB, of a replay in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.eventlog_replay", dsn], stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    assert found["events"] == EVENTS, found
    return EVENTS / found["seconds"], found["rss_mb"]


def main() -> None:
    wanted = options("the event log against its yardsticks")
    seconds, rounds = (1.2, 3) if wanted.quick else (4.0, 5)
    with Postgres(SETTINGS) as server:
        asyncio.run(prepare(server))
        peer = Eventsourcing(server)
        dsn = server.dsn("append", "asv_service")
        runs = iter(range(1_000_000))
        wanted.say("append: 256 callers, and eventsourcing with 16 threads")
        group, single = alternate(
            rounds,
            lambda: uvloop.run(append_for(dsn, CALLERS, seconds, f"a{next(runs)}")),
            lambda: peer.append_per_s(seconds, STARTED),
        )
        wanted.say(f"  {group:,.0f}/s, {single:,.0f}/s; append: one caller, and pgbench")
        sequential, pgbench = alternate(
            rounds,
            lambda: uvloop.run(append_for(dsn, 1, seconds, f"s{next(runs)}")),
            lambda: appended_by_pgbench(server, dsn, seconds, f"pgbench-{next(runs)}"),
        )
        wanted.say(f"  {sequential:,.0f}/s, {pgbench:,.0f}/s; filling a million events")
        asyncio.run(fill(server.dsn("replay")))
        peer.fill(PEER_EVENTS)
        wanted.say("replay: a million events, psql, and eventsourcing")
        mapped = max(peer.replay_per_s() for _ in range(2))
        memory: list[float] = []

        def replay_per_s() -> float:
            rate, rss_mb = replay_once(server.dsn("replay", "asv_service"))
            memory.append(rss_mb)
            return rate

        replayed, copied = alternate(
            rounds + 2,  # the two that are closest: a quiet moment for each must be among them
            replay_per_s,
            lambda: psql_copy_per_s(server, server.dsn("replay", "asv_service"), ROWS, EVENTS),
        )
        wanted.say(f"  {replayed:,.0f}/s, {copied:,.0f}/s, {mapped:,.0f}/s")
        peer.close()
    report(
        append_vs_eventsourcing=round(group / single, 2),
        append_seq_vs_pgbench=round(sequential / pgbench, 3),
        replay_vs_copy=round(replayed / copied, 3),
        replay_vs_eventsourcing=round(replayed / mapped, 2),
        replay_rss_mb=round(max(memory), 1),
        append_per_s=round(group),
        append_seq_per_s=round(sequential),
        replay_per_s=round(replayed),
    )


if __name__ == "__main__":
    main()
