"""Who may say and hear what, tried against a real server: a compromised agent, a stranger, a service that oversteps."""

from __future__ import annotations

import asyncio
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libs.common.bus import BusError, Disconnected, Forbidden, Incoming, NoResponder, Published
from libs.common.bus import permissions as allowed
from libs.common.bus.credentials import BadCredentials, Credentials, Key, key_from, new_seed, own_key, read_jwt
from libs.common.bus.handling import NatsIncoming
from libs.common.bus.identity import ClusterIdentity, NodeSigner, ServerTls, encode_jwt, server_config
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.bus.nats import NatsBus
from libs.common.bus.permissions import Grant, matches
from libs.common.clock import SystemClock
from tests.servers import NatsServer

HOUR_S = 3600
SERVICES = ("compute", "memory", "io")


class Cluster:
    """A server with operator mode on, and a client for each identity asked for."""

    def __init__(self, identity: ClusterIdentity, server: NatsServer) -> None:
        self.identity = identity
        self.server = server
        self.made: list[NatsBus] = []

    def credentials(self, name: str, grant: Grant | None = None, expires_s: int = HOUR_S) -> Credentials:
        """A control-plane identity with a grant, a node's without."""
        seed, now_us = new_seed("user"), SystemClock().now_us()
        public = Key(seed).public
        if grant is None:
            jwt = self.identity.issue_node(name, public, now_us=now_us, expires_s=expires_s)
        else:
            jwt = self.identity.issue_user(name, public, grant, now_us=now_us, expires_s=expires_s)
        return Credentials.of(name, jwt, seed)

    async def join(self, name: str, grant: Grant | None = None, expires_s: int = HOUR_S) -> NatsBus:
        return await self.enter(self.credentials(name, grant, expires_s))

    async def enter(self, credentials: Credentials) -> NatsBus:
        bus = await NatsBus.connect(self.server.url, credentials)
        self.made.append(bus)
        return bus


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


async def echo(message: Incoming) -> None:
    await message.respond(message.data)


async def nothing_heard(message: Incoming) -> None:
    raise AssertionError(f"{message.subject} should not have come through")


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


async def test_a_revoked_agent_is_thrown_out_and_a_renewed_one_comes_back(tmp_path: Path) -> None:
    identity = ClusterIdentity.create(tmp_path / "identity", SystemClock().now_us())
    with NatsServer(identity.server_config()) as server:
        cluster = Cluster(identity, server)
        seed = new_seed("user")
        public = Key(seed).public
        # Issued in the past: a revocation voids what was issued up to its own second.
        issued_us = SystemClock().now_us() - 60_000_000
        jwt = [identity.issue_node("n1", public, now_us=issued_us)]
        agent = await NatsBus.connect(server.url, Credentials("n1", lambda: jwt[0], lambda: Key(seed)))
        compute = await cluster.join("compute", allowed.service("compute"))
        await agent.serve("order.n1", echo)
        assert await compute.request("order.n1", b"1") == b"1"
        identity.revoke(public, SystemClock().now_us() - 30_000_000)
        (server.folder / "nats.conf").write_text(
            (server.folder / "nats.conf").read_text().replace(_account(server), identity.account_jwt)
        )
        import os

        os.kill(server.pid, signal.SIGHUP)
        await _until(lambda: not agent._link.client.is_connected)
        with pytest.raises(Disconnected):
            await agent.request("fact.n1.compute", b"", timeout_s=0.5)
        jwt[0] = identity.issue_node("n1", public, now_us=SystemClock().now_us())
        await agent._link.await_up(20)
        with pytest.raises(NoResponder):  # the server takes what it is told in order: it knows again what the agent serves
            await agent.request("fact.n1.compute", b"")
        assert await compute.request("order.n1", b"2") == b"2"
        await agent.drain()
        await compute.drain()


def _account(server: NatsServer) -> str:
    lines = (server.folder / "nats.conf").read_text().splitlines()
    preload = [line.split(": ", 1)[1] for line in lines if line.startswith("  A")]
    return next(jwt for jwt in preload if read_jwt(jwt).name == "ASV")


async def _until(true: object, timeout_s: float = 10.0) -> None:
    assert callable(true)
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


# --- services -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "subject", ["evt.vm.vm-a.vm_started", "$JS.API.STREAM.DELETE.EVT", "$JS.API.STREAM.PURGE.EVT", "fact.n1.compute",
                "$JS.API.CONSUMER.DELETE.EVT.gateway", "ask.n1.exec", "tel.n1.beat"],
)  # fmt: skip
async def test_a_service_may_not_say(cluster: Cluster, name: str, subject: str) -> None:
    service = await cluster.join(name, allowed.service(name))
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


# --- files and configuration ----------------------------------------------------------------------------------------------


def test_keys_are_private_files_and_made_once(tmp_path: Path) -> None:
    first = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    again = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    assert first.accounts == again.accounts
    for path in (tmp_path / "identity").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own = own_key(tmp_path / "agent" / "n1.seed")
    assert own.public == own_key(tmp_path / "agent" / "n1.seed").public
    (tmp_path / "agent" / "n1.seed").chmod(0o644)
    with pytest.raises(BadCredentials, match="0600"):
        own_key(tmp_path / "agent" / "n1.seed")


def test_credentials_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match=r"n1\.jwt"):
        Credentials.load(tmp_path, "n1")
    (tmp_path / "n1.jwt").write_text("a.b.c")
    (tmp_path / "n1.seed").write_text("nonsense")
    (tmp_path / "n1.seed").chmod(0o600)
    with pytest.raises(BadCredentials, match="SO, SA or SU"):
        Credentials.load(tmp_path, "n1")
    with pytest.raises(BadCredentials):
        read_jwt("a.b.c")
    identity = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    with pytest.raises(ValueError, match="begin with U"):
        identity.issue_node("n1", "no key", now_us=0)


def test_no_seed_is_in_the_servers_configuration(tmp_path: Path) -> None:
    identity = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    tls = ServerTls(Path("/c.pem"), Path("/k.pem"), Path("/ca.pem"))
    text = server_config(identity, port=4321, store=Path("/a folder/js"), tls=tls)
    for path in (tmp_path / "identity").glob("*.seed"):
        assert path.read_text().strip() not in text
    assert 'host: "127.0.0.1"' in text
    assert 'store_dir: "/a folder/js"' in text
    assert "verify: true" in text
    assert "tls" not in server_config(identity)


def test_who_an_identity_is_can_be_read_from_its_jwt(tmp_path: Path) -> None:
    identity = ClusterIdentity.create(tmp_path / "identity", 1_700_000_000_000_000)
    public = Key(new_seed("user")).public
    jwt = identity.issue_node("n1", public, now_us=1_700_000_000_000_000, expires_s=60)
    assert (read_jwt(jwt).name, read_jwt(jwt).public_key, read_jwt(jwt).expires_s) == ("n1", public, 1_700_000_060)


@pytest.mark.parametrize(
    ("pattern", "subject", "result"),
    [
        ("a.b", "a.b", True), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.>", "a.b.c", True), ("a.>", "a", False),
        (">", "a.b", True), ("a.*", "a.>", False), ("a.>", "a.*", True), ("a.*", "a.*", True), ("a.b", "a.*", False),
        ("a.*.c", "a.b.c", True), ("a.*.c", "a.b.d", False), ("a.b.c", "a.b", False),
    ],
)  # fmt: skip
def test_matching(pattern: str, subject: str, result: bool) -> None:
    assert matches(pattern, subject) is result
