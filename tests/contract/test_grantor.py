"""ha as real processes on real servers: one of two leads; killed, or standing still, it is followed by the other, which waits."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from libs.common.bus import BusError, Incoming
from libs.common.bus.nats import NatsBus
from libs.common.log.lock import SessionLock
from libs.common.log.postgres import PostgresLog
from libs.common.messages import NodeId, encode
from libs.common.registry import Registry, members
from libs.lease.times import FAST
from proto.compute import Capabilities, JoinNode, ReportNode
from proto.haview import HaShown
from proto.lease import (
    AskGrant,
    AskProbe,
    AskRecords,
    ConfirmOff,
    DisarmHa,
    Granted,
    HaEvent,
    LeaseBeat,
    LeaseEvent,
    LeaseTaken,
    NodeLost,
    NodeReturned,
    NodeSuspected,
    Probes,
    ProofKind,
    Records,
    ReportReturned,
    Sighting,
    TermBegan,
)
from tests.contract.control_rig import Control, ask
from tests.servers import NatsServer, Postgres

EVENTS = Registry([*members(HaEvent), *members(LeaseEvent)])
POOL = "pool-1"
ALL = ("n1", "n2", "n3")


class Agent:
    """A node as its grantor sees it: it asks, tells what it reads of the others' records, and writes its own."""

    def __init__(self, name: str, bus: NatsBus, shelf: dict[str, Sighting]) -> None:
        self.name = name
        self.bus = bus
        self.shelf = shelf
        self.alive = True
        self.granted: list[Granted] = []
        self.epoch = 0
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self.bus.serve(f"ask.{self.name}.lease", self.asked)
        self.task = asyncio.create_task(self.live())

    def own_us(self) -> int:
        return time.monotonic_ns() // 1000

    async def live(self) -> None:
        sequence = 0
        while True:
            if self.alive:
                sequence += 1
                self.shelf[self.name] = Sighting(POOL, self.name, f"boot-{self.name}", self.epoch, sequence)
                beat = LeaseBeat(self.name, f"boot-{self.name}", self.own_us(), "held", self.epoch, sightings=self.seen())
                await self.bus.publish(f"tel.{self.name}.leases", encode(beat))
                await self.ask()
            await asyncio.sleep(0.5)

    async def ask(self) -> None:
        ask = AskGrant(
            self.name, f"boot-{self.name}", self.epoch, self.own_us(), pools=(POOL,), renews=(POOL,), address=self.name
        )
        try:
            data = await self.bus.request(f"lease.{self.name}", encode(ask), timeout_s=0.4)
        except BusError:
            return
        granted = msgspec.msgpack.decode(data, type=Granted)
        self.granted.append(granted)
        if not granted.refused:
            self.epoch = granted.epoch

    def seen(self) -> tuple[Sighting, ...]:
        return tuple(s for name, s in self.shelf.items() if name != self.name)

    async def asked(self, message: Incoming) -> None:
        if not self.alive:
            return
        asked = msgspec.msgpack.decode(message.data, type=AskRecords | AskProbe)
        if isinstance(asked, AskProbe):
            answered = {name: 1.0 if name in self.shelf and BY_NAME[name].alive else -1.0 for name in asked.addresses}
            await message.respond(encode(Probes(answered_ms=answered)))
            return
        found = tuple(self.shelf.get(name, Sighting(POOL, name)) for name in asked.nodes)
        await message.respond(encode(Records(sightings=found)))


BY_NAME: dict[str, Agent] = {}


class Cluster:
    def __init__(self, log: PostgresLog, bus: NatsBus, processes: dict[str, Control]) -> None:
        self.log = log
        self.bus = bus
        self.processes = processes

    async def events(self) -> list[tuple[int, Any]]:
        """(when, what) of ha's own."""
        records = [r async for chunk in self.log.replay() for r in chunk]
        return [(r.at_us, EVENTS.event(r)) for r in records if r.stream.startswith(("lease-", "ha-"))]

    async def until(self, kind: type, count: int = 1, seconds: float = 30, at: Callable[[Any], bool] = lambda _: True) -> Any:
        """The count-th such event, as (when, what)."""
        async with asyncio.timeout(seconds):
            while True:
                found = [(at_us, e) for at_us, e in await self.events() if isinstance(e, kind) and at(e)]
                if len(found) >= count:
                    return found[count - 1]
                await asyncio.sleep(0.05)

    async def tell(self, subject: str, command: Any, actor: str = "user:test") -> Any:
        return await ask(self.bus, subject, command, f"{subject}-{time.monotonic_ns()}", actor)

    async def standing(self) -> HaShown:
        return msgspec.msgpack.decode(await self.bus.request("query.ha.standing", b"", timeout_s=2), type=HaShown)


