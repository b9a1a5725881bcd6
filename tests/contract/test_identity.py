"""Who may say and hear what, tried against a real server: a compromised agent, a stranger, a service that oversteps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from libs.common.bus import BusError, Forbidden, Incoming, NoResponder, Published
from libs.common.bus import permissions as allowed
from libs.common.bus.credentials import Credentials, Key, key_from, new_seed
from libs.common.bus.handling import NatsIncoming
from libs.common.bus.identity import ClusterIdentity, NodeSigner, encode_jwt
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from proto.services import SERVICES
from tests.contract.identity_rig import HOUR_S, Cluster, echo, nothing_heard
from tests.servers import NatsServer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClusterIdentity, NatsServer]]:
    identity = ClusterIdentity.create(tmp_path_factory.mktemp("identity"), SystemClock().now_us())
    with NatsServer(identity.server_config()) as server:
        yield identity, server


@pytest.fixture
async def cluster(served: tuple[ClusterIdentity, NatsServer]) -> AsyncIterator[Cluster]:
    one = Cluster(*served)
    yield one
    for bus in one.made:
        await bus.drain()


# --- what must work -------------------------------------------------------------------------------------------------------


async def test_everyone_can_do_their_work(cluster: Cluster) -> None:
    relay = await cluster.join("relay", allowed.relay())
    compute = await cluster.join("compute", allowed.service("compute"))
    gateway = await cluster.join("gateway", allowed.gateway())
    agent = await cluster.join("n1")
    for subject in ("cmd.compute.>", "fact.*.compute", "query.compute.>"):
        await compute.serve(subject, echo, queue="compute")
    await agent.serve("order.n1", echo)
    await agent.serve("ask.n1.>", echo)
    assert await gateway.request("cmd.compute.vm-a", b"1") == b"1"
    assert await gateway.request("query.compute.vms", b"2") == b"2"
    assert await gateway.request("ask.n1.exec", b"3") == b"3"
    assert await agent.request("fact.n1.compute", b"4") == b"4"
    assert await compute.request("order.n1", b"5") == b"5"
    assert await compute.request("cmd.compute.vm-b", b"6") == b"6"
    await relay.publish_events([Published("evt.vm.vm-a.vm_started", "1-1", b"7")])
    feed = await compute.feed("compute")
    assert await feed.fetch(10, 5.0) == [b"7"]
    await feed.ack()
    live = await gateway.feed("", subject="evt.vm.>")
    assert await live.fetch(10, 5.0) == [b"7"]
    await live.close()


async def test_leases_are_asked_of_ha_alone_and_each_of_its_processes_has_its_place_in_the_events(cluster: Cluster) -> None:
    relay, agent = await cluster.join("relay", allowed.relay()), await cluster.join("n1")
    one, two = [await cluster.join(name, allowed.host(name, ("ha",))) for name in ("ha-1", "ha-2")]
    await one.serve("lease.*", echo)
    await agent.serve("ask.n1.>", echo)
    assert await agent.request("lease.n1", b"1") == b"1"
    assert await two.request("ask.n1.lease", b"2") == b"2"
    await relay.publish_events([Published("evt.ha.ha-main.term_began", "1-ha", b"3")])
    feeds = [await bus.feed(allowed.consumer("ha", bus.name)) for bus in (one, two)]
    heard = [await feed.fetch(10, 5.0) for feed in feeds]
    assert all(b"3" in events for events in heard), "each hears all"
    for refused in ("lease.n2", "ask.n1.lease"):
        with pytest.raises(Forbidden):
            await agent.request(refused, b"")
    with pytest.raises(Forbidden):
        await two.request("ask.n1.exec", b"")
    assert [allowed.consumer("ha", name) for name in ("ha", "host", "ha-3", "ha-relay")] == ["ha", "ha", "ha-3", "ha"]


async def test_console_and_telemetry(cluster: Cluster) -> None:
    gateway, agent = await cluster.join("gateway", allowed.gateway()), await cluster.join("n1")
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Incoming) -> None:
        seen.put_nowait(message.subject)

    await gateway.serve("console.*.*.out", note)
    await gateway.serve("tel.>", note)
    await agent.serve("console.n1.*.in", note)
    await agent.publish("console.n1.session-1.out", b"login:")
    assert await asyncio.wait_for(seen.get(), 5) == "console.n1.session-1.out"
    await gateway.publish("console.n1.session-1.in", b"root")
    assert await asyncio.wait_for(seen.get(), 5) == "console.n1.session-1.in"
    await agent.publish("tel.n1.beat", b"")
    assert await asyncio.wait_for(seen.get(), 5) == "tel.n1.beat"


# --- a compromised agent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        "fact.n2.compute", "tel.n2.beat", "cmd.compute.vm-a", "order.n2", "order.n1", "ask.n2.exec", "ask.n1.exec",
        "query.compute.vms", "evt.vm.vm-a.vm_started", "console.n2.session-1.out", "console.n1.session-1.in",
        "_INBOX.compute.guessed", "_INBOX.n1.own", "$JS.API.INFO", "$JS.API.STREAM.CREATE.EVT", "$JS.API.STREAM.PURGE.EVT",
        "$JS.API.STREAM.DELETE.EVT", "$JS.API.CONSUMER.CREATE.EVT.n1", "$JS.API.CONSUMER.MSG.NEXT.EVT.compute",
        "$JS.API.DIRECT.GET.EVT", "$JS.ACK.EVT.compute.1.9.9.1.0", "$SYS.REQ.SERVER.PING", "anything",
    ],
)  # fmt: skip
async def test_an_agent_may_not_say(cluster: Cluster, subject: str) -> None:
    agent = await cluster.join("n1")
    with pytest.raises(Forbidden):
        await agent.request(subject, b"forged", timeout_s=5)


@pytest.mark.parametrize(
    "subject",
    [
        "order.n2", "order.*", "order.>", "ask.n2.>", "fact.>", "fact.n1.compute", "cmd.>", "evt.>", "tel.>", "query.>", ">",
        "_INBOX.>", "_INBOX.compute.>", "_INBOX.gateway.*", "console.>", "console.n2.*.in", "console.n1.*.out", "$JS.>",
        "$SYS.>",
    ],
)  # fmt: skip
async def test_an_agent_may_not_hear(cluster: Cluster, subject: str) -> None:
    agent = await cluster.join("n1")
    with pytest.raises(Forbidden):
        await agent.serve(subject, nothing_heard)


async def test_nothing_of_a_compromised_agent_arrives(cluster: Cluster) -> None:
    relay = await cluster.join("relay", allowed.relay())
    compute = await cluster.join("compute", allowed.service("compute"))
    agent = await cluster.join("n1")
    await relay.publish_events([Published("evt.vm.vm-a.vm_started", "2-1", b"true")])
    feed = await compute.feed("compute")
    await feed.fetch(10, 5.0)
    await feed.ack()
    await compute.serve("fact.n2.compute", nothing_heard)
    await compute.serve("cmd.compute.>", nothing_heard)
    for subject in ("fact.n2.compute", "cmd.compute.vm-a", "evt.vm.vm-a.vm_stopped"):
        await agent.publish(subject, b"forged")
    await agent.flush()
    await compute.serve("fact.n1.compute", echo)
    assert await agent.request("fact.n1.compute", b"own") == b"own"  # behind the forged ones on the same connection
    assert await feed.fetch(10, 0.1) == []
    with pytest.raises(BusError):
        await agent.publish_events([Published("evt.vm.vm-a.vm_stopped", "2-2", b"forged")])
    with pytest.raises(BusError):
        await agent.feed("n1")


async def test_an_agent_answers_once_and_only_what_it_was_asked(cluster: Cluster) -> None:
    compute, agent = await cluster.join("compute", allowed.service("compute")), await cluster.join("n1")
    asked: list[str] = []

    async def answer_twice(message: Incoming) -> None:
        assert isinstance(message, NatsIncoming)
        asked.append(message.reply.decode())
        await message.respond(b"first")
        await message.respond(b"second")

    await agent.serve("order.n1", answer_twice)
    before = agent.dropped
    assert await compute.request("order.n1", b"") == b"first"
    await agent.flush()
    assert agent.dropped == before + 1
    with pytest.raises(Forbidden):
        await agent.request(asked[0], b"later")


# --- strangers ------------------------------------------------------------------------------------------------------------


async def test_an_unknown_key_is_refused(cluster: Cluster) -> None:
    seed = new_seed("user")
    claims = {"iat": 0, "name": "n1", "sub": Key(seed).public, "nats": {"type": "user", "version": 2}}
    forged = Credentials.of("n1", encode_jwt(claims, Key(new_seed("account"))), seed)
    with pytest.raises(Forbidden, match="refuses n1"):
        await NatsBus.connect(cluster.server.url, forged)
    with pytest.raises(Forbidden):
        await NatsBus.connect(cluster.server.url, None, name="n1")


async def test_someone_elses_jwt_is_worth_nothing_without_its_seed(cluster: Cluster) -> None:
    jwt = cluster.credentials("relay", allowed.relay()).jwt_bytes().decode()
    with pytest.raises(Forbidden):
        await NatsBus.connect(cluster.server.url, Credentials.of("relay", jwt, new_seed("user")))


async def test_an_expired_jwt_is_refused(cluster: Cluster) -> None:
    seed = new_seed("user")
    hours_ago = SystemClock().now_us() - 5 * HOUR_S * 1_000_000
    jwt = cluster.identity.issue_node("n1", Key(seed).public, now_us=hours_ago, expires_s=HOUR_S)
    with pytest.raises(Forbidden):
        await NatsBus.connect(cluster.server.url, Credentials.of("n1", jwt, seed))


async def test_the_node_signer_makes_agents_only(cluster: Cluster) -> None:
    """Who steals the gateway's key can add permissions to a JWT; the server does not take such a one."""
    path, account = cluster.identity.node_signer()
    seed = new_seed("user")
    claims = {
        "iat": 0, "name": "relay", "sub": Key(seed).public,
        "nats": {"type": "user", "version": 2, "issuer_account": account, "pub": {"allow": [">"]}, "sub": {"allow": [">"]}},
    }  # fmt: skip
    with pytest.raises(Forbidden):
        await NatsBus.connect(cluster.server.url, Credentials.of("relay", encode_jwt(claims, key_from(path)), seed))
    jwt = NodeSigner.load(path, account).issue("n7", Key(seed).public, now_us=SystemClock().now_us())
    agent = await cluster.enter(Credentials.of("n7", jwt, seed))
    with pytest.raises(NoResponder):
        await agent.request("fact.n7.nobody", b"")
    with pytest.raises(Forbidden):
        await agent.request("evt.vm.vm-a.x", b"")


