"""The agent's part in a lease: a real agent and a real watchdog, and a grantor, compute and ha that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from libs.common.bus import Incoming
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.bus.permissions import node as node_grant
from libs.common.clock import SystemClock
from libs.common.messages import Envelope, Hello, Message, NodeId, Reply, encode
from proto.compute import ReportVm
from proto.lease import AskGrant, AskLetter, AskProbe, AskRecords, Granted, LeaseBeat, Probes, Records, ReportReturned
from proto.node import Heard, OrderVm, Want
from proto.nodes import ReportNode
from services.node.drivers.simbodies import Bodies, EmbodiedDriver
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import SimPool
from services.node.keep import Keep
from services.node.runner import AgentRunner
from tests.contract.driver_rigs import machine_spec
from tests.contract.watchdog_rig import Rig

N1 = NodeId("n1")
LEASE_US = 5_000_000
WORD = "5a5a5a5a"


class Cluster:
    """What the agent hears and says. `grants`: how the grantor answers, None: not at all. refuses: VMs that are another's."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.asked: list[AskGrant] = []
        self.beats: list[LeaseBeat] = []
        self.reports: list[ReportVm] = []
        self.nodes: list[ReportNode] = []
        self.returned: list[ReportReturned] = []
        self.refuses: set[str] = set()
        self.grants: Callable[[AskGrant], Granted] | None = grants()

    async def serve(self) -> None:
        await self.bus.serve("lease.n1", self._grant)
        await self.bus.serve("tel.n1.leases", self._beat)
        await self.bus.serve("fact.n1.compute", self._compute)
        await self.bus.serve("fact.n1.ha", self._ha)
        for other in ("memory", "io"):
            await self.bus.serve(f"fact.n1.{other}", self._accept)

    async def _grant(self, message: Incoming) -> None:
        ask = msgspec.msgpack.decode(message.data, type=AskGrant)
        self.asked.append(ask)
        if self.grants is not None:
            await message.respond(encode(self.grants(ask)))

    async def _beat(self, message: Incoming) -> None:
        self.beats.append(msgspec.msgpack.decode(message.data, type=LeaseBeat))

    async def _compute(self, message: Incoming) -> None:
        envelope = msgspec.msgpack.decode(message.data, type=Envelope)
        fact: ReportVm | ReportNode | Hello = msgspec.msgpack.decode(envelope.data, type=ReportVm | ReportNode | Hello)
        if isinstance(fact, ReportVm):
            self.reports.append(fact)
            if fact.vm in self.refuses:
                await message.respond(encode(Reply(status="refused", reason="NOT_YOURS")))
                return
        if isinstance(fact, ReportNode):
            self.nodes.append(fact)
        await self._accept(message)

    async def _ha(self, message: Incoming) -> None:
        envelope = msgspec.msgpack.decode(message.data, type=Envelope)
        self.returned.append(msgspec.msgpack.decode(envelope.data, type=ReportReturned))
        await self._accept(message)

    async def _accept(self, message: Incoming) -> None:
        await message.respond(encode(Reply(status="accepted")))

    async def order(self, generation: int = 1, protected: bool = True) -> Heard:
        spec = msgspec.structs.replace(machine_spec(generation=generation), protected=protected)
        order = OrderVm(vm="web-1", generation=generation, version=generation, want=Want.RUNNING, spec=spec)
        return msgspec.msgpack.decode(await self.bus.request("order.n1", encode(order)), type=Heard)

    async def ask(self, question: Message, kind: Any) -> Any:
        return msgspec.msgpack.decode(await self.bus.request("ask.n1.lease", encode(question)), type=kind)


def grants(epoch: int = 1, refused: str = "", lease_us: int = LEASE_US) -> Callable[[AskGrant], Granted]:
    return lambda ask: Granted(1, epoch, ask.sent_us, lease_us, (WORD,), refused=refused)


async def until(holds: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(15):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what}: not within 15 s") from None


class Node:
    def __init__(self, rig: Rig, cluster: Cluster, driver: EmbodiedDriver, runner: AgentRunner) -> None:
        self.rig, self.cluster, self.driver, self.runner = rig, cluster, driver, runner

    @property
    def own(self) -> str:
        assert self.runner.leasing is not None
        return str(self.runner.leasing.state.get("own"))

    @property
    def running(self) -> bool:
        return "web-1" in self.driver.host.vms


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    rig = Rig(tmp_path)
    hub = Hub()
    cluster = Cluster(MemoryBus(hub, name="control"))
    await cluster.serve()
    params = SimParams(start_us=5_000, jitter_us=1_000, boot_us=5_000, kill_us=1_000, verb_us=1_000)
    host = SimHost("n1", params, Random(7), SimPool(any_file=True, id=WORD))
    driver = EmbodiedDriver(host, Bodies("n1", rig.state, rig.pool))
    bus = MemoryBus(hub, name="n1", grant=node_grant("n1"))
    runner = AgentRunner(
        N1, "boot-1", driver, Keep(rig.state / "kept"), bus, SystemClock(), lambda: (4096, 0.1), watchdog=rig.state
    )
    rig.start()
    rig.leave()
    try:
        await runner.start()
        one = Node(rig, cluster, driver, runner)
        await until(lambda: one.own == "held", "the lease is held")
        yield one
    finally:
        await runner.stop()
        for vm in list(driver._bodies.all):
            driver._bodies.end(vm)
        rig.end()


