"""Questions to services and nodes: answered, or a Problem that says who did not answer. Nothing of them is recorded."""

from __future__ import annotations

import msgspec

from libs.common.bus import Bus, BusError, BusTimeout, NoResponder
from libs.common.messages import encode
from services.gateway.problems import Problem, away

SERVICE_S = 2.0


async def ask_service[T](bus: Bus, service: str, what: str, answer: type[T], question: msgspec.Struct | None = None) -> T:
    """Raises Problem 503."""
    try:
        data = await bus.request(f"query.{service}.{what}", encode(question) if question else b"", timeout_s=SERVICE_S)
        return msgspec.msgpack.decode(data, type=answer)
    except NoResponder:
        raise away(f"{service} is not running just now") from None
    except (BusError, msgspec.DecodeError) as error:
        raise away(f"{service} did not say: {error}") from error


async def ask_node[T](
    bus: Bus, node: str, what: str, answer: type[T], question: msgspec.Struct, timeout_s: float, *,
    unasked: str = "", unheard: str = "",
) -> T:  # fmt: skip
    """unasked, unheard: what follows for the asker where no agent is there, and where none answered in time.
    Raises Problem 502, 503."""
    try:
        data = await bus.request(f"ask.{node}.{what}", encode(question), timeout_s=timeout_s)
        return msgspec.msgpack.decode(data, type=answer)
    except NoResponder:
        raise away(f"the agent of {node} does not run just now{unasked and f'; {unasked}'}") from None
    except BusTimeout:
        raise away(f"{node} did not answer within {timeout_s:g} s{unheard and f'; {unheard}'}") from None
    except BusError as error:
        raise away(f"the bus is away: {error}") from error
    except msgspec.DecodeError as error:  # a ValidationError is one
        raise Problem(502, "BAD_ANSWER", f"{node} answered with something else than was asked for ({what})") from error
