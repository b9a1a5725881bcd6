"""Part of tests.bench.replay: every service's state rebuilt from the log, on one core, in a process of its own each time.

rebuild_s                 compute, memory, io and ha: states and views of all that ever happened; by a million events
rebuild_cpu_s             the CPU time of that process, where others are at work on the machine
rebuild_vs_replay         by reading and decoding the same events without folding them, in turn with it
rebuild_mib               the rebuilding process at its peak
rebuild_vs_eventsourcing  events per second, by the PyPI package `eventsourcing`: notifications through its mapper into aggregates
                          of the same streams, whose events keep what they say by type (less than any service makes of them)

`python -m tests.bench.replay_rebuild DSN replay|rebuild` is one such process.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from libs.common import loop
from libs.common.host.core import Host
from libs.common.host.folding import Folding
from libs.common.log.link import Access
from libs.common.log.replay import replay
from proto.upcasts import UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from tests.bench.common import alternate
from tests.bench.replay_log import Bench, records
from tests.servers import Postgres

SERVICES = (COMPUTE, MEMORY, IO, HA)
PEER_EVENTS, PEER_EVENTS_QUICK = 20_000, 6_000
PEER_SAVED = 200
"""events of one transaction: its driver sends them all before it reads an answer, and several thousand would never end"""
PEER = "peer"
NOTIFICATIONS = 5000


async def run(dsn: str, fold: bool) -> tuple[int, float, float]:
    """(Own streams that there are then, seconds, of CPU)."""
    hosts = [Host(service, dict(UPCASTS)) for service in SERVICES]
    folding = Folding(hosts, [1 << 62] * len(hosts), owned=True)
    begin, begin_cpu, count = time.perf_counter(), time.process_time(), 0
    with loop.undisturbed(lasting=True):
        async for chunk in replay(Access(dsn), 0, None):
            if fold:
                folding.fold(chunk)
            else:
                count += len(folding.decoded(chunk))
    for host in hosts:
        host.slots.settle()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    return sum(len(host.slots) for host in hosts) if fold else count, seconds, cpu


class Stream(Aggregate):
    """An aggregate of theirs for a stream of ours."""

    @event("Begun")
    def __init__(self, name: str) -> None:
        self.name = name
        self.said: dict[str, Any] = {}

    @event("Happened")
    def happen(self, type: str, body: dict[str, Any]) -> None:
        self.said[type] = body


class Eventsourcing:
    """Their application over their Postgres recorder, with default settings."""

    def __init__(self, server: Postgres) -> None:
        names = {"HOST": str(server.folder), "PORT": "5432", "USER": "postgres", "PASSWORD": "none", "DBNAME": PEER}
        settings = {f"POSTGRES_{name}": value for name, value in names.items()}
        self.app = Application[Any]({"PERSISTENCE_MODULE": "eventsourcing.postgres", **settings})

    def fill(self, bench: Bench, events: int) -> None:
        """The first events of the log."""
        streams: dict[str, Stream] = {}
        changed: dict[str, Stream] = {}
        for recorded in records(bench.worlds, bench.events):
            if recorded.position > events:
                break
            stream = streams.get(recorded.stream) or streams.setdefault(recorded.stream, Stream(recorded.stream))
            stream.happen(recorded.type, msgspec.msgpack.decode(recorded.data))
            changed[recorded.stream] = stream
            if recorded.position % PEER_SAVED == 0:
                self.app.save(*changed.values())
                changed.clear()
        self.app.save(*changed.values())

    def rebuild_per_s(self) -> float:
        begin, count, start = time.perf_counter(), 0, 1
        made: dict[Any, Any] = {}
        while found := self.app.recorder.select_notifications(start, NOTIFICATIONS):
            for notification in found:
                happened: Any = self.app.mapper.to_domain_event(notification)
                made[notification.originator_id] = happened.mutate(made.get(notification.originator_id))
            count += len(found)
            start = found[-1].id + 1
        assert made
        return count / (time.perf_counter() - begin)


def figures(bench: Bench) -> dict[str, Any]:
    quick = bench.options.quick
    dsn = bench.server.dsn("postgres", "asv_service")
    memory: list[float] = []
    cpu: list[float] = []

    def once(what: str) -> float:
        args = [sys.executable, "-m", "tests.bench.replay_rebuild", dsn, what]
        found = json.loads(subprocess.run(args, stdout=subprocess.PIPE, check=True).stdout)
        if what == "rebuild":
            memory.append(found["mb"])
            cpu.append(found["cpu"])
        rate: float = bench.events / found["s"]
        bench.options.say(f"  {what}: {found['s']:.2f} s ({found['cpu']:.2f} of CPU), {found['mb']:.0f} MiB ({found['count']:,})")
        return rate

    rebuilt, read = alternate(2 if quick else 3, lambda: once("rebuild"), lambda: once("replay"))
    subprocess.run(
        [str(bench.server.bin / "createdb"), "-h", str(bench.server.folder), "-U", "postgres", PEER], check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
    )  # fmt: skip
    peer = Eventsourcing(bench.server)
    peer.fill(bench, PEER_EVENTS_QUICK if quick else PEER_EVENTS)
    theirs = max(peer.rebuild_per_s() for _ in range(2))
    peer.app.close()
    return {
        "rebuild_s": round(1_000_000 / rebuilt, 2),
        "rebuild_cpu_s": round(min(cpu) * 1_000_000 / bench.events, 2),
        "rebuild_vs_replay": round(rebuilt / read, 3),
        "rebuild_mib": round(max(memory)),
        "rebuild_vs_eventsourcing": round(rebuilt / theirs, 1),
        "replay_per_s": round(read),
    }


def main(dsn: str, what: str) -> None:
    gc.freeze()
    count, seconds, cpu = loop.run(run(dsn, what == "rebuild"))
    print(json.dumps({"count": count, "s": seconds, "cpu": cpu, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
