"""Part of tests.bench.replay: how long a past state takes.

at_p95_s   from a position by chance to the VMs and nodes of that moment, decoded and folded; 95 of 100 take no longer. Kept
           snapshots are made beforehand by the process that makes them (keep_s: how long for all; kept_mb: how large they are)
at_near_s  the same for a position near the one before, as a slider asks: in the middle
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from random import Random
from statistics import median
from typing import Any

import asyncpg

from libs.common import loop
from libs.past.postgres import PostgresPast
from services.gateway.past.moment import Moment
from services.gateway.past.pasts import Pasts
from services.gateway.past.store_postgres import PostgresKept
from tests.bench.replay_log import Bench

ASKED, ASKED_QUICK = 60, 20
NEAR = 50
"""positions between one question of a slider and its next"""


async def ask(dsn: str, events: int, asked: int) -> tuple[list[float], list[float]]:
    log, random = await PostgresPast.open(dsn), Random(6)
    pasts = Pasts(log, PostgresKept(dsn))
    far: list[float] = []
    near: list[float] = []
    for _ in range(asked):
        position = random.randrange(1, events - NEAR)
        for times, at in ((far, position), (near, position + NEAR)):
            begin = time.perf_counter()
            model = await pasts.at(Moment(position=at))
            assert len(model.vms.all) + len(model.nodes.all) >= 0
            times.append(time.perf_counter() - begin)
    await log.close()
    return far, near


async def kept_mb(dsn: str) -> float:
    connection = await asyncpg.connect(dsn)
    size = await connection.fetchval("select coalesce(sum(length(data)), 0) from asv.kept_snapshots")
    await connection.close()
    return float(size) / 1e6


def figures(bench: Bench) -> dict[str, Any]:
    dsn = bench.server.dsn("postgres", "asv_gateway")
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "services.gateway.past"], check=True, stderr=subprocess.DEVNULL,
        env=os.environ | {"ASV_POSTGRES_DSN": dsn},
    )  # fmt: skip
    keep_s = time.perf_counter() - begin
    bench.options.say(f"  kept snapshots made in {keep_s:.1f} s")
    reader = bench.server.dsn("postgres", "asv_reader")
    far, near = loop.run(ask(reader, bench.events, ASKED_QUICK if bench.options.quick else ASKED))
    return {
        "at_p95_s": round(sorted(far)[int(len(far) * 0.95)], 3),
        "at_p50_s": round(median(far), 3),
        "at_near_s": round(median(near), 3),
        "keep_s": round(keep_s, 1),
        "kept_mb": round(asyncio.run(kept_mb(bench.server.dsn())), 1),
    }
