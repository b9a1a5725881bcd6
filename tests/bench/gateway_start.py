"""How long a gateway takes from nothing to views: `python -m tests.bench.gateway_start [--quick] [--json]`.

whole_s     the whole log is folded, as where no snapshot can be read
snapshot_s  from the snapshot that the first start left, and the newest 5,000 events
take_ms     for how long taking a snapshot holds up the gateway's loop; snapshot_mb: how large it is

Each start is a process of its own. 3,000 VMs; a life is defined once, then started and stopped again and again.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import asyncpg

from libs.common import loop
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.log.migrate import migrate
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Event, Meta, NodeId, VmId, encode, tag_of
from proto import compute as c
from proto import memory
from proto.machine import Priority
from services.gateway import snapshot
from services.gateway.follow import Follower
from tests.bench.common import options, report
from tests.contract.gateway_rig import defined
from tests.servers import Postgres

VMS = 3000
TAIL = 5000
NODES = 20
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}


def lives() -> Iterator[tuple[str, int, Event, str]]:
    """Stream, version, event, correlation; without end."""
    versions: dict[str, int] = {}

    def next_of(stream: str, event: Event, story: str) -> tuple[str, int, Event, str]:
        versions[stream] = versions.get(stream, 0) + 1
        return stream, versions[stream], event, story

    for n in range(VMS):
        yield next_of(f"vm-web-{n}", defined(f"web-{n}"), f"define-{n}")
    generation = 0
    while True:
        generation += 1
        for n in range(VMS):
            vm, node, story = VmId(f"web-{n}"), NodeId(f"n{n % NODES}"), f"0190b3c8-{generation}-{n}"
            here: dict[str, Any] = {"vm": vm, "node": node, "generation": generation}
            placement = c.Placement(policy="spread/1")
            kept: dict[str, Any] = {"memory_mib": 256, "reserved_mib": 256, "capacity_mib": 65536}
            for stream, event in (
                (f"vm-{vm}", c.VmStartRequested(**here, memory_mib=256, vcpus=1, priority=Priority.NORMAL, placement=placement)),
                (f"ledger-{node}", memory.MemoryReserved(**here, **kept)),
                (f"vm-{vm}", c.VmStarted(**here, boot_id="b0f3e1d2-7c55-4f1e-9f6c-0d8f6f1b2a3c", pcpus=(0,))),
                (f"vm-{vm}", c.VmStopped(**here, cause=c.GoneCause.GUEST, sentence="the guest shut itself down")),
            ):
                yield next_of(stream, event, story)


def rows(after: int, until: int) -> Iterator[tuple[object, ...]]:
    for position, (stream, version, event, story) in enumerate(lives(), 1):
        if position > until:
            return
        if position > after:
            at_us = 1_795_000_000_000_000 + position * 250
            meta = encode(Meta(story, "", story, "user:ops", at_us, project="default", owner="ops"))
            yield position, at_us, version, 1, stream, tag_of(type(event)), encode(event), meta, b"0123456789abcdef"


async def fill(dsn: str, after: int, until: int) -> None:
    connection = await asyncpg.connect(dsn)
    columns = ["position", "at_us", "version", "v", "stream", "type", "data", "meta", "hash"]
    await connection.copy_records_to_table("events", schema_name="asv", columns=columns, records=rows(after, until))
    await connection.execute("update asv.log_head set position = $1", until)
    await connection.close()


async def start(dsn: str) -> dict[str, float]:
    log = await PostgresLog.open(dsn)
    follower = Follower(log, MemoryBus(Hub()))
    begin = time.perf_counter()
    await follower.open()
    took = time.perf_counter() - begin
    begin = time.perf_counter()
    taken = snapshot.take(follower.model)
    take_ms = 1000 * (time.perf_counter() - begin)
    await follower.close()
    await log.close()
    return {"s": took, "vms": len(follower.model.vms.all), "take_ms": take_ms, "mb": len(taken.data) / 1e6}


def started(dsn: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "tests.bench.gateway_start", dsn], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    assert found["vms"] == VMS, found
    return found


async def prepare(server: Postgres, events: int) -> None:
    await migrate(server.dsn())
    await fill(server.dsn(), 0, events)


def main() -> None:
    wanted = options("a gateway's start over a long log")
    events = 100_000 if wanted.quick else 1_000_000
    with Postgres(SETTINGS) as server:
        wanted.say(f"writing {events:,} events")
        asyncio.run(prepare(server, events))
        dsn = server.dsn("postgres", "asv_gateway")
        first = started(dsn)
        wanted.say(f"the whole log: {first['s']:.2f} s")
        asyncio.run(fill(server.dsn(), events, events + TAIL))
        again = min((started(dsn) for _ in range(3)), key=lambda found: found["s"])
        wanted.say(f"from the snapshot: {again['s']:.2f} s")
    report(
        bench="gateway_start", events=events, whole_s=round(first["s"], 3), snapshot_s=round(again["s"], 3),
        times_faster=round(first["s"] / again["s"], 1), take_ms=round(again["take_ms"], 1), snapshot_mb=round(again["mb"], 2),
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        print(json.dumps(loop.run(start(sys.argv[1]))))
    else:
        main()
