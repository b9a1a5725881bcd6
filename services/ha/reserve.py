"""What is kept free for the VMs of lost nodes (stream `reserve-main`). Pure. The rule is in reserve_rule.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from libs.common.decider import Decider
from libs.common.messages import Value
from proto.lease import MAIN
from proto.reserve import Plan, ReserveCommand, ReserveEvent, ReserveSet, WeighReserve

LOWER_US = 10_000_000
"""What is kept grows at once, and shrinks no sooner than this after it last changed: a VM that is started again at once, or goes
from one node to another, moves nothing."""


class Kept(Value, tag=True):
    plan: Plan | None = None
    at_us: int = 0


def decide(command: ReserveCommand, kept: Kept) -> Sequence[ReserveEvent]:
    plan, before = command.plan, kept.plan
    if plan is None or plan == before:
        return ()
    if before is not None and _eases(plan, before) and command.now_us - kept.at_us < LOWER_US:
        return ()
    return [ReserveSet(at_us=command.now_us, plan=plan)]


def _eases(plan: Plan, before: Plan) -> bool:
    """The same is asked for, and no node has to keep more of it."""
    same = (plan.kind, plan.nodes, plan.pct, plan.away) == (before.kind, before.nodes, before.pct, before.away)
    return same and plan.shares.keys() <= before.shares.keys() and all(m <= before.shares[n] for n, m in plan.shares.items())


def evolve(kept: Kept, event: ReserveEvent) -> Kept:
    return Kept(plan=event.plan, at_us=event.at_us)


RESERVE: Decider[WeighReserve, Kept, ReserveSet] = Decider(
    kind="reserve",
    commands=get_args(ReserveCommand) or (WeighReserve,),
    events=get_args(ReserveEvent) or (ReserveSet,),
    state=Kept,
    key=lambda command: MAIN,
    initial=Kept(),
    decide=decide,
    evolve=evolve,
)
