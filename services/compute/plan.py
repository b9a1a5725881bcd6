"""The schedule of one node (stream `plan-NODE`). Pure.

    MakePlan (inputs) ──something differs──▶ PlanMade ──order──▶ agent ──ReportPlan──▶ PlanApplied | PlanFaulted
    ReviewPlan (telemetry) ──a better one──▶ PlanMade

Its state is the whole plan; an event holds only what changed. `revision` counts the plans; the order carries it, and a report
counts only for the revision it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never, get_args

import msgspec
from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, Value, VmId
from proto.compute import Refusal
from proto.plan import (
    MakePlan,
    NodeCpus,
    OrderPlan,
    PlanApplied,
    PlanCommand,
    PlanEvent,
    PlanFault,
    PlanFaulted,
    PlanInputs,
    PlanLack,
    PlanLimited,
    PlanMade,
    ReportPlan,
    ReviewPlan,
    VmNeeds,
    VmPlan,
)
from services.compute.plan_limits import Pcpus
from services.compute.plan_moves import Move, improve
from services.compute.plan_policy import POLICY, make

SATISFIED_PCT = 80.0
"""A VM that gets less of what it demands is not satisfied."""

LOW_S_MIN = 10.0
"""For so long one must be unsatisfied before another plan is looked for: bursts pass by themselves."""

COOL_DOWN_US = 60_000_000
"""After a rebalance, until its effect has shown."""


class Plan(Value):
    """The plan as decided. applied: the latest revision that the agent has set; faults: what it could not of this one; lacking:
    what it can apply to no VM."""

    revision: int = 0
    cpus: NodeCpus = NodeCpus(cells=())
    needs: dict[str, VmNeeds] = msgspec.field(default_factory=dict)
    vms: dict[str, VmPlan] = msgspec.field(default_factory=dict)
    applied: int = 0
    faults: tuple[PlanFault, ...] = ()
    rebalanced_us: int = 0
    lacking: tuple[PlanLack, ...] = ()


def decide(command: PlanCommand, plan: Plan) -> Sequence[PlanEvent]:
    match command:
        case MakePlan():
            return () if command.inputs is None else _make(command.node, command.inputs, plan)
        case ReviewPlan():
            return _review(command, plan)
        case ReportPlan():
            return _report(command, plan)
        case _:
            assert_never(command)


def _make(node: str, inputs: PlanInputs, plan: Plan, move: Move | None = None, now_us: int = 0) -> Sequence[PlanEvent]:
    homes: dict[str, Pcpus] = {vm: old.pcpus for vm, old in plan.vms.items()}
    if move is not None:
        homes[move.vm] = move.pcpus
    made = make(inputs, homes) if inputs.cpus.cells else ()
    changed = tuple(vm for vm in made if plan.vms.get(vm.vm) != vm)
    gone = tuple(VmId(vm) for vm in sorted(set(plan.vms) - {vm.vm for vm in made}))
    if not changed and not gone:
        return ()
    return [
        PlanMade(
            node=NodeId(node),
            revision=plan.revision + 1,
            policy=POLICY,
            vms=changed,
            gone=gone,
            needs=tuple(vm for vm in inputs.vms if plan.needs.get(vm.vm) != vm),
            cpus=inputs.cpus if inputs.cpus != plan.cpus else None,
            moved=move.vm if move else "",
            gain_pct=move.gain_pct if move else 0.0,
            at_us=now_us,
            sentence=move.sentence if move else "",
        )
    ]


def _review(command: ReviewPlan, plan: Plan) -> Sequence[PlanEvent]:
    """Another plan only when one VM has been unsatisfied for a while, the last rebalance is past, and enough is gained."""
    patient = command.worst_pct >= SATISFIED_PCT or command.low_s < LOW_S_MIN
    if patient or command.now_us < plan.rebalanced_us + COOL_DOWN_US:
        return ()
    memory_mib = {vm: needs.memory_mib for vm, needs in plan.needs.items()}
    move = improve(plan.cpus, plan.vms, command.demand_pct, memory_mib)
    if move is None:
        return ()
    inputs = PlanInputs(cpus=plan.cpus, vms=tuple(plan.needs[vm] for vm in sorted(plan.needs)))
    return _make(command.node, inputs, plan, move, command.now_us)


def _report(fact: ReportPlan, plan: Plan) -> Sequence[PlanEvent]:
    if fact.order_incarnation != fact.incarnation or fact.order_version < plan.revision:
        return ()
    if fact.order_version > plan.revision:
        said = f"{fact.node} reports plan {fact.order_version}; the log knows {plan.revision}"
        raise Refused(Refusal.NOT_PERMITTED, said, "report only what was ordered of this node")
    known = {vm.vm for vm in plan.vms.values()}
    faults = tuple(fault for fault in fact.faults if fault.vm in known)
    tried = bool(fact.applied or faults)
    changed = tried and fact.lacking != plan.lacking
    events: list[PlanEvent] = [PlanLimited(node=fact.node, lacking=fact.lacking)] if changed else []
    if faults:
        same = faults == plan.faults
        return events if same else [*events, PlanFaulted(node=fact.node, revision=plan.revision, faults=faults)]
    whole = known <= set(fact.applied)
    if whole and (plan.applied < plan.revision or plan.faults or changed):
        partial = tuple(lack.part for lack in fact.lacking)
        events.append(PlanApplied(node=fact.node, revision=plan.revision, partial=partial))
    return events


def evolve(plan: Plan, event: PlanEvent) -> Plan:
    match event:
        case PlanApplied():
            return replace(plan, applied=event.revision, faults=())
        case PlanMade():
            return _made(plan, event, plan.needs.copy(), plan.vms.copy())
        case PlanFaulted():
            return replace(plan, faults=event.faults)
        case PlanLimited():
            return replace(plan, lacking=event.lacking)
        case _:
            assert_never(event)


def absorb(plan: Plan, event: PlanEvent) -> Plan:
    """Its maps go over to the next. (Those of the first plan are everybody's.)"""
    if type(event) is PlanMade and plan.revision:
        return _made(plan, event, plan.needs, plan.vms)
    return evolve(plan, event)


def _made(plan: Plan, event: PlanMade, needs: dict[str, VmNeeds], vms: dict[str, VmPlan]) -> Plan:
    """needs, vms: of the plan, to be changed."""
    for need in event.needs:
        needs[need.vm] = need
    for one in event.vms:
        vms[one.vm] = one
    for name in event.gone:
        needs.pop(name, None)
        vms.pop(name, None)
    return Plan(
        revision=event.revision,
        cpus=event.cpus if event.cpus is not None else plan.cpus,
        needs=needs,
        vms=vms,
        applied=plan.applied,
        rebalanced_us=event.at_us or plan.rebalanced_us,
        lacking=plan.lacking,
    )


def order(stream: str, plan: Plan) -> OrderPlan | None:
    """What the node's agent is to be told; its version is the plan's revision. Nothing, where no VM runs."""
    if not plan.vms:
        return None
    vms = tuple(plan.vms[vm] for vm in sorted(plan.vms))
    return OrderPlan(node=stream.removeprefix("plan-"), version=plan.revision, vms=vms)


PLAN: Decider[PlanCommand, Plan, PlanEvent] = Decider(
    kind="plan",
    commands=get_args(PlanCommand),
    events=get_args(PlanEvent),
    state=Plan,
    key=lambda command: command.node,
    initial=Plan(),
    decide=decide,
    evolve=evolve,
    absorb=absorb,
)
