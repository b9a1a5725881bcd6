"""Commands out: who asks is signed in, the answer becomes an HTTP answer. Nothing is decided here."""

from __future__ import annotations

import re

import msgspec

from libs.common.bus import Bus, BusError, BusTimeout, NoResponder
from libs.common.clock import Clock
from libs.common.messages import Command, Envelope, Reply, decode_reply, encode, tag_of
from libs.common.telemetry import new_traceparent, span
from services.gateway.auth import Principal
from services.gateway.follow import Follower
from services.gateway.problems import Problem, away, problem_of

REQUEST_S = 5.0
REACH_S = 2.0
"""how long an accepted command's answer waits for the views to show what it did"""

_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


class Accepted(msgspec.Struct):
    """task: where to see what becomes of it; position: of its first event, 0 when nothing had to change."""

    task: str
    status: str
    stream: str
    version: int
    position: int = 0


class Asker(msgspec.Struct, frozen=True):
    """Who asks, under which id, the sampled trace of the request (empty: not sampled), and from which address."""

    principal: Principal
    id: str
    trace: str = ""
    address: str = ""

    @property
    def origin(self) -> str:
        return f"{self.address or '?'} token:{self.principal.id}"


def command_id(key: str | None, clock: Clock) -> str:
    """The Idempotency-Key, or a new id. Colons are kept out: ids with colons belong to the services' own commands."""
    if key is None:
        return clock.new_id()
    if not _KEY.fullmatch(key):
        raise Problem(
            400,
            "BAD_IDEMPOTENCY_KEY",
            "the header Idempotency-Key is not usable as a command id",
            "send 1 to 64 letters, digits, dots, underscores or hyphens",
        )
    return key


def sampled(traceparent: str | None) -> str:
    """The W3C trace context of a request: its caller's, or one of our own for the share that is traced; else empty."""
    if traceparent and _TRACEPARENT.fullmatch(traceparent):
        return traceparent
    return new_traceparent()


class Commands:
    """`send` asks a service; `ask` does that for a person and waits until the views show the outcome."""

    def __init__(self, bus: Bus, follower: Follower, clock: Clock, *, request_s: float = REQUEST_S) -> None:
        self.bus = bus
        self.follower = follower
        self.clock = clock
        self.request_s = request_s

    async def send(self, service: str, stream: str, envelope: Envelope) -> Reply:
        """The service's Reply, whatever it is. Raises Problem 503 where there is none, or `unavailable`."""
        subject = f"cmd.{service}.{stream}"
        safe = f"repeat it with `Idempotency-Key: {envelope.id}`: it is carried out once at most"
        try:
            data = await self.bus.request(subject, encode(envelope), timeout_s=self.request_s)
        except NoResponder:
            raise away(f"{service} is not running just now; nothing was done", "ask again in a moment") from None
        except BusTimeout:
            text = f"{service} did not answer within {self.request_s:g} s; it may or may not have been done"
            raise away(text, safe, task=envelope.correlation) from None
        except BusError as error:
            raise away(f"the bus is away: {error}", safe) from error
        reply = decode_reply(data)
        if reply.status == "unavailable":
            raise problem_of(msgspec.structs.replace(reply, remedy=reply.remedy or safe))
        return reply

    async def ask(
        self, asker: Asker, service: str, stream: str, command: Command, project: str, *, id: str = ""
    ) -> Accepted:
        """Raises Problem for every answer that is not `accepted`. id: the command's own, where it is not the task's."""
        with span(f"ask {service} {tag_of(type(command))}", asker.trace, stream=stream) as here:
            envelope = Envelope(
                id=id or asker.id,
                data=msgspec.Raw(encode(command)),
                actor=asker.principal.actor,
                project=project,
                owner=asker.principal.name,
                correlation=asker.id,
                at_us=self.clock.now_us(),
                trace=here.traceparent,
                seen=self.follower.position,
                origin=asker.origin,
            )
            reply = await self.send(service, stream, envelope)
        if reply.status != "accepted":
            raise problem_of(reply)
        await self.follower.reach(reply.position, REACH_S)
        return Accepted(asker.id, "accepted", reply.stream or stream, reply.version, reply.position)
