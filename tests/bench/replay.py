"""The log as an instrument, in figures: `python -m tests.bench.replay [--events N] [--quick] [--json]`.

Each part is a module that gives some keys; what they are is said there:

replay_rebuild   rebuild_s, rebuild_vs_replay, rebuild_mib, rebuild_vs_eventsourcing
replay_past      at_p95_s
replay_redecide  redecide_per_s
replay_verify    verify_per_s, verify_deep_per_s
replay_chain     chain_cost_pct

The first two and the verification look at one log of mixed events that the services' own deciders made (replay_log), in one
Postgres.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

from libs.common.log.migrate import migrate
from tests.bench import replay_chain, replay_past, replay_rebuild, replay_redecide, replay_verify
from tests.bench.common import Options, report
from tests.bench.replay_log import WORLDS, Bench, fill, templates
from tests.servers import Postgres

EVENTS, EVENTS_QUICK = 1_000_000, 200_000
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "rebuild": replay_rebuild.figures,
    "past": replay_past.figures,
    "verify": lambda bench: replay_verify.figures(bench.options, bench.server, bench.server.dsn("postgres", "asv_service")),
    "redecide": lambda bench: replay_redecide.figures(bench.options),
    "chain": lambda bench: replay_chain.figures(bench.options),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=0, help=f"default {EVENTS:,}; with --quick {EVENTS_QUICK:,}")
    parser.add_argument("--quick", action="store_true", help="a shorter log; rebuild_s is then scaled to a million events")
    parser.add_argument("--json", action="store_true", help="print nothing but the result")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="only that one; may be given again")
    asked = parser.parse_args()
    options = Options(asked.quick, asked.json)
    events = asked.events or (EVENTS_QUICK if asked.quick else EVENTS)
    began = time.perf_counter()
    worlds = templates(1 if asked.quick else WORLDS)
    options.say(f"worlds lived through: {time.perf_counter() - began:.1f} s; writing {events:,} events")
    figures: dict[str, Any] = {}
    with Postgres(SETTINGS) as server:
        asyncio.run(migrate(server.dsn()))
        asyncio.run(fill(server.dsn(), worlds, events))
        bench = Bench(server, events, worlds, options)
        options.say(f"written after {time.perf_counter() - began:.1f} s")
        for name in asked.part or PARTS:
            figures |= PARTS[name](bench)
            options.say(f"{name}: after {time.perf_counter() - began:.1f} s")
    report(bench="replay", events=events, took_s=round(time.perf_counter() - began, 1), **figures)


if __name__ == "__main__":
    main()
