"""The parts of the pipeline bench that run in processes of their own: service, relay, consumer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from libs.common import loop
from libs.common.bus import Incoming
from libs.common.bus.credentials import Credentials
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.decider import Decider
from libs.common.host.driver import Runner
from libs.common.host.relaying import RelayRunner
from libs.common.host.service import Service
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Command, Envelope, Event, Fact, Value, decode_delivered, decode_meta, encode
from libs.common.registry import Registry

NOTE = "a sentence that makes the event as long as an average one, about two hundred bytes with its names and numbers"
FETCH_MAX = 500


class Place(Command):
    """sent_s: the generator's monotonic clock, which all processes of a machine share."""

    stock: str
    sent_s: float
    note: str


class See(Fact):
    """The same as an agent would have seen it."""

    stock: str
    sent_s: float
    note: str


class Placed(Event):
    stock: str
    count: int
    sent_s: float
    note: str


class Stock(Value, tag=True):
    count: int = 0


def decide(command: Place | See, stock: Stock) -> Sequence[Placed]:
    return [Placed(stock=command.stock, count=stock.count + 1, sent_s=command.sent_s, note=command.note)]


def evolve(stock: Stock, event: Placed) -> Stock:
    return Stock(count=event.count)


STOCK: Decider[Any, Any, Any] = Decider(
    kind="stock", commands=(Place, See), events=(Placed,), state=Stock, key=lambda c: c.stock, initial=Stock(),
    decide=decide, evolve=evolve,
)  # fmt: skip
SERVICE = Service("bench", deciders=(STOCK,))


def envelope(id: str, command: Command) -> bytes:
    return encode(Envelope(id=id, data=msgspec.Raw(encode(command)), actor="user:bench", at_us=1))


class Consumer:
    """Decodes every event and notes how long ago its command was sent."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.events = 0
        self.position = 0
        self._registry = Registry([Placed])

    def take(self, payloads: Sequence[bytes]) -> None:
        now = time.perf_counter()
        for payload in payloads:
            recorded = decode_delivered(payload).event
            if recorded.position <= self.position:
                continue
            assert recorded.position == self.position + 1, f"{recorded.position} after {self.position}"
            self.position = recorded.position
            self.events += 1
            event: Placed = self._registry.event(recorded)
            decode_meta(recorded.meta)
            self.latencies_s.append(now - event.sent_s)

    async def stat(self, message: Incoming) -> None:
        latencies, self.latencies_s = self.latencies_s, []
        await message.respond(json.dumps({"events": self.events, "latencies_s": latencies}).encode())

    async def run(self, bus: NatsBus) -> None:
        feed = await bus.feed("consumer")
        await bus.serve("query.consumer.stat", self.stat)
        ready()
        while True:
            payloads = await feed.fetch(FETCH_MAX, 5.0)
            if payloads:
                self.take(payloads)
                await feed.ack()


def ready() -> None:
    sys.stdout.write("up\n")
    sys.stdout.flush()


async def part(role: str, url: str, dsn: str, folder: str) -> None:
    """Runs until standard input ends."""
    bus = await NatsBus.connect(url, Credentials.load(Path(folder), role))
    work: asyncio.Task[None] | None = None
    if role == "consumer":
        work = asyncio.create_task(Consumer().run(bus))
    else:
        events = await PostgresLog.open(dsn)
        runner = RelayRunner(events, bus) if role == "relay" else Runner(SERVICE, events, bus, SystemClock())
        await runner.start()
        ready()
    await asyncio.to_thread(sys.stdin.buffer.read)
    if work is not None:
        work.cancel()
    os._exit(0)  # a bench's parts have nothing to finish


if __name__ == "__main__":
    loop.run(part(*sys.argv[1:5]))
