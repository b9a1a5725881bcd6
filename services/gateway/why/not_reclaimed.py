"""Why nothing of a VM's memory is taken back: its class, or what the ladder of its node has decided. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from proto.ladder import LadderClimbed, LadderDescended
from proto.machine import Priority
from services.gateway.reclaim import figures, said
from services.gateway.views.ledgers import Promised
from services.gateway.views.vms import Vm
from services.gateway.why.not_so import WhyNot
from services.gateway.why.tree import Known


def not_reclaimed(vm: Vm, promised: Promised | None, own: Sequence[Known], of_node: Sequence[Known]) -> WhyNot:
    """promised: what its node's ledger holds of it. own: the story of this VM's memory; of_node: the node's; each in order."""
    question = f"why is none of {vm.name}'s memory taken back?"
    if promised is None:
        return WhyNot(question, f"{vm.name} is {vm.state}: no node's memory is promised to it", vm.changed_us)
    last = _last(of_node, LadderClimbed)
    if promised.priority == Priority.CRITICAL:
        kept = f"all its {promised.nominal_mib} MiB are reserved, and the ladder never touches a critical VM"
        return _answer(question, f"{vm.name} is critical: {kept}", last)
    decision = _last(_of_run(own, vm), LadderClimbed, LadderDescended)
    if decision is not None:
        told = said(decision.event)
        up = isinstance(decision.event, LadderClimbed)
        verb = "something was taken" if up else "some or all of what was taken is given again"
        lines = figures(decision.event.steps)
        return WhyNot(question, f"{verb}: {told}", decision.recorded.at_us, decision.recorded.position, lines)
    floor = f"of its {promised.nominal_mib} MiB {promised.reservation_mib} are reserved and would never be taken"
    if last is None:
        return WhyNot(question, f"{vm.node} is not recorded to have taken memory back from any VM lately; {floor}")
    return _answer(question, f"no decision of the ladder of {vm.node} lately was about it; {floor}", last)


def _answer(question: str, sentence: str, last: Known | None) -> WhyNot:
    """With the node's last decision to take as evidence, if there is one."""
    if last is None:
        return WhyNot(question, sentence)
    return WhyNot(question, sentence, last.recorded.at_us, last.recorded.position, [said(last.event), *figures(last.event.steps)])


def _of_run(own: Sequence[Known], vm: Vm) -> list[Known]:
    """The decisions about the process that runs now."""
    decisions = (known for known in own if isinstance(known.event, LadderClimbed | LadderDescended))
    return [known for known in decisions if any(step.generation == vm.generation for step in known.event.steps)]


def _last(events: Sequence[Known], *kinds: type) -> Known | None:
    return next((known for known in reversed(events) if isinstance(known.event, kinds)), None)
