"""Why a VM is not on a node, or is not started: the last recorded word on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from proto import compute as c
from proto.migration import VmMigrationFailed, VmMigrationRequested
from services.gateway.views.guards import Guarded
from services.gateway.views.vms import Vm
from services.gateway.why.placing import evidence_of, why_not_node
from services.gateway.why.reading import Refusal
from services.gateway.why.tree import Known


class WhyNot(msgspec.Struct):
    """at_us: when it was decided or seen; 0: nothing recorded speaks of it. remedy: what would make it so, where that was said."""

    question: str
    sentence: str
    at_us: int = 0
    position: int = 0
    evidence: list[str] = []
    remedy: str = ""


def not_on_node(vm: Vm, node: str, events: Sequence[Known], refused: Sequence[Refusal], number: int = -1) -> WhyNot:
    """events: the VM's, in order; refused: newest first; number: the node's, in the order of joining."""
    question = f"why is {vm.name} not on {node}?"
    if vm.node == node:
        return WhyNot(question, f"{vm.name} is on {node}", vm.changed_us)
    last = _last(events, c.VmStartRequested, VmMigrationRequested)
    refusal = _newer(refused, last)
    if refusal is not None:
        return WhyNot(question, f"its last start was refused: {refusal.sentence}", refusal.at_us, remedy=refusal.remedy)
    if last is None:
        return WhyNot(question, f"no start of {vm.name} is recorded: no node was ever chosen for it")
    said, evidence = why_not_node(last.event.placement, node, number)
    where = last.recorded
    if not said:
        ended = _last(events, c.VmStartFailed, c.VmStopped, VmMigrationFailed)
        said = f"{node} was chosen, but {vm.name} is {vm.state}" + (f": {_end(ended.event)}" if ended else "")
    return WhyNot(question, said, where.at_us, where.position, evidence)


def not_started(vm: Vm, events: Sequence[Known], refused: Sequence[Refusal], guarded: Guarded | None = None) -> WhyNot:
    """As above. guarded: what is known of its guard."""
    question = f"why is {vm.name} not started?"
    if vm.state == "stopped" and guarded is not None and guarded.owed is not None:
        owed = guarded.owed
        return WhyNot(
            question, f"it is to run, and is tried again: {owed.sentence}", owed.since_us, guarded.positions[-1],
            remedy=owed.remedy,
        )  # fmt: skip
    if vm.state == "stopped" and guarded is not None and guarded.ended:
        said = f"its guard let it go: {guarded.ended}"
        return WhyNot(question, said, vm.changed_us, guarded.positions[-1], remedy=f"start {vm.name}")
    if vm.state not in ("stopped", "starting"):
        return WhyNot(question, f"{vm.name} is {vm.state} on {vm.node}", vm.changed_us)
    if vm.state == "starting":
        return _still_starting(question, vm, events)
    ended = _last(events, c.VmStartFailed, c.VmStopped)
    refusal = _newer(refused, ended)
    if refusal is not None:
        return WhyNot(question, f"its start was refused: {refusal.sentence}", refusal.at_us, remedy=refusal.remedy)
    if ended is None:
        return WhyNot(
            question, "nobody has asked for a start since it was defined", vm.defined_us, remedy=f"start {vm.name}"
        )
    return _ended(question, vm, ended, _last(events, c.VmStartRequested))


def _ended(question: str, vm: Vm, ended: Known, asked: Known | None) -> WhyNot:
    """Nothing starts it by itself. Where its start came to nothing: with the choice that this was."""
    failed = isinstance(ended.event, c.VmStartFailed)
    lines = evidence_of(asked.event) if failed and asked is not None else []
    remedy = f"see to that, and start {vm.name}" if failed else f"start {vm.name}"
    return WhyNot(question, _end(ended.event), ended.recorded.at_us, ended.recorded.position, lines, remedy)


def _still_starting(question: str, vm: Vm, events: Sequence[Known]) -> WhyNot:
    asked = _last(events, c.VmStartRequested)
    since = asked.recorded.position if asked else 0
    kinds = {type(known.event) for known in events if known.recorded.position > since}
    waits = [
        what
        for kind, what in (
            (c.VmMemoryNoted, f"{vm.node}'s memory ledger"),
            (c.VmDevicesNoted, "io for its disks and NICs"),
            (c.VmStarted, f"the agent of {vm.node} to see it run"),
        )
        if kind not in kinds
    ]
    said = f"it is being started on {vm.node}; waiting for {', '.join(waits) or 'nothing any more'}"
    evidence = evidence_of(asked.event) if asked else []
    return WhyNot(question, said, vm.changed_us, since, evidence)


def _end(event: Any) -> str:
    match event:
        case c.VmStartFailed():
            return f"its start on {event.node} came to nothing: {event.sentence}"
        case VmMigrationFailed():
            return f"its migration to {event.to} came to nothing: {event.sentence}"
        case _:
            said = f": {event.sentence}" if event.sentence else ""
            return f"its process on {event.node} ended ({event.cause}){said}"


def _last(events: Sequence[Known], *kinds: type) -> Known | None:
    return next((known for known in reversed(events) if isinstance(known.event, kinds)), None)


def _newer(refused: Sequence[Refusal], known: Known | None) -> Refusal | None:
    """The newest refused start, if it came after that event."""
    for refusal in refused:
        if refusal.command == "start_vm":
            return refusal if known is None or refusal.at_us > known.recorded.at_us else None
    return None
