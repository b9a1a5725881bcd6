"""The whole pipeline: command -> decided -> committed -> published by the relay -> consumed in another process.

    python -m tests.bench.pipeline [--quick] [--facts] [--json] [--profile SECONDS]

Four processes of ours (generator, service, relay, consumer) on a Postgres and a NATS server of their own, all with identities
and permissions, through the production host, log and bus. --facts: a node's facts go in, not commands. The last line is one JSON
object:

    per_s    events consumed per second with 256 commands in flight, until the last is consumed
    p50_ms   command sent -> its event consumed, open loop, 500 commands per second; p99_ms likewise
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from libs.common.bus import BusTimeout
from libs.common.bus import permissions as allowed
from libs.common.bus.credentials import Credentials, own_key, write_private
from libs.common.bus.identity import ClusterIdentity
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.log.migrate import migrate
from libs.common.messages import Command, NodeId
from tests.bench.load import cpu_total_s, tree_cpu_s
from tests.bench.pipeline_parts import NOTE, Place, See, envelope
from tests.servers import NatsServer, Postgres

IN_FLIGHT = 256
RATE = 500
NODE = NodeId("n1")
STREAMS = 4096
"""commands go round these streams, so that no two in flight meet"""
SETTLE_S_MAX = 20.0
PROFILES = Path(__file__).parents[2] / ".cache"
ROLES = ("relay", "consumer", "service")


class Settings:
    """What the processes are told, in a file only we can read."""

    def __init__(self, folder: Path, nats_url: str, dsn: str) -> None:
        self.folder = folder
        self.nats_url = nats_url
        self.dsn = dsn


def make_identities(folder: Path) -> ClusterIdentity:
    """One identity for each process, as `make up` would make them."""
    now_us = SystemClock().now_us()
    identity = ClusterIdentity.create(folder / "identity", now_us)
    gateway = allowed.gateway()
    grants = {
        "relay": allowed.relay(),
        "service": allowed.host("service", ("bench",)),
        "consumer": allowed.service("consumer"),
        "gateway": msgspec.structs.replace(gateway, publish=(*gateway.publish, f"fact.{NODE}.bench")),
    }
    for name, grant in grants.items():
        public = own_key(folder / f"{name}.seed").public
        jwt = identity.issue_user(name, public, grant, now_us=now_us)
        write_private(folder / f"{name}.jwt", jwt.encode())
    return identity


@contextlib.contextmanager
def processes(settings: Settings) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The three parts; each ends when its standard input does, so also when this process is killed."""
    made: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for role in ROLES:
            args = [sys.executable, "-m", "tests.bench.pipeline_parts", role, settings.nats_url, settings.dsn]
            made[role] = subprocess.Popen([*args, str(settings.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            out = made[role].stdout
            assert out is not None
            if out.readline() != b"up\n":
                raise RuntimeError(f"the {role} did not come up; its words are above")
        yield made
    finally:
        for process in made.values():
            assert process.stdin is not None
            process.stdin.close()
        for process in made.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Generator:
    """Sends commands, or facts, and asks the consumer what it saw."""

    def __init__(self, bus: NatsBus, facts: bool = False) -> None:
        self.bus = bus
        self.facts = facts
        self.sent = 0

    async def one(self) -> float:
        """Seconds until the command was answered."""
        self.sent += 1
        begun = time.perf_counter()
        stock = f"s{self.sent % STREAMS}"
        said: Command
        if self.facts:
            subject, said = f"fact.{NODE}.bench", See(node=NODE, stock=stock, sent_s=begun, note=NOTE)
        else:
            subject, said = f"cmd.bench.stock-{stock}", Place(stock=stock, sent_s=begun, note=NOTE)
        await self.bus.request(subject, envelope(str(self.sent), said), timeout_s=30)
        return time.perf_counter() - begun

    async def seen(self) -> dict[str, Any]:
        """What the consumer saw since it was last asked, and in all."""
        found: dict[str, Any] = json.loads(await self.bus.request("query.consumer.stat", b"", timeout_s=10))
        return found

    async def settle(self) -> list[float]:
        """Waits until all that was sent is consumed; the latencies since last time, seconds."""
        latencies: list[float] = []
        end = time.perf_counter() + SETTLE_S_MAX
        while True:
            stat = await self.seen()
            latencies += stat["latencies_s"]
            if stat["events"] >= self.sent:
                return sorted(latencies)
            if time.perf_counter() > end:
                raise BusTimeout(f"{stat['events']} of {self.sent} events were consumed within {SETTLE_S_MAX} s")
            await asyncio.sleep(0.01)  # a measuring interval, not a synchronization: the loop ends by what was seen

    async def closed(self, seconds: float, in_flight: int = IN_FLIGHT) -> dict[str, float]:
        """Always `in_flight` commands under way."""
        await self.settle()
        before, begun = self.sent, time.perf_counter()
        end = begun + seconds
        took: list[float] = []

        async def worker() -> None:
            while time.perf_counter() < end:
                took.append(await self.one())

        await asyncio.gather(*(worker() for _ in range(in_flight)))
        latencies = await self.settle()
        count, all_s = self.sent - before, time.perf_counter() - begun
        return {
            "per_s": count / all_s,
            "request_p50_ms": at(sorted(took), 0.5) * 1e3,
            "consumed_p50_ms": at(latencies, 0.5) * 1e3,
        }

    async def open(self, seconds: float, rate: float = RATE) -> dict[str, float]:
        """`rate` commands a second, whether answered or not."""
        await self.settle()
        begun, started = time.perf_counter(), 0
        asked: list[asyncio.Task[float]] = []
        while (passed := time.perf_counter() - begun) < seconds:
            while started < passed * rate:
                asked.append(asyncio.create_task(self.one()))
                started += 1
            await asyncio.sleep(0.001)
        took = sorted(await asyncio.gather(*asked))
        latencies = await self.settle()
        return {
            "p50_ms": at(latencies, 0.5) * 1e3,
            "p99_ms": at(latencies, 0.99) * 1e3,
            "request_p50_ms": at(took, 0.5) * 1e3,
        }


def at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


@contextlib.asynccontextmanager
async def running(facts: bool = False) -> AsyncIterator[tuple[Generator, dict[str, int]]]:
    """The generator, and the pids of all processes by role."""
    with tempfile.TemporaryDirectory(prefix="asvbench") as name, Postgres() as postgres:
        folder = Path(name)
        identity = make_identities(folder)
        with NatsServer(identity.server_config()) as nats:
            await migrate(postgres.dsn())
            settings = Settings(folder, nats.url, postgres.dsn(role="asv_service"))
            with processes(settings) as made:
                bus = await NatsBus.connect(nats.url, Credentials.load(folder, "gateway"))
                pids = {role: process.pid for role, process in made.items()}
                yield Generator(bus, facts), pids | {"nats": nats.pid, "postgres": postgres.pid, "generator": os.getpid()}
                await bus.drain()


async def measured(work: Any, pids: dict[str, int]) -> dict[str, float]:
    """The figures, and the cores that each process and strangers used meanwhile."""
    before, total, begun = {r: tree_cpu_s(p) for r, p in pids.items()}, cpu_total_s(), time.perf_counter()
    figures: dict[str, float] = await work
    passed = time.perf_counter() - begun
    cores = {role: (tree_cpu_s(pid) - before[role]) / passed for role, pid in pids.items()}
    # The generator is the parent of all others.
    cores["generator"] -= sum(value for role, value in cores.items() if role != "generator")
    strangers = (cpu_total_s() - total) / passed - sum(cores.values())
    return figures | {f"cores_{role}": value for role, value in cores.items()} | {"cores_strangers": strangers}


async def bench(quick: bool, facts: bool = False) -> dict[str, float]:
    seconds, rounds = (3.0, 3) if quick else (8.0, 4)
    async with running(facts) as (generator, pids):
        await generator.closed(0.5)
        closed = [await measured(generator.closed(seconds), pids) for _ in range(rounds)]
        opened = [await measured(generator.open(seconds), pids) for _ in range(rounds)]
    best, calm = max(closed, key=lambda f: f["per_s"]), min(opened, key=lambda f: f["p50_ms"])
    for figures in (*closed, *opened):
        print(" ".join(f"{key}={value:.2f}" for key, value in figures.items()), file=sys.stderr)
    return {"per_s": round(best["per_s"]), "p50_ms": round(calm["p50_ms"], 2), "p99_ms": round(calm["p99_ms"], 2)}


async def profile(seconds: float) -> None:
    """py-spy on each of our processes under load; input for flame graphs in the folder PROFILES."""
    async with running() as (generator, pids):
        await generator.closed(0.5)
        load = asyncio.create_task(generator.closed(seconds + 2))
        spies = [
            await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("py-spy")), "record", "-p", str(pids[role]), "-d", str(int(seconds)),
                "-r", "250", "-f", "raw", "-o", str(PROFILES / f"pipeline-{role}.txt"), stdout=subprocess.DEVNULL,
            )
            for role in (*ROLES, "generator")
        ]  # fmt: skip
        for spy in spies:
            await spy.wait()
        print(await load)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--quick", action="store_true", help="shorter windows, about 30 s in all")
    arguments.add_argument("--facts", action="store_true", help="what is decided comes as facts of a node")
    arguments.add_argument("--json", action="store_true", help="only the JSON line on standard output")
    arguments.add_argument("--profile", type=float, default=0, metavar="SECONDS", help="py-spy instead of figures")
    chosen = arguments.parse_args()
    import uvloop

    if chosen.profile:
        PROFILES.mkdir(exist_ok=True)
        uvloop.run(profile(chosen.profile))
        return
    result = uvloop.run(bench(chosen.quick, chosen.facts))
    if not chosen.json:
        print(f"{result['per_s']} events/s with {IN_FLIGHT} in flight; at {RATE}/s p50 {result['p50_ms']} ms")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
