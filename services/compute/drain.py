"""Emptying a node (stream `drain-NODE`). Pure.

    Idle ──drain (all fit, or partial)──▶ Draining ⟲ a VM is wanted away      AT_ONCE_MAX at once, ATTEMPTS_MAX each
      ▲                                      │
      └── nothing is left that could go ─────┘   (or the node is uncordoned)

It wants moves and counts; whether and where each VM goes is decided in its own stream, as for any migration. It ends when the
node is empty, or when what is left was tried as often as it is to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec
from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId, Value
from proto.compute import Refusal
from proto.drain import (
    AdvanceDrain,
    DrainCommand,
    DrainEvent,
    DrainNode,
    DrainPlan,
    EndDrain,
    NodeDrained,
    NodeDrainEnded,
    NodeDrainRequested,
    NodeMoveWanted,
)

AT_ONCE_MAX = 2
"""More at a time share one network, and each takes longer to get ahead of what its guest writes."""
ATTEMPTS_MAX = 3
AGAIN_US = 10_000_000
"""how long a VM that was wanted away may take to begin before it is wanted again"""
NAMES_MAX = 5


class State(Value, tag=True):
    pass


class Idle(State):
    pass


class Asked(Value):
    attempts: int
    at_us: int = 0


class Draining(State, kw_only=True):
    """asked: how often each VM was wanted away, and when last."""

    plan: DrainPlan
    partial: bool = False
    asked: dict[str, Asked] = msgspec.field(default_factory=dict)


Drain = Idle | Draining


def decide(command: DrainCommand, drain: Drain) -> Sequence[DrainEvent]:
    match command:
        case DrainNode():
            return _begin(command, drain)
        case EndDrain():
            ended = NodeDrainEnded(node=NodeId(command.node), sentence="it takes VMs again")
            return [ended] if isinstance(drain, Draining) else ()
        case AdvanceDrain():
            return _advance(command, drain) if isinstance(drain, Draining) else ()


def _begin(command: DrainNode, drain: Drain) -> Sequence[DrainEvent]:
    plan = command.plan
    if plan is None:
        raise Refused(Refusal.NODE_UNKNOWN, f"{command.node} is not a node of this cluster", "see `node ls`")
    if isinstance(drain, Draining):
        return ()
    if plan.unfit and not command.partial:
        whole = len(plan.moves) + len(plan.unfit)
        named = "; ".join(f"{u.vm}: {u.sentence}" for u in plan.unfit[:NAMES_MAX])
        more = f"; and {len(plan.unfit) - NAMES_MAX} more" if len(plan.unfit) > NAMES_MAX else ""
        raise Refused(
            Refusal.NO_NODE_FITS,
            f"{len(plan.unfit)} of {whole} VMs on {command.node} fit nowhere else: {named}{more}",
            f"{plan.unfit[0].remedy}; or let those that fit go (--partial)",
        )
    return [
        NodeDrainRequested(
            node=NodeId(command.node), plan=plan, partial=command.partial, reason=command.reason
        )
    ]


def _advance(tick: AdvanceDrain, drain: Draining) -> Sequence[DrainEvent]:
    node = NodeId(tick.node)
    recent = {vm for vm, asked in drain.asked.items() if tick.now_us - asked.at_us < AGAIN_US}
    busy = set(tick.moving) | (recent & set(tick.ready))
    planned = {move.vm: move.to for move in drain.plan.moves}
    order = [*planned, *(vm for vm in tick.ready if vm not in planned)]
    todo = [vm for vm in order if vm in tick.ready and vm not in busy and _attempts(drain, vm) < ATTEMPTS_MAX]
    wanted = [
        NodeMoveWanted(
            node=node,
            vm=vm,
            attempt=_attempts(drain, vm) + 1,
            at_us=tick.now_us,
            to="" if _attempts(drain, vm) else planned.get(vm, ""),
        )
        for vm in todo[: max(0, AT_ONCE_MAX - len(busy))]
    ]
    if wanted or busy:
        return wanted
    exhausted = {vm for vm in tick.ready if _attempts(drain, vm) >= ATTEMPTS_MAX}
    return [NodeDrained(node=node, left=tuple(tick.here))] if set(tick.here) <= exhausted else ()


def _attempts(drain: Draining, vm: str) -> int:
    asked = drain.asked.get(vm)
    return asked.attempts if asked else 0


def evolve(drain: Drain, event: DrainEvent) -> Drain:
    match event:
        case NodeDrainRequested():
            return Draining(plan=event.plan, partial=event.partial)
        case NodeMoveWanted() if isinstance(drain, Draining):
            return replace(drain, asked=drain.asked | {event.vm: Asked(attempts=event.attempt, at_us=event.at_us)})
        case NodeDrained() | NodeDrainEnded():
            return Idle()
        case _:
            return drain


DRAIN: Decider[DrainCommand, Drain, DrainEvent] = Decider(
    kind="drain",
    commands=get_args(DrainCommand),
    events=get_args(DrainEvent),
    state=Drain,
    key=lambda command: command.node,
    initial=Idle(),
    decide=decide,
    evolve=evolve,
)
