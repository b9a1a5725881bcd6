"""The bus: request/reply, core publish/subscribe, and the published log. Kept by the NATS bus and its in-memory twin
(tests/contract/test_bus.py).

Subjects (a stream name never holds a dot):
    cmd.<service>.<stream>         command, request/reply                    gateway, services -> service (queue group)
    fact.<node>.<service>          fact, request/reply                       agent -> service; only <node>'s agent may
    order.<node>                   order, request/reply                      service -> agent
    console.<node>.<session>.out   console bytes from the VM; `.in`: to it   agent -> gateway; gateway -> agent
    ask.<node>.<what>              exec, console … request/reply, unrecorded gateway -> agent; `lease`: ha -> agent
    lease.<node>                   it wants its lease renewed, request/reply agent -> all of ha, of whom one answers
    query.<service>.<what>         question about a service, request/reply   gateway -> service
    evt.<kind>.<stream>.<type>     committed event (msgpack Delivered)       relay only; JetStream stream EVT
    tel.<node>.<what>              telemetry, never stored                   agent -> anyone

    BusError
      NoResponder   nobody serves that subject now
      BusTimeout    no answer within timeout_s
      Disconnected  the server is away and did not come back within the wait
      Forbidden     this identity may not use that subject (permissions.py)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec


class BusError(Exception):
    """Something about the bus itself."""


class NoResponder(BusError):
    """Nobody serves that subject now."""


class BusTimeout(BusError):
    """No answer came in time."""


class Disconnected(BusError):
    """The server is away."""


class Forbidden(BusError):
    """This identity may not publish to, or hear, that subject."""


class Published(msgspec.Struct, frozen=True, gc=False):
    """One event to publish: its subject, its message id (`INCARNATION-POSITION`), msgpack Delivered."""

    subject: str
    id: str
    data: bytes


class Incoming(Protocol):
    """A message that was heard. `headers` may be empty."""

    @property
    def subject(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> dict[str, str]: ...
    async def respond(self, data: bytes) -> None:
        """Answer a request; nothing happens where no answer is awaited."""
        ...

    def respond_now(self, data: bytes) -> bool:
        """The same without a wait, where that can be; False: it was not sent, `respond` it."""
        ...


type Handler = Callable[[Incoming], Awaitable[None] | None]


class Feed(Protocol):
    """A durable pull consumer of the published log, in order. What was fetched counts as heard once `ack` is called; what
    was not is given again. Positions may repeat, and may be missing: the reader closes holes from the log."""

    async def fetch(self, max_messages: int, timeout_s: float) -> list[bytes]:
        """Up to max_messages payloads; [] at the timeout."""
        ...

    async def ack(self) -> None:
        """All fetched so far were dealt with."""
        ...

    async def close(self) -> None: ...


class Bus(Protocol):
    async def request(
        self, subject: str, data: bytes, *, timeout_s: float = 5.0, headers: dict[str, str] | None = None
    ) -> bytes:
        """Raises NoResponder at once where nobody listens, BusTimeout, Disconnected."""
        ...

    async def serve(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        """Handler runs as its own task per message, or at once where it is no coroutine function; wildcards `*` and `>` as in NATS.
        An exception in it is logged, unanswered."""
        ...

    async def publish(self, subject: str, data: bytes) -> None:
        """Core publish: at most once, to whoever listens now."""
        ...

    async def publish_events(self, events: Sequence[Published]) -> None:
        """Relay only. In order; returns once all are stored by the server. Repeated ids are dropped within its window.
        Called with none it makes the stream, without which there are no feeds: a relay begins with that."""
        ...

    async def feed(self, durable: str, *, subject: str = "evt.>", new_only: bool = False) -> Feed:
        """`durable` survives the connection; an empty name gives an ephemeral one."""
        ...

    async def drain(self) -> None:
        """Stop hearing, finish what is being handled, then close."""
        ...