# --- services -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "subject", ["evt.vm.vm-a.vm_started", "$JS.API.STREAM.DELETE.EVT", "$JS.API.STREAM.PURGE.EVT", "fact.n1.compute",
                "$JS.API.CONSUMER.DELETE.EVT.gateway", "ask.n1.screenshot", "tel.n1.beat"],
)  # fmt: skip
async def test_a_service_may_not_say(cluster: Cluster, name: str, subject: str) -> None:
    service = await cluster.join(name, allowed.service(name))
    with pytest.raises(Forbidden):
        await service.request(subject, b"", timeout_s=5)


async def test_io_alone_of_the_services_asks_guests_and_for_no_console(cluster: Cluster) -> None:
    """Those of recovery drills."""
    agent = await cluster.join("n1")
    await agent.serve("ask.n1.>", echo)
    for name in SERVICES:
        service = await cluster.join(name, allowed.service(name))
        for subject in ("ask.n1.exec", "ask.n1.info", "ask.n1.console"):
            if name == "io" and subject != "ask.n1.console":
                assert await service.request(subject, b"x") == b"x"
            else:
                with pytest.raises(Forbidden):
                    await service.request(subject, b"", timeout_s=5)


async def test_a_service_may_not_publish_events_nor_hear_another(cluster: Cluster) -> None:
    io = await cluster.join("io", allowed.service("io"))
    with pytest.raises(Forbidden, match="only the relay"):
        await io.publish_events([Published("evt.vm.vm-a.vm_started", "3-1", b"")])
    for subject in ("cmd.compute.>", "fact.*.compute", "evt.>", "_INBOX.gateway.>", "order.>"):
        with pytest.raises(Forbidden):
            await io.serve(subject, nothing_heard)
    with pytest.raises(BusError):
        await io.feed("compute")