async def test_it_asks_and_tells_and_answers(node: Node) -> None:
    cluster = node.cluster
    await until(lambda: cluster.nodes and cluster.nodes[-1].capabilities.watchdog, "the node says that it guards")
    can = cluster.nodes[-1].capabilities
    assert can.lease_pools == ("default",)
    assert can.watch_at.startswith("127.0.0.1:")
    await until(lambda: cluster.asked and cluster.asked[-1].epoch == 1, "it asks for what it has")
    assert cluster.asked[-1].pools == (WORD,)
    await until(lambda: cluster.beats and cluster.beats[-1].own == "held", "the watchdog's words are told")
    records = await cluster.ask(AskRecords(nodes=("n1", "n9"), pools=(WORD,)), Records)
    assert [(s.node, s.epoch, s.own) for s in records.sightings] == [("n1", 1, "held"), ("n9", 0, "")]
    unknown = await cluster.ask(AskRecords(nodes=("n1",), pools=("ffff",)), Records)
    assert "no pool with the word ffff" in unknown.error
    probes = await cluster.ask(AskProbe(addresses={"n1": can.watch_at, "n2": "127.0.0.1:9"}), Probes)
    assert probes.answered_ms["n1"] >= 0 > probes.answered_ms["n2"]
    many = tuple(f"{'v' * 50}-{i}" for i in range(200))
    letter = AskLetter(node="n2", pools=(WORD,), number=1, term=1, epoch=1, vms=many)
    assert "do not fit" in (await cluster.ask(letter, Records)).error


async def test_a_protected_vm_starts_under_a_lease_only(node: Node) -> None:
    cluster = node.cluster
    cluster.grants = None
    node.rig.gone()
    await until(lambda: node.own == "ended", "the lease has ended")
    await cluster.order()
    await until(lambda: any("holds no lease" in r.sentence for r in cluster.reports), "the start is refused")
    assert not node.running
    node.rig.back()
    await cluster.order(generation=2, protected=False)
    await until(lambda: node.running, "what is not protected starts")


async def test_what_was_killed_is_explained_and_the_node_comes_back_clean(node: Node) -> None:
    cluster = node.cluster
    await cluster.order()
    await until(lambda: any(r.epoch == 1 and r.pid for r in cluster.reports), "it runs, in that epoch")
    cluster.grants = grants(refused="lost", lease_us=0)
    await until(lambda: not node.running, "it is killed")
    await until(lambda: any("watchdog ended it" in r.sentence for r in cluster.reports), "its end is explained")
    await until(lambda: cluster.returned, "the node says that it is clean")
    assert (cluster.returned[0].epoch, cluster.returned[0].boot_id) == (1, "boot-1")
    cluster.asked.clear()
    await until(lambda: cluster.asked, "it asks again")
    assert cluster.asked[-1].epoch == 0  # for whichever there is now
    cluster.grants = grants(epoch=2)
    await until(lambda: node.own == "held", "it has the next")
    await cluster.order(generation=2)
    await until(lambda: node.running, "it serves")


async def test_silent_on_both_paths_and_back_by_control_it_learns_of_the_log(node: Node) -> None:
    cluster = node.cluster
    await cluster.order()
    await until(lambda: node.running and node.runner.leasing.state["guarded"] == 1, "it runs")  # type: ignore[union-attr]
    before = len(cluster.reports)
    cluster.grants = None
    node.rig.gone()
    await until(lambda: node.own == "paused", "it is paused")
    cluster.grants = grants()
    await until(lambda: node.own == "held", "it goes on")
    assert len(cluster.reports) > before
    node.rig.back()
    assert node.running


async def test_what_the_log_gave_to_another_is_killed_upon_return(node: Node) -> None:
    cluster = node.cluster
    await cluster.order()
    await until(lambda: node.running and node.runner.leasing.state["guarded"] == 1, "it runs")  # type: ignore[union-attr]
    cluster.grants = None
    node.rig.gone()
    await until(lambda: node.own == "paused", "it is paused")
    cluster.refuses.add("web-1")
    cluster.grants = grants()
    await until(lambda: not node.running, "it is killed")
    node.rig.back()


async def test_an_agent_that_starts_anew_extends_nothing_that_it_did_not_ask_for(node: Node) -> None:
    """Its watchdog's lease goes on, by the time of the former's last question."""
    node.cluster.grants = None
    await node.runner.stop()
    node.rig.gone()
    node.rig.connect()
    left_us = node.rig.state_now()["left_us"]
    node.rig.leave()
    node.rig.connect()
    node.rig.say("hello")
    assert node.rig.state_now()["left_us"] <= left_us
    await until(lambda: node.rig.state_now()["own"] == "ended", "the lease has ended")
    node.rig.back()
