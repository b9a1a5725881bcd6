"""What is heard on one subject of the NATS bus: the message, and the bounded set of handlers at work on it."""

from __future__ import annotations

import asyncio
import logging

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from libs.common.bus import Handler

_log = logging.getLogger(__name__)

HEARD_MAX = 65_536
HEARD_BYTES_MAX = 64 * 1024 * 1024
"""what may wait for one subscription's handler; beyond it messages are dropped and counted, their askers time out"""
HANDLING_MAX = 4096
"""handlers running at once on one subscription; the next message waits"""
INBOXES = "_INBOX."


class NatsIncoming:
    """A message that was heard."""

    __slots__ = ("_client", "_msg", "data")

    def __init__(self, client: Client, msg: Msg) -> None:
        self._client = client
        self._msg = msg
        self.data: bytes = msg.data

    @property
    def subject(self) -> str:
        return str(self._msg.subject)

    @property
    def headers(self) -> dict[str, str]:
        return self._msg.headers or {}

    async def respond(self, data: bytes) -> None:
        # Only an inbox is ever answered: a reply subject is chosen by the asker, and must not make us publish elsewhere.
        reply = self._msg.reply
        if reply and reply.startswith(INBOXES):
            await self._client.publish(reply, data)


class Served:
    """One subscription and its running handlers; it outlives connections."""

    def __init__(self, client: Client, subject: str, handler: Handler, queue: str, handling_max: int) -> None:
        self.subject = subject
        self.queue = queue
        self.tasks: set[asyncio.Task[None]] = set()
        self.sub: Subscription | None = None
        self._handler = handler
        self._handling_max = handling_max
        self._client = client
        self._loop = asyncio.get_running_loop()

    async def open(self, client: Client) -> None:
        self._client = client
        self.sub = await client.subscribe(
            self.subject, queue=self.queue, cb=self._heard,
            pending_msgs_limit=HEARD_MAX, pending_bytes_limit=HEARD_BYTES_MAX,
        )  # fmt: skip

    async def quiet(self) -> None:
        """Hear no more; returns when all that had arrived was handed to the handler."""
        if self.sub is not None:
            await self.sub.drain()  # type: ignore[no-untyped-call]

    async def _heard(self, msg: Msg) -> None:
        while len(self.tasks) >= self._handling_max:
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        # Started at once: most handlers only put the message into a queue before they first wait.
        task: asyncio.Task[None] = asyncio.Task(self._handle(msg), loop=self._loop, eager_start=True)
        if not task.done():
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _handle(self, msg: Msg) -> None:
        try:
            await self._handler(NatsIncoming(self._client, msg))
        except errors.Error as error:
            _log.warning("answer to %s was lost: %s", msg.subject, error)
        except Exception:
            _log.exception("handler of %s failed", msg.subject)
