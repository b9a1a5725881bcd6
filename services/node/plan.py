"""The node's schedule plan, in the eyes of its agent. A stepper beside model.Agent: orders, results and time in, effects out.

    order(revision) --each VM--> applying --read back--> done | faults --all--> reported, repeated until heard

Nothing of it is kept on disk: after a start of the agent the order comes again. A VM's part is applied when the plan is new, when
its process or its vCPU threads are (a start, an adoption, a hot-added vCPU), and every VERIFY_US, as others may have undone it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from libs.common.messages import NodeId, Reply
from proto.node import Heard
from proto.plan import OrderPlan, PlanFault, PlanLack, ReportPlan, VmPlan
from services.node.drivers import Machine
from services.node.effects import AnswerOrder, SendFact
from services.node.vm import REPORT_MAX_US, REPORT_US

PLAN_KEY = "_plan"
"""the key of its reports, beside those of VMs"""

VERIFY_US = 10_000_000
RETRY_US = 1_000_000


@dataclass(frozen=True, slots=True)
class ApplyPlan:
    """Let the driver set it, then `on_applied(plan, revision, faults)`; faults None: no such VM here."""

    plan: VmPlan
    revision: int


@dataclass(slots=True)
class _Part:
    """What became of one VM's part. pid, vcpus: of the process it was applied to (vcpus 0: not known)."""

    revision: int
    pid: int
    at_us: int
    vcpus: int = 0
    doing: bool = True
    missing: bool = False
    """the driver has no such VM, whatever the agent thinks"""
    faults: tuple[PlanFault, ...] = ()


@dataclass(slots=True)
class Plans:
    node: NodeId
    incarnation: int = 1
    """the highest that any order named"""
    order: OrderPlan | None = None
    parts: dict[str, _Part] = field(default_factory=dict)
    fact: ReportPlan | None = None
    serial: int = 0
    heard: int = 0
    next_us: int = 0
    wait_us: int = REPORT_US

    def plan_of(self, vm: str) -> VmPlan | None:
        return next((plan for plan in self.order.vms if plan.vm == vm), None) if self.order else None

    def faults_of(self, vm: str) -> tuple[PlanFault, ...]:
        part = self.parts.get(vm)
        return part.faults if part else ()

    def known(self, fault: PlanFault) -> bool:
        """It was found before: of this VM, or of all."""
        if fault.node_wide:
            found = (other for part in self.parts.values() for other in part.faults)
            return any(other.node_wide and other.part == fault.part for other in found)
        return fault in self.faults_of(fault.vm)

    def on_order(
        self, ref: object, order: OrderPlan, machines: Mapping[str, Machine], now_us: int
    ) -> list[AnswerOrder | ApplyPlan | SendFact]:
        if order.incarnation < self.incarnation:
            said = f"the order is of incarnation {order.incarnation} of the log; this node has met {self.incarnation}"
            return [AnswerOrder(ref, Heard(accepted=False, sentence=said))]
        before = (self.order.incarnation, self.order.version) if self.order else (0, 0)
        if (order.incarnation, order.version) < before:
            said = f"plan {order.version} is older than {before[1]}"
            return [AnswerOrder(ref, Heard(accepted=False, sentence=said))]
        self.incarnation = order.incarnation
        if (order.incarnation, order.version) > before:
            self.order, self.fact = order, None
            self.parts = {vm: part for vm, part in self.parts.items() if part.doing}
        elif self.fact is not None:
            self.heard, self.next_us = self.serial - 1, now_us
        return [AnswerOrder(ref, Heard(accepted=True)), *self.on_tick(machines, now_us)]

    def on_tick(self, machines: Mapping[str, Machine], now_us: int) -> list[AnswerOrder | ApplyPlan | SendFact]:
        """machines: the VMs with a process, by name."""
        out: list[AnswerOrder | ApplyPlan | SendFact] = []
        if self.order is None:
            return out
        for plan in self.order.vms:
            machine = machines.get(plan.vm)
            if machine is None or machine.generation != plan.generation:
                self.parts.pop(plan.vm, None)
                continue
            part = self.parts.get(plan.vm)
            if part is None or self._stale(part, machine, now_us):
                self.parts[plan.vm] = _Part(self.order.version, machine.pid, now_us, faults=part.faults if part else ())
                out.append(ApplyPlan(plan, self.order.version))
        return [*out, *self._report(machines, now_us)]

    def _stale(self, part: _Part, machine: Machine, now_us: int) -> bool:
        assert self.order is not None
        if part.doing:
            return False
        late = now_us - part.at_us >= (RETRY_US if part.missing else VERIFY_US)
        return late or part.pid != machine.pid or part.revision < self.order.version

    def on_applied(self, plan: VmPlan, revision: int, faults: tuple[PlanFault, ...] | None) -> None:
        part = self.parts.get(plan.vm)
        if part is None:
            return
        part.revision, part.doing, part.missing, part.faults = revision, False, faults is None, faults or ()

    def on_threads(self, vm: str, vcpus: int) -> None:
        """So many vCPU threads were seen; another number than before means that one was plugged: its part is stale."""
        part = self.parts.get(vm)
        if part is None or part.doing:
            return
        if part.vcpus not in (0, vcpus):
            part.at_us = -VERIFY_US
        part.vcpus = vcpus

    def on_reply(self, serial: int, reply: Reply) -> None:
        if reply.status != "unavailable":
            self.heard = max(self.heard, serial)

    def _report(self, machines: Mapping[str, Machine], now_us: int) -> list[SendFact]:
        """What was made of the plan, once all that runs here was tried; again when it is another."""
        assert self.order is not None
        if any(part.doing or part.revision < self.order.version for part in self.parts.values()):
            return []
        done = {plan.vm: self.parts[plan.vm] for plan in self.order.vms if plan.vm in self.parts}
        done = {vm: part for vm, part in done.items() if not part.missing}
        fact = ReportPlan(
            node=self.node,
            order_version=self.order.version,
            applied=tuple(sorted(vm for vm, part in done.items() if all(fault.node_wide for fault in part.faults))),
            faults=tuple(fault for vm in sorted(done) for fault in done[vm].faults if not fault.node_wide),
            order_incarnation=self.order.incarnation,
            lacking=_lacking(fault for vm in sorted(done) for fault in done[vm].faults),
        )
        if fact != self.fact:
            self.fact, self.serial, self.next_us, self.wait_us = fact, self.serial + 1, now_us, REPORT_US
        if self.heard >= self.serial or self.next_us > now_us:
            return []
        self.next_us, self.wait_us = now_us + self.wait_us, min(self.wait_us * 2, REPORT_MAX_US)
        return [SendFact(PLAN_KEY, self.serial, "compute", fact)]


def _lacking(faults: Iterable[PlanFault]) -> tuple[PlanLack, ...]:
    """Each part once, by name."""
    found = {fault.part: fault.sentence for fault in faults if fault.node_wide}
    return tuple(PlanLack(part=part, sentence=said) for part, said in sorted(found.items()))
