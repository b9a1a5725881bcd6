"""nats-py's client with a shorter way in: a message goes from the parser straight to its receiver, without a queue, a task and
parsed headers in between. That halves what hearing a message costs.

What is used of nats-py beyond its public interface (`_process_msg` is replaced, `send_now` writes to its buffer) is shown to work
by tests/contract/test_bus.py, which fails should a new version change it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.subscription import Subscription

_log = logging.getLogger(__name__)

TURN = 128
"""messages dealt with before others get their turn: a full socket buffer must not become one big batch, while the database idles"""

type Receiver = Callable[[bytes, bytes, bytes, bytes | None], None]
"""(subject, reply, data, raw headers); must return soon and bound what it keeps"""


class WireClient(Client):
    """Subscriptions made by `receive` are direct; all others work as ever."""

    def __init__(self) -> None:
        super().__init__()
        self._receivers: dict[int, Receiver] = {}
        self._turn = TURN

    async def receive(self, subject: str, receiver: Receiver, queue: str = "") -> Subscription:
        """Like `subscribe`; survives nats-py's own reconnecting."""
        sid = self._sid + 1  # what subscribe will take: messages may come before it returns
        self._receivers[sid] = receiver
        sub = await self.subscribe(subject, queue=queue)
        assert sub._id == sid
        return sub

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        receiver = self._receivers.get(sid)
        if receiver is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            receiver(subject, reply, data, headers)
        except Exception:
            _log.exception("receiving from %s failed", subject.decode(errors="replace"))
        self._turn -= 1
        if self._turn <= 0:
            self._turn = TURN
            await asyncio.sleep(0)

    def send_now(self, subject: bytes, data: bytes) -> bool:
        """Publish without a wait: into the buffer that nats-py's flusher writes. False where there is no room or no server."""
        queue = self._flush_queue
        room = self._max_pending_size - self._pending_data_size - len(data)
        if queue is None or not self.is_connected or self.is_draining_pubs or room <= 0 or len(data) > self._max_payload:
            return False
        command = b"PUB %b %d\r\n%b\r\n" % (subject, len(data), data)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._receivers.pop(sid, None)


def status_of(headers: bytes | None) -> str:
    """The three digits of a message from the server itself, such as 503 (nobody listens); empty for all others."""
    if headers is None or headers[8:9] != b" ":
        return ""
    return headers[9:12].decode(errors="replace")


def parse_headers(headers: bytes | None) -> dict[str, str]:
    """`NATS/1.0\\r\\nName: value\\r\\n…` as a dictionary; the last of equal names counts."""
    if headers is None:
        return {}
    parsed: dict[str, str] = {}
    for line in headers.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            parsed[name.strip().decode(errors="replace")] = value.strip().decode(errors="replace")
    return parsed
