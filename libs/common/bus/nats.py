"""The NATS bus: nats-py directly, with as little work per message as it allows.

One inbox subscription carries all answers (`<prefix>.r.<number>`), another the stream's acknowledgements. A lost server is
waited for without end; what was under way then fails as Disconnected after the caller's own time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import Sequence
from typing import Self

from nats import errors

from libs.common.bus import BusError, BusTimeout, Disconnected, Feed, Forbidden, Handler, NoResponder, Published
from libs.common.bus.connection import Connection, Hooks
from libs.common.bus.credentials import Credentials
from libs.common.bus.feed import EventStream, StreamLimits
from libs.common.bus.handling import HANDLING_MAX, Served
from libs.common.bus.permissions import inbox
from libs.common.bus.publisher import Publisher
from libs.common.bus.wire import WireClient, status_of

_log = logging.getLogger(__name__)

CONNECT_S_MAX = 10.0
DRAIN_S_MAX = 20.0
DENIED_MAX = 256


class NatsBus:
    """Make one with `connect`. `name` is the identity's name; its inbox prefix follows from it."""

    def __init__(self, link: Connection, limits: StreamLimits, handling_max: int) -> None:
        self.name = link.name
        self._dropped = 0
        self._link = link
        self._served: list[Served] = []
        self._waiting: dict[int, tuple[asyncio.Future[bytes], str]] = {}
        self._denied: dict[str, None] = {}
        self._next = 0
        self._answers = ""
        self._handling_max = handling_max
        self._loop = asyncio.get_running_loop()
        self._events = EventStream(self.request, limits)
        self._publisher = Publisher(self._events.ensure)
        link.hooks = Hooks(self._opened, self._lost, self._events.reconnected, self._troubled)

    @classmethod
    async def connect(
        cls,
        url: str | Sequence[str],
        credentials: Credentials | None = None,
        *,
        name: str = "",
        inbox_prefix: str = "",
        tls: ssl.SSLContext | None = None,
        limits: StreamLimits | None = None,
        handling_max: int = HANDLING_MAX,
        wait_s_max: float = CONNECT_S_MAX,
    ) -> Self:
        """Raises Forbidden when the server refuses the credentials, Disconnected when none was reached in wait_s_max.

        inbox_prefix  `_INBOX.<name>` where nothing else is said; must be one that the identity may hear
        limits        bounds of the stream EVT; used by the relay, which makes it
        """
        name = name or (credentials.name if credentials else "") or f"anonymous-{secrets.token_hex(4)}"
        urls = [url] if isinstance(url, str) else list(url)
        link = Connection(urls, credentials, name, inbox_prefix or inbox(name), tls)
        bus = cls(link, limits or StreamLimits(), handling_max)
        try:
            async with asyncio.timeout(wait_s_max):
                await link.dial()
        except TimeoutError:
            where = ", ".join(urls)
            raise Disconnected(f"no NATS server let us in at {where} within {wait_s_max} s: {link.trouble}") from None
        return bus

    @property
    def dropped(self) -> int:
        """Messages lost to a full buffer, a lost connection or a missing permission."""
        return self._dropped + sum(served.dropped for served in self._served)

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float = 5.0, headers: dict[str, str] | None = None
    ) -> bytes:
        if not self._link.ready:
            await self._link.await_up(timeout_s)
        self._next += 1
        token = self._next
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[token] = (answer, subject)
        timer = self._loop.call_later(timeout_s, self._expire, token, timeout_s)
        try:
            await self._send(subject, data, f"{self._answers}{token}", headers)
            return await answer
        finally:
            timer.cancel()
            self._waiting.pop(token, None)

    async def serve(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        """Raises Forbidden."""
        if not self._link.ready:
            await self._link.await_up(CONNECT_S_MAX)
        served = Served(subject, handler, queue, self._handling_max)
        self._denied.pop(subject.lower(), None)
        await served.open(self._link.client)
        await self.flush()  # the server's refusal, if any, comes before its pong
        if subject.lower() in self._denied:
            raise Forbidden(f"{self.name} may not hear {subject}")
        self._served.append(served)

    async def publish(self, subject: str, data: bytes) -> None:
        """While the server is away the message is dropped and counted."""
        if not self._link.ready:
            self._dropped += 1
            return
        await self._send(subject, data, "", None)

    async def publish_events(self, events: Sequence[Published]) -> None:
        """Raises Forbidden for everyone but the relay, Disconnected, BusTimeout, BusError: then ask again with the same ones."""
        if not self._link.ready:
            await self._link.await_up(CONNECT_S_MAX)
        try:
            await self._publisher.publish(events)
        except Forbidden as error:
            raise Forbidden(f"{self.name} may not publish events: only the relay may ({error})") from error

    async def feed(self, durable: str, *, subject: str = "evt.>", new_only: bool = False) -> Feed:
        """Waits for the stream to be made by the relay, at most CONNECT_S_MAX."""
        if not self._link.ready:
            await self._link.await_up(CONNECT_S_MAX)
        return await self._events.feed(self._link, durable, subject, new_only)

    async def flush(self) -> None:
        """Returns when the server has taken all that was sent. Raises Disconnected."""
        try:
            await self._link.client.flush()  # nats-py's ping overtakes what waits for its flusher, which runs meanwhile
            await self._link.client.flush()
        except (errors.Error, TimeoutError, OSError) as error:
            raise Disconnected(f"the NATS server went away: {error}") from error

    async def drain(self) -> None:
        await asyncio.gather(*(one.quiet(DRAIN_S_MAX) for one in self._served), return_exceptions=True)
        if self._link.client.is_connected:
            with contextlib.suppress(errors.Error, TimeoutError, OSError):
                await self._link.client.flush()
        await self._link.close()
        self._lost()

    # --- sending and answers -----------------------------------------------------------------------------------------

    async def _send(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        client = self._link.client
        try:
            await client.publish(subject, data, reply, headers)
        except errors.MaxPayloadError as error:
            raise BusError(f"{subject}: {len(data)} bytes; the server takes {client.max_payload} at most") from error
        except errors.BadSubjectError as error:
            raise BusError(f"{subject!r} is no subject") from error
        except (errors.Error, OSError) as error:
            raise Disconnected(f"the NATS server is away: {error!r}") from error

    def _answered(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        waiting = self._waiting.get(int(subject[len(self._answers) :]))
        if waiting is None or waiting[0].done():
            return
        if headers is not None and status_of(headers) == "503":
            waiting[0].set_exception(NoResponder(f"nobody serves {waiting[1]}"))
        else:
            waiting[0].set_result(data)

    def _expire(self, token: int, timeout_s: float) -> None:
        answer, subject = self._waiting[token]
        if not answer.done():
            why = f"no answer from {subject} within {timeout_s} s"
            up = self._link.client.is_connected
            answer.set_exception(BusTimeout(why) if up else Disconnected(f"the NATS server is away; {why}"))

    # --- what the connection says ------------------------------------------------------------------------------------

    async def _opened(self, client: WireClient) -> None:
        unguessable = f"{self._link.prefix}.{secrets.token_hex(11)}"
        self._answers = f"{unguessable}.r."
        await client.receive(f"{unguessable}.r.*", self._answered)
        await self._publisher.open(client, f"{unguessable}.a.")
        for served in self._served:
            await served.open(client)
        await client.flush()
        self._events.reconnected()

    def _lost(self) -> None:
        self._publisher.lost()
        if self._link.closing:
            for answer, subject in list(self._waiting.values()):
                if not answer.done():
                    answer.set_exception(Disconnected(f"closed while waiting for {subject}"))

    def _troubled(self, error: Exception) -> None:
        """Whatever the server or the client complains about beside any call."""
        text = str(error)
        if "permissions violation" in text:
            self._dropped += 1
            self._deny(text.split('"')[1] if '"' in text else "")
        _log.warning("%s: NATS: %s", self.name, text or repr(error))

    def _deny(self, subject: str) -> None:
        """`subject` as the client hands it on: in lower case."""
        self._denied[subject] = None
        if len(self._denied) > DENIED_MAX:
            self._denied.pop(next(iter(self._denied)))
        denied = Forbidden(f"{self.name} may not use {subject}")
        for answer, asked in list(self._waiting.values()):
            if asked.lower() == subject and not answer.done():
                answer.set_exception(denied)
        self._publisher.denied(subject, denied)
