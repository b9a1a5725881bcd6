"""What every bus does: the NATS bus against a real server, and its in-memory twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from libs.common.bus import Bus, BusError, BusTimeout, Disconnected, Incoming, NoResponder, Published
from libs.common.bus.feed import IDLE_S_MAX, NatsFeed, StreamLimits
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.bus.nats import NatsBus
from libs.common.bus.permissions import LIVE_FEEDS_MAX
from tests.servers import NatsServer

type Join = Callable[[str], Awaitable[Bus]]


@pytest.fixture
def server() -> Iterator[NatsServer]:
    """Of each test: where a stream is deleted and made anew at once, the server may find what a reader of the former one left."""
    with NatsServer() as one:
        yield one


@pytest.fixture(params=["memory", "nats"])
async def join(request: pytest.FixtureRequest) -> AsyncIterator[Join]:
    """Makes clients that hear each other; each test starts with an empty stream."""
    made: list[Bus] = []
    if request.param == "memory":
        hub = Hub()

        async def enter(name: str) -> Bus:
            bus = MemoryBus(hub, name=name)
            made.append(bus)
            return bus
    else:
        url = request.getfixturevalue("server").url

        async def enter(name: str) -> Bus:
            bus = await NatsBus.connect(url, name=name)
            made.append(bus)
            return bus

    yield enter
    for bus in made:
        await bus.drain()


def event(n: int, stream: str = "vm-a") -> Published:
    return Published(subject=f"evt.vm.{stream}.vm_started", id=f"1-{n}", data=b"%d" % n)


async def echo(message: Incoming) -> None:
    await message.respond(b"heard " + message.data)


# --- request and reply ----------------------------------------------------------------------------------------------------


async def test_a_request_is_answered_by_who_serves_it(join: Join) -> None:
    asker, server = await join("asker"), await join("server")
    await server.serve("cmd.compute.>", echo)
    assert await asker.request("cmd.compute.vm-a", b"x") == b"heard x"


async def test_nobody_serves_is_said_at_once(join: Join) -> None:
    asker = await join("asker")
    with pytest.raises(NoResponder, match=r"cmd\.nobody\.x"):
        await asker.request("cmd.nobody.x", b"", timeout_s=30)


async def test_no_answer_in_time(join: Join) -> None:
    asker, server = await join("asker"), await join("server")

    async def silent(message: Incoming) -> None:
        return None

    await server.serve("order.n1", silent)
    with pytest.raises(BusTimeout):
        await asker.request("order.n1", b"", timeout_s=0.05)


async def test_a_failing_handler_answers_nothing_and_harms_no_other(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    asker, server = await join("asker"), await join("server")

    async def fails_on_demand(message: Incoming) -> None:
        if message.data == b"fail":
            raise ValueError("on demand")
        await message.respond(b"fine")

    await server.serve("query.io.images", fails_on_demand)
    with pytest.raises(BusTimeout):
        await asker.request("query.io.images", b"fail", timeout_s=0.05)
    assert await asker.request("query.io.images", b"") == b"fine"
    assert "on demand" in caplog.text


async def test_headers_travel(join: Join) -> None:
    asker, server = await join("asker"), await join("server")

    async def trace(message: Incoming) -> None:
        await message.respond(message.headers.get("traceparent", "none").encode())

    await server.serve("query.io.trace", trace)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert await asker.request("query.io.trace", b"", headers={"traceparent": parent}) == parent.encode()
    assert await asker.request("query.io.trace", b"") == b"none"


async def test_many_requests_at_once_each_get_their_own_answer(join: Join) -> None:
    asker, server = await join("asker"), await join("server")
    gate = asyncio.Event()

    async def held(message: Incoming) -> None:
        await gate.wait()
        await message.respond(message.data)

    await server.serve("cmd.compute.>", held)
    asked = [asyncio.ensure_future(asker.request(f"cmd.compute.vm-{i}", b"%d" % i)) for i in range(200)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asked) == [b"%d" % i for i in range(200)]


async def test_a_queue_group_shares_the_work(join: Join) -> None:
    asker, one, two = await join("asker"), await join("one"), await join("two")
    heard: list[str] = []
    for name, bus in (("one", one), ("two", two)):

        async def count(message: Incoming, name: str = name) -> None:
            heard.append(name)
            await message.respond(b"")

        await bus.serve("cmd.compute.>", count, queue="compute")
    await asyncio.gather(*(asker.request("cmd.compute.vm-a", b"") for _ in range(50)))
    assert len(heard) == 50
    assert set(heard) == {"one", "two"}


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("tel.*.beat", ["tel.n1.beat", "tel.n2.beat"]),
        ("tel.n1.>", ["tel.n1.beat", "tel.n1.cpu.busy"]),
        ("tel.n1.beat", ["tel.n1.beat"]),
    ],
)
async def test_wildcards(join: Join, pattern: str, heard: list[str]) -> None:
    talker, hearer = await join("talker"), await join("hearer")
    got: list[str] = []
    last = asyncio.Event()

    async def note(message: Incoming) -> None:
        got.append(message.subject)

    async def end(message: Incoming) -> None:
        last.set()

    await hearer.serve(pattern, note)
    await hearer.serve("end", end)
    for subject in ("tel.n1.beat", "tel.n1.cpu.busy", "tel.n2.beat", "tel.n1", "end"):
        await talker.publish(subject, b"")
    await asyncio.wait_for(last.wait(), 5)
    assert got == heard


async def test_an_answer_to_a_publish_goes_nowhere(join: Join) -> None:
    talker, hearer = await join("talker"), await join("hearer")
    answered = asyncio.Event()

    async def answer(message: Incoming) -> None:
        await message.respond(b"to nobody")
        answered.set()

    await hearer.serve("tel.n1.beat", answer)
    await talker.publish("tel.n1.beat", b"")
    await asyncio.wait_for(answered.wait(), 5)


async def test_drain_finishes_what_is_being_handled(join: Join) -> None:
    asker, server = await join("asker"), await join("server")
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(message: Incoming) -> None:
        begun.set()
        await gate.wait()
        await message.respond(b"done")

    await server.serve("cmd.io.>", slow)
    asked = asyncio.ensure_future(asker.request("cmd.io.image-a", b""))
    await begun.wait()
    draining = asyncio.ensure_future(server.drain())
    gate.set()
    assert await asked == b"done"
    await draining
    with pytest.raises(NoResponder):
        await asker.request("cmd.io.image-a", b"")
    with pytest.raises(Disconnected):
        await server.request("cmd.io.image-a", b"")


# --- the published log ----------------------------------------------------------------------------------------------------


async def test_published_events_come_in_order_and_once(join: Join) -> None:
    relay, reader = await join("relay"), await join("reader")
    await relay.publish_events([event(n) for n in range(1, 1001)])
    await relay.publish_events([event(n) for n in range(1001, 1501)])
    feed = await reader.feed("reader")
    got: list[bytes] = []
    while len(got) < 1500:
        part = await feed.fetch(400, 5.0)
        assert 0 < len(part) <= 400
        got += part
        await feed.ack()
    assert got == [b"%d" % n for n in range(1, 1501)]
    assert await feed.fetch(10, 0.05) == []


async def test_a_repeated_id_is_dropped(join: Join) -> None:
    relay, reader = await join("relay"), await join("reader")
    await relay.publish_events([event(1), event(2), event(3)])
    await relay.publish_events([event(2), event(3), event(4)])
    await relay.publish_events([event(3)])
    await relay.publish_events([event(5)])
    feed = await reader.feed("reader")
    assert await _all(feed.fetch, 5) == [b"1", b"2", b"3", b"4", b"5"]


async def test_what_was_not_acknowledged_is_given_again(join: Join) -> None:
    relay, reader = await join("relay"), await join("reader")
    await relay.publish_events([event(n) for n in range(1, 11)])
    feed = await reader.feed("reader")
    assert await _all(lambda m, t: feed.fetch(min(m, 4), t), 4) == [b"1", b"2", b"3", b"4"]
    await feed.ack()
    assert await _all(feed.fetch, 6) == [b"%d" % n for n in range(5, 11)]
    await feed.close()
    again = await reader.feed("reader")
    assert await _all(again.fetch, 6) == [b"%d" % n for n in range(5, 11)]
    await again.ack()
    await again.close()
    other = await join("reader-after-a-restart")
    later = await other.feed("reader")
    await relay.publish_events([event(11)])
    assert await _all(later.fetch, 1) == [b"11"]


async def test_a_filter_and_new_only(join: Join) -> None:
    relay, reader = await join("relay"), await join("reader")
    await relay.publish_events([event(1)])
    feed = await reader.feed("", subject="evt.*.vm-b.>", new_only=True)
    live = await reader.feed("", new_only=True)
    await relay.publish_events([event(2), event(3, "vm-b"), event(4)])
    assert await _all(feed.fetch, 1) == [b"3"]
    assert await _all(live.fetch, 3) == [b"2", b"3", b"4"]
    await feed.close()
    await live.close()


async def test_readers_do_not_disturb_each_other(join: Join) -> None:
    relay, reader = await join("relay"), await join("reader")
    await relay.publish_events([event(1), event(2)])
    one, two = await reader.feed("one"), await reader.feed("two")
    assert await _all(one.fetch, 2) == [b"1", b"2"]
    await one.ack()
    assert await _all(two.fetch, 2) == [b"1", b"2"]


async def test_a_waiting_fetch_wakes_up(join: Join) -> None:
    relay, reader = await join("relay"), await join("reader")
    await relay.publish_events([event(1)])
    feed = await reader.feed("reader")
    assert await feed.fetch(10, 5.0) == [b"1"]
    waiting = asyncio.ensure_future(feed.fetch(10, 30.0))
    await asyncio.sleep(0)
    await relay.publish_events([event(2)])
    assert await asyncio.wait_for(waiting, 5) == [b"2"]


async def _all(fetch: Callable[[int, float], Awaitable[list[bytes]]], count: int) -> list[bytes]:
    got: list[bytes] = []
    while len(got) < count:
        part = await fetch(count - len(got), 5.0)
        assert part, f"only {got} of {count} came"
        got += part
    return got


# --- NATS alone: the server goes away, and bounds -------------------------------------------------------------------------


async def test_the_server_is_killed_and_comes_back() -> None:
    with NatsServer() as server:
        relay = await NatsBus.connect(server.url, name="relay")
        other = await NatsBus.connect(server.url, name="other")
        await other.serve("cmd.compute.>", echo)
        await relay.publish_events([event(1)])
        feed = await other.feed("other")
        assert await feed.fetch(10, 5.0) == [b"1"]
        await feed.ack()
        await other.flush()
        server.kill()
        with pytest.raises(Disconnected):
            await relay.request("cmd.compute.vm-a", b"", timeout_s=0.2)
        await other.publish("tel.n1.beat", b"")  # lost, not raised
        server.start()
        assert await other.request("cmd.compute.vm-a", b"x", timeout_s=10) == b"heard x"  # so it is back itself
        assert await relay.request("cmd.compute.vm-a", b"x", timeout_s=10) == b"heard x"
        await relay.publish_events([event(2)])
        assert await _all(feed.fetch, 1) == [b"2"]
        await relay.drain()
        await other.drain()


async def test_a_server_that_lost_its_stream_gets_it_again() -> None:
    with NatsServer() as server:
        relay = await NatsBus.connect(server.url, name="relay")
        other = await NatsBus.connect(server.url, name="other")
        await relay.publish_events([event(1)])
        feed = await other.feed("other")
        assert await _all(feed.fetch, 1) == [b"1"]
        await feed.ack()
        await other.flush()
        await relay.request("$JS.API.STREAM.DELETE.EVT", b"")
        with pytest.raises(BusError):
            await relay.publish_events([event(2)])
        await relay.publish_events([event(2), event(3)])
        assert await _all(feed.fetch, 2) == [b"2", b"3"]
        await relay.drain()
        await other.drain()


async def test_the_stream_is_bounded() -> None:
    with NatsServer() as server:
        relay = await NatsBus.connect(server.url, name="relay", limits=StreamLimits(bytes_max=64 * 1024))
        other = await NatsBus.connect(server.url, name="other")
        await relay.publish_events([Published("evt.vm.vm-a.x", f"1-{n}", b"." * 1024) for n in range(200)])
        feed = await other.feed("other")
        assert 0 < len(await feed.fetch(500, 5.0)) < 64
        await relay.drain()
        await other.drain()


async def test_feeds_without_a_durable_name_are_few_and_given_back(server: NatsServer) -> None:
    relay, reader = await NatsBus.connect(server.url, name="relay"), await NatsBus.connect(server.url, name="reader")
    await relay.publish_events([])
    feeds = [await reader.feed("") for _ in range(LIVE_FEEDS_MAX)]
    with pytest.raises(BusError, match="the most"):
        await reader.feed("")
    await feeds.pop().close()
    again = await reader.feed("")
    assert isinstance(again, NatsFeed)
    again.used_s -= 2 * IDLE_S_MAX  # let go without close, a while ago
    await reader.feed("")
    await relay.drain()
    await reader.drain()


async def test_a_message_that_is_too_large_is_said_so(server: NatsServer) -> None:
    bus = await NatsBus.connect(server.url, name="talker")
    with pytest.raises(BusError, match="at most"):
        await bus.request("cmd.compute.vm-a", b"." * (64 * 1024 * 1024))
    with pytest.raises(BusError, match="no subject"):
        await bus.request("cmd compute", b"")
    await bus.drain()


async def test_no_server_at_all() -> None:
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1"):
        await NatsBus.connect("nats://127.0.0.1:1", name="lonely", wait_s_max=0.3)


async def test_only_inboxes_are_answered(server: NatsServer) -> None:
    """A reply subject is the asker's choice: it must not turn the answering side into a publisher of, say, events."""
    service, hearer = (
        await NatsBus.connect(server.url, name="service"),
        await NatsBus.connect(server.url, name="hearer"),
    )
    asker = await NatsBus.connect(server.url, name="asker")
    heard: list[str] = []

    async def note(message: Incoming) -> None:
        heard.append(message.subject)

    await hearer.serve("evil.>", note)
    await service.serve("fact.n1.compute", echo)
    await asker._link.client.publish("fact.n1.compute", b"x", reply="evil.subject")
    assert await asker.request("fact.n1.compute", b"y") == b"heard y"  # so the first was dealt with
    await service.flush()
    await hearer.flush()
    assert heard == []
    for bus in (service, hearer, asker):
        await bus.drain()