async def test_the_gateway_may_not(cluster: Cluster) -> None:
    gateway = await cluster.join("gateway", allowed.gateway())
    for subject in ("evt.vm.vm-a.x", "fact.n1.compute", "order.n1", "$JS.API.STREAM.PURGE.EVT"):
        with pytest.raises(Forbidden):
            await gateway.request(subject, b"", timeout_s=5)
    with pytest.raises(Forbidden):
        await gateway.serve("cmd.>", nothing_heard)


async def test_the_memory_bus_holds_to_the_same_table() -> None:
    hub = Hub()
    agent = MemoryBus(hub, name="n1", grant=allowed.node("n1"))
    io = MemoryBus(hub, name="io", grant=allowed.service("io"))
    for subject in ("fact.n2.compute", "cmd.compute.vm-a", "evt.vm.vm-a.x", "order.n2"):
        with pytest.raises(Forbidden):
            await agent.request(subject, b"")
    for subject in ("order.n2", "order.*", ">", "_INBOX.>", "evt.>"):
        with pytest.raises(Forbidden):
            await agent.serve(subject, echo)
    with pytest.raises(Forbidden):
        await agent.feed("n1")
    with pytest.raises(Forbidden):
        await io.publish_events([Published("evt.vm.vm-a.x", "1-1", b"")])
    await io.serve("fact.*.io", echo)
    assert await agent.request("fact.n1.io", b"own") == b"own"
