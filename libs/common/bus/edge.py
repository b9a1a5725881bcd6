"""The typed edge: questions, administration and integrations, at low rates, on FastStream. The only file that imports it.

A question is `query.<service>.<what>`: msgpack of a Struct each way. What cannot be answered is answered with a `Problem`.

    edge = Edge.to(url, credentials)
    edge.query("compute", "vms", AskVms, answer)        # async def answer(question: AskVms) -> Vms
    await edge.start()

Import it only where it is used: FastStream brings pydantic along, which a node's agent must not carry.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from fast_depends.msgspec import MsgSpecSerializer
from faststream.middlewares import AckPolicy
from faststream.nats import NatsBroker, NatsMessage, TestNatsBroker
from faststream.nats.security import NatsJWT, NatsSecurity

from libs.common.bus import Bus, BusError
from libs.common.bus.credentials import Credentials
from libs.common.bus.permissions import inbox
from libs.common.messages import Message

_log = logging.getLogger(__name__)

GRACE_S_MAX = 10.0


class Problem(Message):
    """Why a question has no answer. reason: `NOT_UNDERSTOOD` (the asker's fault), `UNKNOWN` (no such thing), `FAILED` (ours)."""

    reason: str
    sentence: str


class Unanswered(BusError):
    """The answer was a Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.reason}: {problem.sentence}")
        self.problem = problem


class _NotUnderstood(Exception):
    """The question is not what the answer needs."""


class Edge:
    """The typed handlers of one process."""

    def __init__(self, broker: NatsBroker) -> None:
        self.broker = broker

    @classmethod
    def to(
        cls, url: str | Sequence[str], credentials: Credentials | None = None, *, name: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> Edge:  # fmt: skip
        """On the same server, and with the same credentials, as the process's bus; connects at `start`."""
        name = name or (credentials.name if credentials else "anonymous")
        security: NatsSecurity | None = NatsSecurity(ssl_context=tls) if tls is not None else None
        if credentials is not None:
            security = NatsJWT(credentials.jwt_bytes, credentials.sign_nonce, ssl_context=tls)
        broker = NatsBroker(
            url if isinstance(url, str) else list(url), name=name, security=security, inbox_prefix=inbox(name),
            max_reconnect_attempts=-1, graceful_timeout=GRACE_S_MAX, serializer=MsgSpecSerializer(), logger=None,
        )  # fmt: skip
        return cls(broker)

    def query[Q: msgspec.Struct, A: msgspec.Struct](
        self, service: str, what: str, question: type[Q], answer: Callable[[Q], Awaitable[A]]
    ) -> None:
        """Serve `query.<service>.<what>`. `answer` may raise LookupError: then it is UNKNOWN, with its text."""
        decode = msgspec.msgpack.Decoder(question).decode

        async def typed(what: str, data: bytes) -> A:
            try:
                asked = decode(data)
            except msgspec.DecodeError as error:  # a ValidationError is one
                raise _NotUnderstood(f"wants a {question.__name__} as msgpack: {error}") from error
            return await answer(asked)

        self._serve(service, what, typed)

    def questions(self, service: str, answer: Callable[[str, bytes], Any]) -> None:
        """Serve all of `query.<service>.*` by one function of (what, msgpack of the question) that returns a Struct: what a
        Service's `query` is once its states and views are bound. It may raise LookupError (UNKNOWN) and msgspec.DecodeError."""

        async def untyped(what: str, data: bytes) -> Any:
            return answer(what, data)

        self._serve(service, "*", untyped)

    def _serve(self, service: str, pattern: str, answer: Callable[[str, bytes], Awaitable[Any]]) -> None:
        async def unpacked(message: NatsMessage) -> Any:
            return message.body

        @self.broker.subscriber(
            f"query.{service}.{pattern}", queue=service, decoder=unpacked, ack_policy=AckPolicy.MANUAL
        )
        async def handle(body: bytes, message: NatsMessage) -> bytes:
            subject = str(message.raw_message.subject)
            try:
                return msgspec.msgpack.encode(await answer(subject.rsplit(".", 1)[1], body))
            except (_NotUnderstood, msgspec.DecodeError) as error:
                return _problem("NOT_UNDERSTOOD", f"{subject} {error}")
            except LookupError as error:
                return _problem("UNKNOWN", str(error.args[0]) if error.args else "no such thing")
            except Exception:
                _log.exception("%s failed", subject)
                return _problem("FAILED", f"{subject} failed; the service's log says why")

    async def start(self) -> None:
        """Once it returns the server has the subscriptions: who asks from then on is answered."""
        await self.broker.start()
        await (await self.broker.connect()).flush()

    async def stop(self) -> None:
        """Finishes what is being answered, at most GRACE_S_MAX."""
        await self.broker.stop()

    def in_memory(self) -> TestNatsBroker:
        """`async with edge.in_memory() as broker: await broker.request(…)`: the same handlers without a server."""
        return TestNatsBroker(self.broker)


async def ask[A: msgspec.Struct](
    bus: Bus, service: str, what: str, question: msgspec.Struct, answer: type[A], *, timeout_s: float = 5.0
) -> A:
    """Put a question to a service over any bus. Raises Unanswered, and what a request raises."""
    data = await bus.request(f"query.{service}.{what}", msgspec.msgpack.encode(question), timeout_s=timeout_s)
    return answered(data, answer)


def answered[A: msgspec.Struct](data: bytes, answer: type[A]) -> A:
    """Raises Unanswered for a Problem; msgspec.DecodeError for what is neither."""
    if _kind(data) == "problem":
        raise Unanswered(msgspec.msgpack.decode(data, type=Problem))
    return msgspec.msgpack.decode(data, type=answer)


class _Tagged(msgspec.Struct):
    type: str = ""


def _kind(data: bytes) -> str:
    try:
        return msgspec.msgpack.decode(data, type=_Tagged).type
    except msgspec.DecodeError:
        return ""


def _problem(reason: str, sentence: str) -> bytes:
    return msgspec.msgpack.encode(Problem(reason=reason, sentence=sentence))
