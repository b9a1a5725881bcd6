"""What memory is asked and answers from its ledgers and its views: `query.memory.<what>`. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from proto.ledgers import AskRelief, HeldShown, LedgerShown, LedgersShown, Relief
from proto.memory import Purpose
from services.memory.admit import room_mib
from services.memory.ladder import level_of, min_free_mib
from services.memory.policy_wish import going
from services.memory.states import Grip, Ledger
from services.memory.views import Views

_ask = msgspec.msgpack.Decoder(AskRelief).decode


def query(what: str, data: bytes, states: Mapping[str, Any], views: Views) -> LedgersShown | Relief:
    """Raises KeyError for unknown words, LookupError for a node without a ledger."""
    if what == "relief":
        return _relief(_ask(data), states)
    if what != "ledgers":
        raise KeyError(what)
    names = sorted(stream for stream, state in states.items() if isinstance(state, Ledger))
    shown = (_shown(stream.removeprefix("ledger-"), states[stream], views) for stream in names)
    return LedgersShown(ledgers=tuple(shown))


def _relief(ask: AskRelief, states: Mapping[str, Any]) -> Relief:
    ledger = states.get(f"ledger-{ask.node}")
    if not isinstance(ledger, Ledger):
        raise LookupError("there is no such ledger")
    vms, enough = going(ledger, ask.policy)
    return Relief(vms=vms, enough=enough)


def _shown(node: str, ledger: Ledger, views: Views) -> LedgerShown:
    """Of a node that was not heard for long the last word is shown, with its time."""
    view = views.nodes.get(node)
    seen = views.seen(view, view.heard_us) if view is not None else None
    min_free = min_free_mib(seen.total_mib) if seen is not None else 0
    held = tuple(
        HeldShown(vm=vm, generation=r.generation, promise=r.promise, taken=dict(_taken(ledger.grips.get(vm))))
        for vm, r in sorted(ledger.reserved.items())
    )
    return LedgerShown(
        node=node,
        physical_mib=ledger.physical_mib,
        capacity_mib=ledger.capacity_mib,
        share_mib=ledger.share_mib,
        room_mib=room_mib(ledger, Purpose.START),
        reserved_mib=ledger.reserved_mib,
        charged_mib=ledger.charged_mib,
        swap_mib=ledger.swap_mib,
        areas=ledger.areas,
        areas_set=ledger.areas_set,
        policy=ledger.policy,
        held=held,
        faults=ledger.faults,
        level=level_of(seen, min_free).value if seen is not None else "",
        min_free_mib=min_free,
        nominal_mib=sum(r.promise.nominal_mib for r in ledger.reserved.values()),
        control_plane=ledger.control_plane,
        memory_areas=ledger.memory_areas,
        seen=seen,
    )


def _taken(grip: Grip | None) -> Iterator[tuple[str, int]]:
    if grip is None:
        return
    if grip.target_mib >= 0:
        yield "balloon", grip.target_mib
    if grip.swap_mib:
        yield "swap", grip.swap_mib
    for rung in ("merge", "move", "pause"):
        if getattr(grip, rung):
            yield rung, 1
