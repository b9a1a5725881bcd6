"""`log verify --deep` over a real database, and a service that decides meanwhile: what it says of itself is what the log gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import msgspec
import pytest

from libs.common.bus.memory import MemoryBus
from libs.common.clock import SystemClock
from libs.common.host import digests, snapshots
from libs.common.host.core import Host
from libs.common.host.digests import Page
from libs.common.host.driver import Runner
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Envelope, Recorded, decode_reply, encode
from libs.verify.postgres import PostgresEvidence
from libs.verify.states import Claim, States, of_snapshot
from libs.verify.verify import Report, verify
from tests.servers import Postgres
from tests.toy import DOWNCASTS, TOY, UPCASTS, Raise

COUNTERS = 12
ROUNDS = 8
PAGE = 5


class Rig:
    """A service on its log; `raise_` asks it, `page_by_page` is what it says of its streams."""

    def __init__(self, runner: Runner, bus: MemoryBus, dsn: str) -> None:
        self.runner = runner
        self.bus = bus
        self.dsn = dsn

    async def raise_(self, counter: str, n: int) -> None:
        envelope = Envelope(id=f"{counter}-{n}", actor="user:t", data=msgspec.Raw(encode(Raise(counter=counter))))
        subject = f"cmd.{TOY.name}.{TOY.deciders[0].kind}-{counter}"
        assert decode_reply(await self.bus.request(subject, encode(envelope))).status in ("accepted", "refused")

    async def page_by_page(self) -> Claim:
        """As over the bus: others are decided between two pages."""
        streams: dict[str, tuple[int, bytes]] = {}
        position, after, more = -1, "", True
        while more:
            found = digests.of(self.runner.host, Page(after), PAGE)
            position = found.position if position < 0 else position
            streams |= {one.stream: (one.version, one.digest) for one in found.streams}
            after, more = found.streams[-1].stream if found.streams else "", found.more
            await asyncio.sleep(0)  # the service goes on: pages of different moments are what is tried here
        return Claim("live", TOY.name, position, streams)

    async def verify(self, claims: Iterable[Claim]) -> tuple[Report, States]:
        states = States([Host(TOY, UPCASTS, DOWNCASTS)], claims)
        evidence = await PostgresEvidence.open(self.dsn)
        try:
            return await verify(evidence, readers=[states]), states
        finally:
            await evidence.close()


@pytest.fixture
async def rig(postgres: Postgres, database: str) -> AsyncIterator[Rig]:
    log = await PostgresLog.open(postgres.dsn(database, "asv_service"))
    bus = MemoryBus()
    runner = Runner(TOY, log, bus, SystemClock(), UPCASTS, downcasts=DOWNCASTS)
    await runner.start()
    yield Rig(runner, bus, postgres.dsn(database, "asv_reader"))
    await runner.stop()
    await log.close()


async def busy(rig: Rig) -> list[Claim]:
    """What it said, again and again, while it decided: each time that something more was."""
    decided = asyncio.Event()

    async def user(n: int) -> None:
        for round in range(ROUNDS):
            await rig.raise_(f"c{n}", round)
            decided.set()

    users = asyncio.gather(*(user(n) for n in range(COUNTERS)))
    users.add_done_callback(lambda _: decided.set())
    claims = []
    while not users.done():
        await asyncio.wait_for(decided.wait(), 30)
        decided.clear()
        claims.append(await rig.page_by_page())
    await users
    return [*claims, await rig.page_by_page()]


async def test_a_service_that_decides_meanwhile_says_what_the_log_gives(rig: Rig) -> None:
    claims = await busy(rig)
    assert len({tuple(sorted(claim.streams.items())) for claim in claims}) > 2, "it was always asked at the same moment"
    report, states = await rig.verify(claims)
    assert report.faults == []
    assert states.compared == sum(len(claim.streams) for claim in claims)


async def test_a_state_that_the_log_does_not_give_is_named(rig: Rig) -> None:
    await busy(rig)
    slots = rig.runner.host.slots
    stream, other, third = sorted(name for name in slots if not name.endswith("echo"))[:3]
    head = (await rig.verify([]))[0].until
    slots[stream].state = msgspec.structs.replace(slots[stream].state, total=slots[stream].state.total + 1)
    slots[other].version += 7
    claim = await rig.page_by_page()
    report, _ = await rig.verify([claim._replace(position=head, streams={k: v for k, v in claim.streams.items() if k != third})])
    told = {fault.where: fault.what for fault in report.faults}
    assert "is not what the log gives" in told[f"stream {stream}"]
    assert "which the log does not have" in told[f"stream {other}"]
    assert "does not know it" in told[f"stream {third}"]
    assert len(report.faults) == 3


def test_an_event_of_a_later_release_ends_the_comparing_and_is_named() -> None:
    states = States([Host(TOY, UPCASTS, DOWNCASTS)], [Claim("live", TOY.name, 9, {"counter-a": (3, b"")})])
    states.take([Recorded(7, "counter-a", 1, "counter_sold", 1, 1, b"\x80", b"\x80")])
    states.finish()
    assert [fault.where for fault in states.faults] == ["position 7"]
    assert "counter_sold" in states.faults[0].what


async def test_a_snapshot_is_what_the_log_gives_or_is_named(rig: Rig) -> None:
    await busy(rig)
    taken = snapshots.take(rig.runner.host)
    assert taken is not None
    claim = of_snapshot(Host(TOY, UPCASTS, DOWNCASTS), taken)
    assert claim is not None
    assert (await rig.verify([claim]))[0].faults == []
    stream = sorted(claim.streams)[0]
    total = rig.runner.host.slots[stream].state.total
    slot = rig.runner.host.slots[stream]
    slot.state = msgspec.structs.replace(slot.state, total=total + 1)
    wrong = snapshots.take(rig.runner.host)
    assert wrong is not None
    claim = of_snapshot(Host(TOY, UPCASTS, DOWNCASTS), wrong)
    assert claim is not None
    assert [fault.where for fault in (await rig.verify([claim]))[0].faults] == [f"stream {stream}"]
    assert of_snapshot(Host(TOY), msgspec.structs.replace(taken, schema="another")) is None
    with pytest.raises(ValueError, match="cannot be read"):
        of_snapshot(Host(TOY), msgspec.structs.replace(taken, data=taken.data[:-3]))
