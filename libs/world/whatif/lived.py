"""An answer beside what really came of it: by the log after the moment that was asked about, where it has happened since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from libs.common.messages import Recorded
from libs.common.registry import Registry
from libs.world.fork.slices import CannotFork
from libs.world.whatif.answer import Answer, Band
from proto.compute import VmStarted
from proto.lease import NodeLost
from proto.upcasts import UPCASTS

LIVED_MAX = 200_000
"""events that are read after that moment"""
_EVENTS = Registry((VmStarted, NodeLost), UPCASTS)


class Fate(msgspec.Struct, frozen=True):
    """Of a VM. node, real_node: where it was foretold to run, and where it ran first (empty: nowhere). foretold: None where it was
    not to run. real_s: until it was seen running; off_s: how far that is from what was foretold, 0: within."""

    vm: str
    node: str
    real_node: str
    foretold: Band | None
    real_s: float | None
    off_s: float

    @property
    def as_foretold(self) -> bool:
        return self.node == self.real_node


class Lived(msgspec.Struct, frozen=True):
    """when_us: at which it happened. lost: node -> foretold, and the seconds after which it was declared lost (None: it was not).
    Seconds from then. worst_s: of all that ran, how far the worst was from what was foretold."""

    when_us: int
    fates: tuple[Fate, ...]
    lost: dict[str, tuple[Band, float | None]]
    placed: int
    within: int
    worst_s: float


def moment(word: str) -> int:
    """Microseconds since 1970. Raises CannotFork."""
    try:
        return round(datetime.fromisoformat(word.strip()).astimezone().timestamp() * 1e6)
    except ValueError:
        raise CannotFork(f"`{word}` is no time: write when it happened, as 2026-11-20 14:03:07.5") from None


def lived(foretold: Answer, later: Iterable[Recorded], when_us: int) -> Lived:
    """later: what was written after the position of the answer. Raises CannotFork where nothing can be compared."""
    if when_us < foretold.at_us:
        raise CannotFork("it happened before the moment that is asked about: ask about an earlier one (--at)")
    ran: dict[str, tuple[str, float]] = {}
    lost: dict[str, float] = {}
    for recorded in later:
        if recorded.at_us < when_us or recorded.type not in _EVENTS.classes:
            continue
        match event := _EVENTS.event(recorded):
            case VmStarted():
                ran.setdefault(event.vm, (event.node, _s(recorded, when_us)))
            case NodeLost():
                lost.setdefault(event.node, _s(recorded, when_us))
    if not ran and not lost:
        raise CannotFork("nothing has come of it: after that time no node was lost, and no VM was started")
    fates = tuple(_fates(foretold, ran))
    return Lived(
        when_us=when_us, fates=fates, lost={one.node: (one.after, lost.get(one.node)) for one in foretold.lost},
        placed=sum(fate.as_foretold for fate in fates),
        within=sum(fate.as_foretold and not fate.off_s for fate in fates), worst_s=max((fate.off_s for fate in fates), default=0.0),
    )  # fmt: skip


def _fates(foretold: Answer, ran: dict[str, tuple[str, float]]) -> Iterator[Fate]:
    """Of those that are foretold to run, or not to, and of those that were started though nothing was foretold of them."""
    bands = {start.vm: (start.node, start.after) for start in foretold.starts}
    names = {*bands, *ran, *(down.vm for down in foretold.down)}
    for vm in sorted(names):
        node, band = bands.get(vm, ("", None))
        real_node, real_s = ran.get(vm, ("", None))
        off_s = max(0.0, band.least_s - real_s, real_s - band.most_s) if band and real_s is not None else 0.0
        yield Fate(vm, node, real_node, band, real_s, round(off_s, 3))


def _s(recorded: Recorded, when_us: int) -> float:
    return round((recorded.at_us - when_us) / 1e6, 3)