@pytest.fixture
async def cluster(postgres: Postgres, database: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    with NatsServer() as nats:
        processes = {}
        for name, services in (("rest", ("compute", "relay")), ("ha-1", ("ha",)), ("ha-2", ("ha",))):
            (tmp_path / name).mkdir()
            processes[name] = Control(services, postgres.dsn(database), nats.url, tmp_path / name)
            processes[name].env["ASV_NAME"] = name
            await processes[name].start()
        log = await PostgresLog.open(postgres.dsn(database))
        bus = await NatsBus.connect(nats.url, name="test")
        made = Cluster(log, bus, processes)
        shelf: dict[str, Sighting] = {}
        can = Capabilities(
            accelerator="tcg", cpu_model="qemu64", pcpus=4, memory_mib=8192, qemu_version="7.2", machine="pc-q35-7.2",
            driver="simulated", pools=("default",), pool_ids={"default": POOL}, watchdog=True,
        )  # fmt: skip
        for name in ALL:
            await made.tell(f"cmd.compute.node-{name}", JoinNode(node=name, key=f"k-{name}"))
            report = ReportNode(node=NodeId(name), capabilities=can, boot_id=f"boot-{name}")
            await made.tell(f"fact.{name}.compute", report, f"node:{name}")
            BY_NAME[name] = Agent(name, bus, shelf)
            await BY_NAME[name].begin()
        yield made
        for agent in BY_NAME.values():
            assert agent.task is not None
            agent.task.cancel()
        await bus.drain()
        await log.close()
        for one in processes.values():
            await one.end(signal.SIGKILL)


async def all_granted(term: int) -> None:
    async with asyncio.timeout(20):
        while not all(a.granted and (a.granted[-1].term, a.granted[-1].refused) == (term, "") for a in BY_NAME.values()):
            await asyncio.sleep(0.05)


async def test_one_leads_is_followed_and_a_node_that_dies_is_lost(cluster: Cluster) -> None:
    _, first = await cluster.until(TermBegan)
    await all_granted(1)
    assert BY_NAME["n1"].granted[-1].pools == (POOL,)
    leader = first.holder[: len("ha-1")]
    other = {"ha-1": "ha-2", "ha-2": "ha-1"}[leader]

    # It stands still, as in a long pause of its machine: the server frees its lock, and what it signs thereafter is nothing.
    process = cluster.processes[leader].process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    _, second = await cluster.until(TermBegan, 2, 10)
    assert second.holder.startswith(other)
    await all_granted(2)
    process.send_signal(signal.SIGCONT)

    # Killed together with a node: its successor counts from its own start.
    BY_NAME["n1"].alive = False
    await cluster.processes[other].end(signal.SIGKILL)
    began_us, third = await cluster.until(TermBegan, 3, 15)
    assert third.holder.startswith(leader) and third.holder != first.holder
    lost_us, lost = await cluster.until(NodeLost, 1, 30)
    assert (lost.node, lost.epoch, lost.proof.kind, lost.proof.term) == ("n1", 1, ProofKind.LEASE, 3)
    assert lost_us - began_us >= FAST.waited_us, "it waits G less than that since its lock, and the event comes later"
    assert {type(e) for _, e in await cluster.events() if getattr(e, "node", "") == "n2"} == {LeaseTaken}

    # It comes back: clean, in the next epoch.
    BY_NAME["n1"].alive = True
    async with asyncio.timeout(10):
        while BY_NAME["n1"].granted[-1].refused != "lost":
            await asyncio.sleep(0.05)
    fact = ReportReturned(node=NodeId("n1"), boot_id="boot-n1", epoch=1)
    assert (await cluster.tell("fact.n1.ha", fact, "node:n1")).status == "accepted"
    BY_NAME["n1"].epoch = 0
    await cluster.until(NodeReturned)
    async with asyncio.timeout(10):
        while BY_NAME["n1"].granted[-1].epoch != 2 or BY_NAME["n1"].granted[-1].refused:
            await asyncio.sleep(0.05)

    await _disarmed(cluster)


async def _disarmed(cluster: Cluster) -> None:
    """What is asked of people: an alive node is not off by their word, a dead one is; disarmed, nothing else declares it."""
    refused = await cluster.tell("cmd.ha.lease-n2", ConfirmOff(node="n2", reason="I saw it burn"))
    assert (refused.status, refused.reason) == ("refused", "NODE_ALIVE"), refused
    assert (await cluster.tell("cmd.ha.ha-main", DisarmHa(reason="works"))).status == "accepted"
    BY_NAME["n2"].alive = False
    await cluster.until(NodeSuspected, 1, 15, lambda e: e.node == "n2")
    shown = await cluster.standing()
    assert not shown.armed and {n.node: n.standing for n in shown.nodes}["n3"] == "trusted"
    async with asyncio.timeout(20):
        while (await cluster.tell("cmd.ha.lease-n2", ConfirmOff(node="n2", reason="I saw it burn"))).status != "accepted":
            await asyncio.sleep(0.2)
    _, lost = await cluster.until(NodeLost, 1, 10, lambda e: e.node == "n2")
    assert lost.proof.kind == ProofKind.OPERATOR


async def test_a_session_has_the_lock_until_it_ends_or_says_nothing(postgres: Postgres, database: str) -> None:
    one, two = SessionLock(postgres.dsn(database), 7), SessionLock(postgres.dsn(database), 7)
    assert await one.check(2.0) and await one.check(2.0)
    assert not await two.check(2.0)
    one.give_up()
    async with asyncio.timeout(5):
        while not await two.check(2.0):
            await asyncio.sleep(0.02)
    assert not await one.check(2.0)
    begun = time.monotonic()
    async with asyncio.timeout(10):
        while not await one.check(2.0):  # `two` says nothing any more
            await asyncio.sleep(0.1)
    assert time.monotonic() - begun > 2.0
    assert not await two.check(2.0), "it learns so by its next check"
    await one.close()
    await two.close()
