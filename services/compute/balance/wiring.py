"""The rebalancer among compute's other streams: what is asked of it, and when. Its moves are asked for as a person would ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.messages import Command, Recorded
from proto.balance import ApplyBalance, LookAtBalance, Mode, MovePlanned, NoteMoveEnded
from proto.migration import MigrateVm, VmMigrationEnded, VmMigrationFailed, VmMigrationRefused
from services.compute.balance.facts import BalanceViews
from services.compute.balance.model import Balance

LOOK_S = 10
"""Between two looks; ticks come once a second."""

_SECOND_US = 1_000_000


def react(event: Any, recorded: Recorded, views: BalanceViews) -> Sequence[Command]:
    """A planned move is a migration; the end of one that was planned here is noted."""
    match event:
        case MovePlanned(waits=False):
            why, whole = f"rebalancing: {event.reason}", bool(event.group)
            return [MigrateVm(vm=event.vm, node=event.target, reason=why, with_group=whole, planned=True)]
        case VmMigrationRefused() if event.vm in views.moving:
            return [NoteMoveEnded(vm=event.vm, moved=False, now_us=recorded.at_us, sentence=event.sentence)]
        case VmMigrationEnded() if event.vm in views.moving:
            return [NoteMoveEnded(vm=event.vm, moved=True, now_us=recorded.at_us)]
        case VmMigrationFailed() if event.vm in views.moving:
            return [NoteMoveEnded(vm=event.vm, moved=False, now_us=recorded.at_us, sentence=event.sentence)]
        case _:
            return ()


def ticks(now_us: int, state: Any) -> Iterable[Command]:
    """Where it may act, or waits for moves."""
    due = now_us // _SECOND_US % LOOK_S == 0
    if due and isinstance(state, Balance) and (state.mode is Mode.AUTO or state.moving):
        return [LookAtBalance(now_us=now_us)]
    return ()


def enrich(
    command: LookAtBalance | ApplyBalance, views: BalanceViews, online: Callable[[str], bool], now_us: int
) -> LookAtBalance | ApplyBalance:
    """With what is known of the cluster just before the decision."""
    load = views.load(online, now_us)
    if isinstance(command, LookAtBalance):
        return replace(command, load=load, under_way=views.under_way(), now_us=now_us)
    return replace(command, load=load, now_us=now_us)
