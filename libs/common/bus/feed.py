"""The stream EVT and its readers: durable pull consumers, acknowledged by their last message (AckPolicy all).

Pulls overlap, so that messages are on their way while the earlier ones are being dealt with; what is on its way is bounded by
the pulls. After a lost connection, or when the server says that the consumer is gone, the reader opens it again behind what was
acknowledged: nothing unacknowledged is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol

import msgspec
from nats.aio.subscription import Subscription

from libs.common.bus import BusError, NoResponder
from libs.common.bus.connection import Connection
from libs.common.bus.permissions import EVENTS, STREAM, live_names
from libs.common.bus.wire import WireClient, parse_headers, status_of

PULL_MAX = 500
"""messages asked for by one pull; two pulls are open at most"""
PULL_S = 30.0
ACK_S_MAX = 60.0
"""after this time the server gives again what was fetched and not acknowledged"""
API_S_MAX = 5.0
STREAM_S_MAX = 10.0
STREAM_POLL_S = 0.1
LIVE_S_MAX = 300
"""for how long the server keeps the place of a reader without a durable name that is away"""
IDLE_S_MAX = 60.0
"""a reader without a durable name that fetched nothing for so long loses its place when another wants one"""
_S = 1_000_000_000
_NOT_FOUND = (10014, 10059)


class StreamLimits(msgspec.Struct, frozen=True):
    """What the server keeps of the published events: it may lose all, the log is the truth. Ids are remembered for window_s."""

    bytes_max: int = 1024 * 1024 * 1024
    age_s_max: int = 24 * 3600
    window_s: int = 120
    replicas: int = 1


class ApiError(BusError):
    """JetStream said no; `code` is its err_code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"JetStream: {description} ({code})")
        self.code = code


class Request(Protocol):
    def __call__(self, subject: str, data: bytes, *, timeout_s: float = ...) -> Awaitable[bytes]: ...


