"""One service on a real log and a real bus, alone; and what became of each case of its table."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from libs.common.bus.edge import Edge
from libs.common.bus.nats import NatsBus
from libs.common.clock import ManualClock
from libs.common.host.driver import Runner
from libs.common.host.relaying import RelayRunner
from libs.common.host.service import Service
from libs.common.log import Group
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Envelope, Fact, Message, Recorded, Reply, Tick, decode_reply, encode
from proto.families import REGISTRY
from proto.upcasts import DOWNCASTS, UPCASTS
from services.host.known import service
from tests.contract.messages.settings import Heard

EMPTY = """
delete from asv.events; delete from asv.stream_heads; delete from asv.commands; delete from asv.consumers;
delete from asv.log_batches; delete from asv.snapshots;
update asv.log_head set position = 0, at_us = 0, hash = '\\x';
"""
NOW_US = 1_800_000_000_000_000
WAIT_S_MAX = 20.0
_seeds = itertools.count()
"""no two processes make the same ids"""


class Alone:
    """`await alone.begin(group)` gives it a log that holds just that. asker: who asks it, on another connection."""

    def __init__(self, name: str, dsn: str, url: str, log: PostgresLog, asker: NatsBus, admin: asyncpg.Connection) -> None:
        self.service: Service = service(name)
        self.name, self.log, self.asker = name, log, asker
        self._dsn, self._url, self._admin = dsn, url, admin
        self.runner: Runner | None = None
        self.clock = ManualClock(NOW_US)
        self._bus: NatsBus | None = None
        self._edge: Edge | None = None
        self._relay: RelayRunner | None = None

    @classmethod
    @asynccontextmanager
    async def at(cls, name: str, dsn: str, url: str) -> AsyncIterator[Alone]:
        log = await PostgresLog.open(dsn, clock_us=lambda: NOW_US)
        asker = await NatsBus.connect(url, name="asker")
        admin = await asyncpg.connect(dsn)
        await asker.publish_events(())  # makes the stream that feeds wait for
        alone = cls(name, dsn, url, log, asker, admin)
        try:
            yield alone
        finally:
            await alone.stop()
            await asker.drain()
            await alone.log.close()
            await admin.close()

    async def begin(self, given: Group, *, relay: bool = False, incarnation: int = 1) -> None:
        """A service that has folded exactly this. relay: what is in the log is published."""
        await self.stop()
        await self._admin.execute(EMPTY)
        await self._admin.execute("update asv.log_head set incarnation = $1", incarnation)
        await self.log.close()
        self.log = await PostgresLog.open(self._dsn, clock_us=lambda: NOW_US)
        if given.units:
            done = await self.log.append(given)
            assert done.stopped is None, done
        await self.serve(relay=relay)

    async def serve(self, *, relay: bool = False) -> None:
        """Starts the service on the log as it is; one that ran before is ended."""
        await self.stop()
        self._bus = await NatsBus.connect(self._url, name=self.name)
        if relay:
            self._relay = RelayRunner(self.log, self._bus)
            await self._relay.start()
        self.clock = ManualClock(NOW_US, next(_seeds))
        self.runner = Runner(self.service, self.log, self._bus, self.clock, dict(UPCASTS), self.name, dict(DOWNCASTS))
        await self.runner.start()

    async def questions(self) -> None:
        """It answers questions too."""
        assert self.runner is not None
        self._edge = Edge.to(self._url, name=f"{self.name}-edge")
        self._edge.questions(self.name, self.runner.question)
        await self._edge.start()

    async def stop(self) -> None:
        if self._edge is not None:
            await self._edge.stop()
        if self.runner is not None:
            await self.runner.stop()
        if self._relay is not None:
            await self._relay.stop()
        if self._bus is not None:
            await self._bus.drain()
        self._bus = self.runner = self._relay = self._edge = None

    # --- in -------------------------------------------------------------------------------------------------------

    def stream(self, message: Message) -> str:
        decider = next(d for d in self.service.deciders if type(message) in d.commands)
        return decider.stream(message)

    def subject(self, message: Message) -> str:
        if isinstance(message, Fact):
            return f"fact.{message.node}.{self.name}"
        return f"cmd.{self.name}.{self.stream(message)}"

    async def send(self, body: dict[str, Any], id: str, subject: str = "", actor: str = "user:test") -> Reply:
        """As the gateway or an agent would. subject: the one that the message itself leads to, where none is given."""
        data = encode(Envelope(id=id, data=msgspec.Raw(encode(body)), actor=actor))
        return await self.raw(subject or self.subject(REGISTRY.decode(encode(body))), data)

    async def raw(self, subject: str, data: bytes) -> Reply:
        return decode_reply(await self.asker.request(subject, data, timeout_s=WAIT_S_MAX))

    async def do(self, body: dict[str, Any], id: str) -> Reply | None:
        """A message on its way: over the bus; or, as a tick is made by the service's own process, from there: no answer."""
        message = REGISTRY.decode(encode(body))
        if not isinstance(message, Tick):
            return await self.send(body, id)
        assert self.runner is not None
        self.runner.say(message)
        async with asyncio.timeout(WAIT_S_MAX):
            while not self.runner.host.idle():
                await asyncio.sleep(0.001)
        return None

    async def tell(self, heard: Sequence[Heard]) -> None:
        """Telemetry, heard when this returns: the bus keeps the order of one sender, and a question comes last."""
        for n, one in enumerate(heard, 1):
            if one.after_s:
                self.clock.advance(one.after_s)
            await self.asker.publish(one.subject, encode(one.body))
            if n == len(heard) or heard[n].after_s:
                await self.raw(f"cmd.{self.name}.nothing", b"")

    # --- what is in the log ---------------------------------------------------------------------------------------

    async def events(self) -> list[Recorded]:
        return [r async for chunk in self.log.replay() for r in chunk]

    async def quiet(self) -> None:
        """The service has made of the log all that it makes of it, and nothing is under way. Reactions come by themselves, up to
        half a second after their events."""
        assert self.runner is not None
        host = self.runner.host
        async with asyncio.timeout(WAIT_S_MAX):
            while not host.idle() or host.reactions.position < (await self.log.head()).position:
                await asyncio.sleep(0.005)

    async def rows(self) -> tuple[int, int]:
        """How many events and commands there are, once all is quiet."""
        await self.quiet()
        counted = await self._admin.fetchrow(
            "select (select count(*) from asv.events) as events, (select count(*) from asv.commands) as commands"
        )
        assert counted is not None
        return int(counted["events"]), int(counted["commands"])
