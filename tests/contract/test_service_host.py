"""The services as real processes on real servers: killed at any instant under load, they lose nothing and do nothing twice."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from libs.common.bus import Incoming, NoResponder
from libs.common.bus.nats import NatsBus
from libs.common.host.core import Host, state_bytes
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Envelope, Recorded, Reply, decode_reply, encode
from libs.common.registry import Registry
from proto.compute import Capabilities, DefineVm, JoinNode, ReportNode, StartVm, VmStartRequested
from proto.machine import DiskWish
from proto.node import Beat, Heard, Order, OrderVm
from services.compute.app import SERVICE as COMPUTE
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from tests.contract.control_rig import Control, ask
from tests.servers import NatsServer, Postgres

KILLS = 4
NAMES = ("compute", "memory", "io", "relay")


class Cluster:
    def __init__(self, log: PostgresLog, bus: NatsBus, control: list[Control], nats: NatsServer) -> None:
        self.log = log
        self.bus = bus
        self.control = control
        self.nats = nats
        self.replies: dict[tuple[str, str], Reply] = {}

    async def load(self, users: int, enough: asyncio.Event) -> None:
        """Each user defines one VM after the other, each twice: the second clashes with the first. Until `enough`."""

        async def user(n: int) -> None:
            for i in itertools.takewhile(lambda _: not enough.is_set(), itertools.count()):
                for turn in ("first", "second"):
                    vm = f"vm-{n}-{i}"
                    self.replies[vm, turn] = await ask(self.bus, f"cmd.compute.vm-{vm}", DefineVm(vm=vm), f"{vm}-{turn}")

        async with asyncio.TaskGroup() as tasks:
            for n in range(users):
                tasks.create_task(user(n))

    async def check(self) -> None:
        """Every answer is true of the log, the log has no gap and no double, and a repeated id answers the same."""
        events = await self.events()
        check_log(events)
        assert sorted(e.stream for e in events) == sorted(f"vm-{vm}" for vm, turn in self.replies if turn == "first")
        for (vm, turn), reply in self.replies.items():
            assert reply.status == ("accepted" if turn == "first" else "refused"), (vm, turn, reply)
        for (vm, turn), reply in list(self.replies.items())[:: max(1, len(self.replies) // 50)]:
            again = await ask(self.bus, f"cmd.compute.vm-{vm}", DefineVm(vm=vm), f"{vm}-{turn}")
            assert (again.status, again.reason, again.position) == (reply.status, reply.reason, reply.position)

    async def events(self) -> list[Recorded]:
        return [r async for chunk in self.log.replay() for r in chunk]


@pytest.fixture(params=["together", "apart"])
async def cluster(
    request: pytest.FixtureRequest, postgres: Postgres, database: str, tmp_path: Path
) -> AsyncIterator[Cluster]:
    """Several services in one process, or each in its own: same code, one word."""
    groups = [NAMES] if request.param == "together" else [(n,) for n in NAMES]
    with NatsServer() as nats:
        control = [Control(names, postgres.dsn(database), nats.url, tmp_path) for names in groups]
        await asyncio.gather(*(c.start() for c in control))
        log = await PostgresLog.open(postgres.dsn(database))
        bus = await NatsBus.connect(nats.url, name="test")
        yield Cluster(log, bus, control, nats)
        await bus.drain()
        await log.close()
        for one in control:
            await one.end(signal.SIGKILL)


def check_log(events: Sequence[Recorded]) -> None:
    """No gap, no double."""
    assert [e.position for e in events] == list(range(1, len(events) + 1))
    versions: dict[str, int] = {}
    for event in events:
        assert event.version == versions.get(event.stream, 0) + 1
        versions[event.stream] = event.version


async def test_killed_in_a_loop_under_load_nothing_is_lost_or_done_twice(cluster: Cluster) -> None:
    chance, enough = random.Random(1), asyncio.Event()

    async def killer() -> None:
        for _ in range(KILLS):
            one = chance.choice(cluster.control)
            await one.end(signal.SIGKILL)
            await one.start()
            await asyncio.sleep(chance.uniform(0.05, 0.3))  # under load; the instant is what is drawn here
        enough.set()

    await asyncio.gather(cluster.load(8, enough), killer())
    await cluster.check()


@pytest.mark.parametrize("cluster", ["together"], indirect=True)
async def test_engines_that_go_away_under_load_come_back_to_a_cluster_that_goes_on(
    cluster: Cluster, postgres: Postgres
) -> None:
    enough = asyncio.Event()

    async def more() -> None:
        """Until the cluster has answered a good deal since."""
        count = len(cluster.replies)
        async with asyncio.timeout(60):
            while len(cluster.replies) < count + 50:
                await asyncio.sleep(0.01)

    async def outages() -> None:
        await more()
        postgres.kill()
        await asyncio.sleep(0.5)  # an outage has a length
        postgres.start()  # in this thread: the server dies with the thread that started it
        await more()
        cluster.nats.kill()
        await asyncio.sleep(0.5)
        cluster.nats.start()  # likewise
        await more()
        enough.set()

    await asyncio.gather(cluster.load(4, enough), outages())
    await cluster.check()


async def test_sigterm_answers_what_is_under_way_and_ends_cleanly(cluster: Cluster) -> None:
    async def ask(n: int) -> Reply | None:
        data = encode(Envelope(id=f"c{n}", data=msgspec.Raw(encode(DefineVm(vm=f"vm-{n}"))), actor="user:test"))
        try:
            return decode_reply(await cluster.bus.request(f"cmd.compute.vm-vm-{n}", data, timeout_s=10))
        except NoResponder:
            return None  # it came after the drain had begun: nobody has heard it

    asked = asyncio.gather(*(ask(n) for n in range(200)))
    await asyncio.sleep(0)  # they are on their way
    codes = await asyncio.gather(*(one.end(signal.SIGTERM) for one in cluster.control))
    replies = await asked
    assert codes == [0] * len(codes), [one.log.read_text() for one in cluster.control]
    accepted = {r.stream for r in replies if r is not None}
    assert {r.status for r in replies if r is not None} <= {"accepted"}
    assert {e.stream for e in await cluster.events()} == accepted


CAN = Capabilities(
    accelerator="tcg", cpu_model="qemu64", pcpus=4, memory_mib=8192, qemu_version="7.2", machine="pc-q35-7.2",
    driver="simulated", pools=("default",),
)  # fmt: skip


async def test_a_start_goes_through_three_services_to_the_agents_order(cluster: Cluster) -> None:
    orders: asyncio.Queue[OrderVm] = asyncio.Queue()

    async def agent(message: Incoming) -> None:
        order = msgspec.msgpack.decode(message.data, type=Order)
        assert isinstance(order, OrderVm)
        orders.put_nowait(order)
        await message.respond(encode(Heard(accepted=True)))

    await cluster.bus.serve("order.n1", agent)
    await ask(cluster.bus, "cmd.compute.node-n1", JoinNode(node="n1", key="k"), "join")
    report = ReportNode(node="n1", capabilities=CAN, boot_id="b")  # type: ignore[arg-type]
    await ask(cluster.bus, "fact.n1.compute", report, "hello", "node:n1")
    await ask(cluster.bus, "cmd.compute.vm-a", DefineVm(vm="a", disks=(DiskWish(size_mib=64),)), "define")
    started = Reply(status="")
    async with asyncio.timeout(30):
        for attempt in range(100):  # until the heartbeat was heard and the ledger is known to compute
            await cluster.bus.publish("tel.n1.beat", encode(Beat("n1", "b", 0, 0, 0.0)))
            started = await ask(cluster.bus, "cmd.compute.vm-a", StartVm(vm="a"), f"start-{attempt}")
            if started.status == "accepted":
                break
            await asyncio.sleep(0.05)
        order = await orders.get()
    assert started.status == "accepted", started
    assert (order.vm, order.generation, order.want) == ("a", 1, "running")
    assert order.spec is not None and order.spec.disks[0].size_mib == 64
    assert order.correlation == started.task
    events = await cluster.events()
    check_log(events)
    requested = next(e for e in events if e.type == "vm_start_requested")
    placement = Registry([VmStartRequested]).event(requested).placement
    assert [c.node for c in placement.candidates] == ["n1"] and placement.candidates[0].terms
    for service in (COMPUTE, MEMORY, IO):
        host = Host(service)
        host.fold(events, 0)
        assert state_bytes(host)
