"""What a service is. Everything in it is pure; the host does the rest.

    Service("memory", deciders=(LEDGER,), react=react, views=Views)

views     folds *all* events of the log, others' too, in log order: `views.apply(recorded, event)`. Rebuilt on start.
enrich    (command, views, now_us) -> command: adds what a decision needs from the views (candidates, image facts) so that the
          recorded command holds the inputs. Also fills in what comes from telemetry.
weigh     command -> command: a recorded one, with what its evidence comes to by today's policies where `enrich` had weighed it; a
          replay decides on that. The same command where nothing comes out otherwise.
react     (event, recorded, views) -> own commands; for events of any service, own ones included; in log order, once each.
orders    (stream, state, version) -> what the agents are to be told as long as the stream is in this state: an order, one for
          each of several nodes, or None. The host repeats an order until it is acknowledged; a new version replaces the older.
ticks     (now_us, states) -> commands; called about once a second with (stream, state) pairs.
look      (now_us, views) -> commands; called beside ticks: what telemetry has shown of streams that may not have begun.
hear      (subject, data, now_us, views) for telemetry subjects named in `telemetry`; changes the views only.
query     (what, data, states, views) -> an answer as a Struct for `query.<service>.<what>`; raises KeyError for unknown words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from libs.common.decider import Decider
from libs.common.messages import Command, Message, NodeId, Recorded


class Views(Protocol):
    """A read model, folded from the log: a dataclass whose fields msgspec can write and read, as it goes into snapshots. What
    telemetry or the clock fills of it, or of a part of it, is named in its NOT_OF_LOG: all else has to be what the log gives
    (libs/verify/views.py)."""

    def apply(self, recorded: Recorded, event: Any) -> None: ...


@dataclass(slots=True)
class NoViews:
    def apply(self, recorded: Recorded, event: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Order:
    """An order to one node's agent, derived from a stream's state."""

    node: NodeId
    message: Message


def no_enrich(command: Any, views: Any, now_us: int) -> Any:
    return command


def no_weigh(command: Any) -> Any:
    return command


def no_react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    return ()


def no_orders(stream: str, state: Any, version: int) -> Order | Sequence[Order] | None:
    return None


def no_ticks(now_us: int, states: Iterator[tuple[str, Any]]) -> Iterable[Command]:
    return ()


def no_look(now_us: int, views: Any) -> Iterable[Command]:
    return ()


def no_hear(subject: str, data: bytes, now_us: int, views: Any) -> None:
    return None


def no_query(what: str, data: bytes, states: Mapping[str, Any], views: Any) -> Any:
    raise KeyError(what)


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    deciders: tuple[Decider[Any, Any, Any], ...]
    follows: tuple[type[Message], ...] = ()
    """events of other services that react or views want decoded; all others are skipped"""
    weigh: Callable[[Any], Any] = no_weigh
    react: Callable[[Any, Recorded, Any], Sequence[Command]] = no_react
    views: type[Any] = NoViews
    enrich: Callable[[Any, Any, int], Any] = no_enrich
    orders: Callable[[str, Any, int], Order | Sequence[Order] | None] = no_orders
    ticks: Callable[[int, Iterator[tuple[str, Any]]], Iterable[Command]] = no_ticks
    look: Callable[[int, Any], Iterable[Command]] = no_look
    telemetry: tuple[str, ...] = ()
    hear: Callable[[str, bytes, int, Any], None] = no_hear
    query: Callable[[str, bytes, Mapping[str, Any], Any], Any] = no_query
