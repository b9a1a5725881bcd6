"""Which streams a slice needs, for what is to be seen in it.

    the object's own streams, of singletons all            vm-V devices-V guard-V verdict-V map-V; node-N ledger-N plan-N …
    what happened to it in the window, and why              every event of those stories (their correlation), and their causes
    what its events name                                    nodes with their ledgers and leases, images, networks, pools

A stream is taken from its first event on: a decision has its inputs in its command and in its own stream's state, and in nothing
else, so whatever is taken whole can be decided again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from libs.common.messages import Recorded, decode_meta
from libs.past.source import Past

VM = ("vm", "devices", "guard", "verdict", "map")
NODE = ("node", "ledger", "plan", "lease", "fence", "drain")
NAMED = ("node", "ledger", "lease", "image", "network", "pool")
"""kinds of streams of which what a VM's events name is taken"""
SINGLE = ("cluster-main", "balance-cluster", "ha-main", "reserve-main")
AROUND = 500
"""events before and after, where nothing else is said"""
EVENTS_MAX = 200_000
"""in one slice"""
EVENTS_OF_ONE_MAX = 1000
"""that one command can have written"""
CAUSES_MAX = 1000
"""causes that lie before the window, of one slice"""


class NothingThere(Exception):
    """What was asked for is not in this log. The sentence says what is."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """vms, nodes: by name; none of both: everything. first, last: the window of positions, 0: of the log; what lies before it is
    taken as far as it is needed, what lies behind it never."""

    vms: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    first: int = 0
    last: int = 0

    @property
    def all(self) -> bool:
        return not (self.vms or self.nodes)


class Chosen(msgspec.Struct, frozen=True):
    """streams: None: all. first, last: the window."""

    streams: frozenset[str] | None
    first: int
    last: int

    def holds(self, stream: str) -> bool:
        return self.streams is None or stream in self.streams


async def select(past: Past, wanted: Wanted) -> Chosen:
    """Raises NothingThere, LogError."""
    head = (await past.head()).position
    first, last = max(wanted.first, 1), min(wanted.last or head, head)
    if not head or first > last:
        raise NothingThere(f"from {first} to {last} there is nothing: the log's last event is {head}")
    last = await _whole(past, last, head)
    if wanted.all:
        return Chosen(None, first, last)
    own = {f"{kind}-{vm}" for vm in wanted.vms for kind in VM} | {f"{kind}-{node}" for node in wanted.nodes for kind in NODE}
    named: set[str] = set()
    for stream in sorted(own):
        async for event in _stream(past, stream, last):
            if stream.partition("-")[0] in VM or event.position >= first:
                named |= set(_words(event))
    kinds = (*NAMED, *(VM if wanted.nodes else ()))
    told = await _stories(past, own, first, last)
    streams = own | told | set(SINGLE) | {f"{kind}-{name}" for name in named for kind in kinds}
    for name in (f"vm-{vm}" for vm in wanted.vms):
        if not await past.read_stream(name, limit=1):
            raise NothingThere(f"the log holds nothing of {name.replace('-', '/', 1)} up to {last}")
    for name in wanted.nodes:
        if not await past.read_stream(f"node-{name}", limit=1):
            raise NothingThere(f"the log holds nothing of node/{name} up to {last}")
    return Chosen(frozenset(streams), first, last)


async def _whole(past: Past, last: int, head: int) -> int:
    """The last of the events that its command wrote: none is cut in two."""
    command = ""
    async for chunk in past.replay(last - 1, min(last + EVENTS_OF_ONE_MAX, head)):
        for event in chunk:
            wrote = decode_meta(event.meta).command
            if event.position > last and wrote != command:
                return last
            command, last = wrote, event.position
    return last


async def _stream(past: Past, stream: str, last: int) -> Any:
    after = 0
    while found := await past.read_stream(stream, after):
        for event in found:
            if event.position > last:
                return
            yield event
        after = found[-1].version


async def _stories(past: Past, own: set[str], first: int, last: int) -> set[str]:
    """Streams with events of the stories that the own ones have in the window, and those of their causes."""
    stories: set[str] = set()
    async for chunk in past.replay(first - 1, last):
        stories |= {decode_meta(event.meta).correlation for event in chunk if event.stream in own}
    stories.discard("")
    streams: set[str] = set()
    causes: set[int] = set()
    async for chunk in past.replay(first - 1, last):
        for event in chunk:
            meta = decode_meta(event.meta)
            if event.stream in own or meta.correlation in stories:
                streams.add(event.stream)
                causes |= _before(meta.causation, first)
    return streams | await _causes(past, causes)


async def _causes(past: Past, causes: set[int]) -> set[str]:
    """Their streams, back to what nothing led to."""
    streams, seen = set(), set[int]()
    while causes and len(seen) < CAUSES_MAX:
        position = causes.pop()
        if position in seen:
            continue
        seen.add(position)
        async for chunk in past.replay(position - 1, position):
            for event in chunk:
                streams.add(event.stream)
                causes |= _before(decode_meta(event.meta).causation, position)
    return streams


def _before(causation: str, first: int) -> set[int]:
    position = int(causation.partition("-")[2] or 0)
    return {position} if 0 < position < first else set()


def _words(event: Recorded) -> Iterator[str]:
    yield from _strings(msgspec.msgpack.decode(event.data))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value))
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        yield from _flat(value)


def _flat(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield from _strings(value)
