"""What is heard on one subject of the NATS bus: the message, and the bounded set of handlers at work on it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable

from nats import errors
from nats.aio.subscription import Subscription

from libs.common.bus import Handler
from libs.common.bus.wire import WireClient, parse_headers

_log = logging.getLogger(__name__)

HEARD_MAX = 65_536
HEARD_BYTES_MAX = 64 * 1024 * 1024
"""what may wait for one subscription's handlers; beyond it messages are dropped and counted, their askers time out"""
HANDLING_MAX = 4096
"""handlers running at once on one subscription; the next message waits"""
INBOXES = b"_INBOX."


class NatsIncoming:
    """A message that was heard."""

    __slots__ = ("_client", "_headers", "_subject", "data", "reply")

    def __init__(self, client: WireClient, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._client = client
        self._subject = subject
        self._headers = headers
        self.reply = reply
        self.data = data

    @property
    def subject(self) -> str:
        return self._subject.decode()

    @property
    def headers(self) -> dict[str, str]:
        return parse_headers(self._headers)

    async def respond(self, data: bytes) -> None:
        # Only an inbox is ever answered: a reply subject is chosen by the asker, and must not make us publish elsewhere.
        if self.reply.startswith(INBOXES):
            try:
                await self._client.publish(self.reply.decode(), data)
            except errors.Error as error:
                _log.warning("the answer to %s was lost: %r", self.subject, error)

    def respond_now(self, data: bytes) -> bool:
        return not self.reply.startswith(INBOXES) or self._client.send_now(self.reply, data)


class Served:
    """One subscription and its running handlers; it outlives connections. dropped: messages that found no room."""

    def __init__(self, subject: str, handler: Handler, queue: str, handling_max: int) -> None:
        self.subject = subject
        self.queue = queue
        self.dropped = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self._handler = handler
        self._handling_max = handling_max
        self._client: WireClient | None = None
        self._sub: Subscription | None = None
        self._waiting: deque[NatsIncoming] = deque()
        self._waiting_bytes = 0
        self._loop = asyncio.get_running_loop()

    async def open(self, client: WireClient) -> None:
        self._client = client
        self._sub = await client.receive(self.subject, self._heard, self.queue)

    async def quiet(self, wait_s_max: float) -> None:
        """Hear no more; returns when all that had arrived was handled."""
        if self._sub is not None and self._client is not None and self._client.is_connected:
            await self._sub.drain()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(wait_s_max):
                while self.tasks or self._waiting:
                    await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            _log.warning("%d handlers of %s did not end within %s s", len(self.tasks), self.subject, wait_s_max)

    def _heard(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        assert self._client is not None
        message = NatsIncoming(self._client, subject, reply, data, headers)
        if len(self.tasks) < self._handling_max:
            self._begin(message)
        elif len(self._waiting) >= HEARD_MAX or self._waiting_bytes > HEARD_BYTES_MAX:
            self.dropped += 1
        else:
            self._waiting.append(message)
            self._waiting_bytes += len(data)

    def _begin(self, message: NatsIncoming) -> None:
        try:
            work = self._handler(message)
        except Exception:
            _log.exception("handler of %s failed", message.subject)
            return
        if work is None:
            return
        # Started at once: most handlers only put the message into a queue before they first wait.
        task: asyncio.Task[None] = asyncio.Task(self._handle(work, message), loop=self._loop, eager_start=True)
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        while self._waiting and len(self.tasks) < self._handling_max:
            message = self._waiting.popleft()
            self._waiting_bytes -= len(message.data)
            self._begin(message)

    async def _handle(self, work: Awaitable[None], message: NatsIncoming) -> None:
        try:
            await work
        except Exception:
            _log.exception("handler of %s failed", message.subject)