class EventStream:
    """Makes the stream (relay) and opens readers."""

    def __init__(self, request: Request, limits: StreamLimits) -> None:
        self.request = request
        self._limits = limits
        self._feeds: set[NatsFeed] = set()

    async def ensure(self) -> int:
        """The stream is there, with these limits; returns its last sequence number."""
        config = {
            "name": STREAM, "subjects": [EVENTS], "retention": "limits", "storage": "file", "discard": "old",
            "max_age": self._limits.age_s_max * _S, "max_bytes": self._limits.bytes_max,
            "duplicate_window": self._limits.window_s * _S, "num_replicas": self._limits.replicas,
            "max_consumers": -1, "max_msgs": -1, "max_msg_size": -1, "max_msgs_per_subject": -1,
        }  # fmt: skip
        try:
            found = await self.api(f"STREAM.INFO.{STREAM}", {})
        except ApiError as error:
            if error.code not in _NOT_FOUND:
                raise
            found = await self.api(f"STREAM.CREATE.{STREAM}", config)
        if any(
            found["config"].get(key) != config[key]
            for key in ("max_age", "max_bytes", "duplicate_window", "num_replicas")
        ):
            found = await self.api(f"STREAM.UPDATE.{STREAM}", config)
        return int(found["state"]["last_seq"])

    async def api(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises ApiError, and what a request raises."""
        data = msgspec.json.encode(body) if body else b""
        answer = msgspec.json.decode(await self.request(f"$JS.API.{what}", data, timeout_s=API_S_MAX))
        problem = answer.get("error")
        if problem:
            raise ApiError(int(problem.get("err_code", 0)), str(problem.get("description", "")))
        return dict(answer)

    async def feed(self, link: Connection, durable: str, subject: str, new_only: bool) -> NatsFeed:
        """Raises BusError when the stream was not made within STREAM_S_MAX."""
        consumer = durable or await self._free_name(live_names(link.name))
        feed = NatsFeed(self, link, consumer, subject, new_only=new_only, durable=bool(durable))
        await feed.open()
        self._feeds.add(feed)
        return feed

    async def _free_name(self, names: tuple[str, ...]) -> str:
        """One that no open feed has. A feed that nobody has fetched from for long was let go without `close`."""
        taken = {feed.consumer: feed for feed in self._feeds}
        free = next((name for name in names if name not in taken), "")
        if free:
            return free
        oldest = min((taken[name] for name in names), key=lambda feed: feed.used_s)
        if asyncio.get_running_loop().time() - oldest.used_s < IDLE_S_MAX:
            raise BusError(f"{len(names)} feeds without a durable name are open, that is the most")
        await oldest.close()
        return oldest.consumer

    def forget(self, feed: NatsFeed) -> None:
        self._feeds.discard(feed)

    def reconnected(self) -> None:
        for feed in self._feeds:
            feed.reconnected()


class NatsFeed:
    """A reader; see Feed."""

    def __init__(
        self, stream: EventStream, link: Connection, consumer: str, subject: str, *, new_only: bool, durable: bool
    ) -> None:
        self.consumer = consumer
        self.used_s = asyncio.get_running_loop().time()
        self._stream = stream
        self._link = link
        self._subject = subject
        self._new_only = new_only
        self._durable = durable
        self._client: WireClient | None = None
        self._sub: Subscription | None = None
        self._inbox = ""
        self._heard: deque[tuple[bytes, bytes]] = deque()
        self._more = asyncio.Event()
        self._asked = 0
        self._opens = 0
        self._lost = True
        self._fetched = ""
        self._acked = ""
        self._seq_acked = 0
        self._pull = msgspec.json.encode({"batch": PULL_MAX, "expires": int(PULL_S * _S)})

    async def open(self) -> None:
        """(Re)makes the consumer behind what was acknowledged."""
        async with asyncio.timeout(STREAM_S_MAX):
            while not await self._make():  # noqa: ASYNC110  the relay, another process, makes the stream
                await asyncio.sleep(STREAM_POLL_S)
        self._opens += 1
        client = self._link.client
        if self._sub is not None:
            with contextlib.suppress(Exception):  # of a connection that is gone
                await self._sub.unsubscribe()
        self._heard.clear()
        self._asked, self._fetched, self._client = 0, "", client
        self._inbox = f"{self._link.prefix}.f.{self.consumer}.{self._opens}"
        self._sub = await client.receive(self._inbox, self._on)
        self._lost = False

    async def _make(self) -> bool:
        """False when there is no stream yet."""
        start: dict[str, Any] = {"deliver_policy": "new" if self._new_only else "all"}
        try:
            info = await self._stream.api(f"CONSUMER.INFO.{STREAM}.{self.consumer}", {})
            floor = int(info["ack_floor"]["stream_seq"])
            if self._durable or self._seq_acked:
                start = {"deliver_policy": "by_start_sequence", "opt_start_seq": max(floor, self._seq_acked) + 1}
            await self._stream.api(f"CONSUMER.DELETE.{STREAM}.{self.consumer}", {})
        except ApiError as error:
            if error.code not in _NOT_FOUND:
                raise
        except NoResponder:
            return False
        config = {
            "name": self.consumer, "filter_subject": self._subject, "ack_policy": "all", "ack_wait": int(ACK_S_MAX * _S),
            "max_ack_pending": 4 * PULL_MAX, "max_waiting": 16, "replay_policy": "instant", **start,
        }  # fmt: skip
        config |= {"durable_name": self.consumer} if self._durable else {"inactive_threshold": LIVE_S_MAX * _S}
        try:
            await self._stream.api(
                f"CONSUMER.CREATE.{STREAM}.{self.consumer}", {"stream_name": STREAM, "config": config}
            )
        except ApiError as error:
            if error.code not in _NOT_FOUND:
                raise
            return False
        return True

    def reconnected(self) -> None:
        self._lost = True
        self._more.set()

    async def fetch(self, max_messages: int, timeout_s: float) -> list[bytes]:
        """Raises Disconnected, BusError."""
        heard = self._heard
        self.used_s = asyncio.get_running_loop().time() + timeout_s
        if not heard or self._lost:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._await_some()
            except TimeoutError:
                return []
        taken = [heard.popleft() for _ in range(min(len(heard), max_messages))]
        self._fetched = taken[-1][0].decode()
        await self._ask()
        return [data for _, data in taken]

    async def _await_some(self) -> None:
        while True:
            if self._lost:
                await self._link.await_up(STREAM_S_MAX)
                await self.open()
            if self._heard:
                return
            self._more.clear()
            await self._ask()
            try:
                await asyncio.wait_for(self._more.wait(), PULL_S + 5)
            except TimeoutError:
                self._lost = True  # not even the end of the pull was heard

    async def _ask(self) -> None:
        while self._asked + len(self._heard) <= PULL_MAX and self._client is not None and not self._lost:
            self._asked += PULL_MAX
            await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self.consumer}", self._pull, self._inbox)

    def _on(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        status = status_of(headers)
        if not status and headers is not None and b"\nNats-Msg-Id:" in headers:
            # All that the relay publishes has an id: nothing else counts as an event.
            self._heard.append((reply, data))
            self._asked -= 1
        elif status in {"404", "408"}:
            self._asked = max(0, self._asked - int(parse_headers(headers).get("Nats-Pending-Messages", PULL_MAX)))
        elif status in {"409", "503"}:
            self._lost = True
        self._more.set()

    async def ack(self) -> None:
        reply, self._fetched = self._fetched, ""
        if reply and self._client is not None and self._client.is_connected and not self._lost:
            self._seq_acked = int(reply.split(".")[5])
            self._acked = reply
            await self._client.publish(reply, b"+ACK")

    async def close(self) -> None:
        self._stream.forget(self)
        if self._sub is not None and self._link.client.is_connected:
            with contextlib.suppress(Exception):  # the connection may be gone by now
                await self._sub.unsubscribe()
            with contextlib.suppress(BusError):
                if (
                    self._durable and self._acked and not self._lost
                ):  # an answered one, so that the next reader starts behind it
                    await self._stream.request(self._acked, b"+ACK", timeout_s=API_S_MAX)
                elif not self._durable:
                    await self._stream.api(f"CONSUMER.DELETE.{STREAM}.{self.consumer}", {})
