"""The log folded into several services at once: each event is read and decoded once, and told to whom it concerns alone.

    folding = Folding([compute, memory, io, ha], [position up to which each has reacted, …])
    for chunk in …: folding.fold(chunk)

States and views end as those of services that are each folded alone (tests/model/test_folding.py). Whose an event is, and which
views hear it, is looked up by its class; who caused the latest event of a stream is decoded when all is over (`Slots.settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from libs.common.host import hearing
from libs.common.host.jobs import Slot
from libs.common.host.slots import Slots
from libs.common.host.versions import FINALIZED
from libs.common.messages import Recorded, tag_of
from libs.common.registry import Registry

if TYPE_CHECKING:
    from libs.common.host.core import Host


type _To = tuple[Slots | None, Any, Callable[[Any, Any], Any], tuple[hearing.Tell, ...]]
"""What one class of events is for: whose streams these are, the state that they begin in, what evolves it; views that hear it, of
hosts that have reacted to it. (A plain tuple, as it is taken apart for each event.)"""


class Folding:
    """Of hosts that have begun nothing yet, and whose deciders share no kind of stream. reacted: as Host.fold has it. owned: nobody
    else has any of their states, so that these may be changed in place (Decider.absorb)."""

    def __init__(
        self, hosts: Sequence[Host], reacted: Sequence[int], events: Registry | None = None, *, owned: bool = False
    ) -> None:
        self._hosts, self.reacted, self._owned = tuple(hosts), tuple(reacted), owned
        self.views = tuple(host.views for host in hosts)
        """that are told: these very objects"""
        self._events = events or _union(hosts)
        self._known = frozenset(self._events.classes.values())
        self._kinds = {d.kind: host for host in hosts for d in host.service.deciders}
        self._tables: dict[tuple[bool, ...], dict[type, _To]] = {}

    def fold(self, records: Sequence[Recorded], events: Sequence[Any] | None = None) -> None:
        """Records in log order, without holes. events: what they say, where it is known; of any classes. Raises TooNew for an event
        in an own stream that this code cannot read."""
        if not records:
            return
        if events is None:
            events = self.decoded(records)
        first, last = records[0].position, records[-1].position
        cuts = sorted({r for r in self.reacted if first <= r < last})
        start = 0
        for cut in (*cuts, last):
            end = cut - first + 1
            self._fold(records[start:end] if cuts else records, events[start:end] if cuts else events, records[start].position)
            start = end
        for host, reacted in zip(self._hosts, self.reacted, strict=True):
            if first <= reacted:
                host.reactions.taken = host.reactions.marked = min(last, reacted)

    def decoded(self, records: Sequence[Recorded]) -> Sequence[Any]:
        """What the records say; None where the type is of nobody here."""
        return self._events.events(records)

    def _fold(self, records: Sequence[Recorded], events: Sequence[Any], first: int) -> None:
        """Of which each host has reacted to all or to none."""
        key = tuple(first <= reacted for reacted in self.reacted)
        table = self._tables.setdefault(key, {})
        for recorded, event in zip(records, events, strict=True):
            try:
                slots, initial, evolve, tells = table[type(event)]
            except KeyError:
                if event is None:
                    self._stranger(recorded)
                    continue
                slots, initial, evolve, tells = table[type(event)] = self._to(type(event), key)
            if slots is not None:
                stream, version = recorded.stream, recorded.version
                slot = slots.get(stream)
                if slot is None:
                    slot = slots[stream] = Slot(initial)
                if version == slot.version + 1 and not slot.busy:
                    slot.state = evolve(slot.state, event)
                    slot.version, slot.meta = version, recorded.meta
                    if version == 1:
                        slots.begin(slot)
                else:
                    slot.missed = max(slot.missed, version)
            for tell in tells:
                tell(recorded, event)

    def _unknown(self, recorded: Recorded, event: Any) -> None:
        """Of a class that others know."""
        self._stranger(recorded)

    def _stranger(self, recorded: Recorded) -> None:
        """Of no class that is known here."""
        for host in self._hosts:
            host.writer.hear(recorded)
        owner = self._kinds.get(recorded.stream.partition("-")[0])
        if owner is not None:
            owner.slots.fold(recorded, None)

    def _to(self, event: type, active: tuple[bool, ...]) -> _To:
        """Raises ValueError where two deciders have it."""
        if event not in self._known:
            return None, None, _same, (self._unknown,)
        owns = [(host.slots, d) for host in self._hosts for d in host.service.deciders if event in d.events]
        if len(owns) > 1:
            raise ValueError(f"{event.__name__} is of two deciders: {', '.join(d.kind for _, d in owns)}")
        tells: list[hearing.Tell] = []
        for host, hears in zip(self._hosts, active, strict=True):
            if tag_of(event) == FINALIZED:
                tells.append(partial(_finalize, host))
            if hears and event in host.events.classes.values():
                tells += hearing.told(host.views, event)
        slots, decider = owns[0] if owns else (None, None)
        if decider is None:
            return slots, None, _same, tuple(tells)
        evolve = decider.absorb if self._owned and decider.absorb is not None else decider.evolve
        return slots, decider.initial, evolve, tuple(tells)


def _finalize(host: Host, recorded: Recorded, event: Any) -> None:
    host.writer.hear(recorded)


def _same(state: Any, event: Any) -> Any:
    return state


def _union(hosts: Iterable[Host]) -> Registry:
    hosts = tuple(hosts)
    if len(hosts) == 1:
        return hosts[0].events
    classes = {c for host in hosts for c in host.events.classes.values()}
    upcasts = {key: up for host in hosts for key, up in host.events.upcasts.items()}
    return Registry(sorted(classes, key=lambda c: c.__name__), upcasts)
