"""Publishes events to the stream, in order, and returns when the server has stored them.

Only the last message of a batch asks for an acknowledgement: it carries the stream's sequence number, and nobody else writes to
the stream, so the numbers show whether the whole batch is in. Where they do not add up (repeated ids, a message the server did
not take, a new connection) the batch is sent again with an acknowledgement for each; the message ids make that harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from nats import errors

from libs.common.bus import BusError, BusTimeout, Disconnected, Published
from libs.common.bus.wire import WireClient, status_of

BATCH_MAX = 2048
"""messages on their way at once"""
ACK_S_MAX = 10.0


class _Problem(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Ack(msgspec.Struct):
    """JetStream's answer to a published message."""

    seq: int = 0
    duplicate: bool = False
    error: _Problem | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


class _Batch:
    """Acknowledgements awaited for one batch."""

    def __init__(self, left: int, subjects: frozenset[str]) -> None:
        self.left = left
        self.subjects = subjects
        self.seq = 0
        self.duplicates = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def heard(self, ack: _Ack) -> None:
        self.left -= 1
        self.seq = max(self.seq, ack.seq)
        self.duplicates += ack.duplicate
        if ack.error is not None:
            self.fail(BusError(f"the stream did not take an event: {ack.error.description} ({ack.error.err_code})"))
        elif self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BusError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Publisher:
    """`ensure` makes the stream when it is not there; called before the first batch and after every failure."""

    def __init__(self, ensure: Callable[[], Awaitable[int]]) -> None:
        self._ensure = ensure
        self._client: WireClient | None = None
        self._acks = ""
        self._batches: dict[int, _Batch] = {}
        self._next = 0
        self._seq: int | None = None
        self._turn = asyncio.Lock()

    async def open(self, client: WireClient, acks: str) -> None:
        """A new connection; `acks` is the subject's beginning under which the server is to acknowledge."""
        self._client = client
        self._acks = acks
        self._seq = None
        await client.receive(f"{acks}*", self._acked)

    async def publish(self, events: Sequence[Published]) -> None:
        async with self._turn:
            if not events:
                await self._ensure()
            for start in range(0, len(events), BATCH_MAX):
                part = events[start : start + BATCH_MAX]
                try:
                    await self._publish(part)
                except BaseException:
                    self._seq = None
                    raise

    def lost(self) -> None:
        self._seq = None
        for batch in self._batches.values():
            batch.fail(Disconnected("the NATS server went away before it acknowledged all events"))

    def denied(self, subject: str, error: BusError) -> None:
        for batch in self._batches.values():
            if subject in batch.subjects:
                batch.fail(error)

    async def _publish(self, part: Sequence[Published]) -> None:
        known = self._seq
        if known is None:
            await self._ensure()
        else:
            batch = await self._send(part, each=False)
            if batch.seq == known + len(part) and not batch.duplicates:
                self._seq = batch.seq
                return
        batch = await self._send(part, each=True)
        self._seq = max(batch.seq, known or 0) if not batch.duplicates else None

    async def _send(self, part: Sequence[Published], *, each: bool) -> _Batch:
        """Raises BusError and its children; returns when what was asked for is acknowledged."""
        assert self._client is not None
        self._next += 1
        token = self._next
        reply = f"{self._acks}{token}"
        batch = _Batch(len(part) if each else 1, frozenset(event.subject.lower() for event in part))
        self._batches[token] = batch
        last = len(part) - 1
        try:
            publish = self._client.publish
            for i, event in enumerate(part):
                wants = reply if each or i == last else ""
                await publish(event.subject, event.data, wants, {"Nats-Msg-Id": event.id})
            async with asyncio.timeout(ACK_S_MAX):
                await batch.done
        except TimeoutError:
            raise BusTimeout(f"the stream did not acknowledge {len(part)} events within {ACK_S_MAX} s") from None
        except (errors.Error, OSError) as error:
            raise Disconnected(f"the NATS server is away: {error!r}") from error
        finally:
            del self._batches[token]
            if batch.done.done() and not batch.done.cancelled():
                batch.done.exception()  # seen, also when sending itself failed
        return batch

    def _acked(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        batch = self._batches.get(int(subject[len(self._acks) :]))
        if batch is None:
            return
        if status_of(headers) == "503":
            batch.fail(BusError("the stream EVT is gone; it is made again before the next attempt"))
            return
        batch.heard(_decode_ack(data))
