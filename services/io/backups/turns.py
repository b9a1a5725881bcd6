"""Whose turn it is: schedules want backups at the same times, and a node takes few at once. Pure; a part of app.py's wiring.

look    who may take one now: on each node so many that AT_ONCE_MAX things are done there, into each pool so many that as many are
        taken as its rules allow; the most important VMs first, of these the one that waits longest. What is being done is seen in
        the log; what was decided and is not seen there yet may make it one more for a moment.
ticks   whose drill is to begin or to go on (drill_turns.py); who has one to read again or to let go: each VM is looked at once in
        REVIEW_S, at a second of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from zlib import crc32

from proto.backup_plans import TendBackups
from proto.devices import VmPhase
from proto.drills import TendDrill
from proto.hardware import leaving
from proto.machine import Priority
from proto.pools import PoolRules
from services.io.backups import drill_turns
from services.io.backups.drill_states import Drills
from services.io.backups.enriching import working
from services.io.backups.plans import retained, unread, wanted
from services.io.backups.states import Backups
from services.io.backups.taking import ON_ITS_WAY
from services.io.backups.tending import AT_ONCE_MAX

if TYPE_CHECKING:
    from services.io.views import Views

REVIEW_S = 30
_RANK = {priority: n for n, priority in enumerate(Priority)}


def look(now_us: int, views: Views) -> Iterator[TendBackups]:
    waiting = list[tuple[int, int, str]]()
    for vm, schedule in sorted(views.plans.schedules.items()):
        defined = views.backups.defined.get(vm)
        if defined is None or vm in views.backups.doing:
            continue
        if schedule.taking.unsaid or schedule.letting.unsaid:
            yield TendBackups(vm=vm, now_us=now_us)
        elif (due_us := wanted(schedule, now_us)) and _ready(vm, views):
            waiting.append((_RANK[defined.priority], due_us, vm))
    busy, taken = working(views), _taken(views)
    for _, _, vm in sorted(waiting):
        held, pool = views.disks.get(vm), views.plans.schedules[vm].plan.pool
        node = held.node if held is not None else ""
        where = pool, views.nodes[node].pool_ids.get(pool, "") if node in views.nodes else ""
        limit = views.pools.rules.get(pool, PoolRules()).backups_at_once
        if busy.get(node, 0) < AT_ONCE_MAX and (not limit or taken.get(where, 0) < limit):
            busy[node], taken[where] = busy.get(node, 0) + 1, taken.get(where, 0) + 1
            yield TendBackups(vm=vm, now_us=now_us, turn=True)


def _taken(views: Views) -> dict[tuple[str, str], int]:
    """How many are being taken into each pool."""
    taken: dict[tuple[str, str], int] = {}
    for doing in views.backups.doing.values():
        if doing.saved is not None:
            where = doing.saved.pool, doing.saved.pool_id
            taken[where] = taken.get(where, 0) + 1
    return taken


def _ready(vm: str, views: Views) -> bool:
    """It would not only wait (taking.take: BUSY), and keep the turn from others."""
    known, held = views.vms.get(vm), views.disks.get(vm)
    if known is None or known.phase in ON_ITS_WAY:
        return False
    disks = [disk for disk in (held.disks if held else ()) if not disk.bus.is_cd]
    coming = known.phase is not VmPhase.STOPPED and any(not disk.made for disk in disks)
    return not coming and not any(leaving(disk) for disk in disks)


def ticks(now_us: int, states: Iterable[tuple[str, Any]]) -> Iterator[TendBackups | TendDrill]:
    second = now_us // 1_000_000 % REVIEW_S
    drilled = list[tuple[str, Drills]]()
    for stream, state in states:
        if not isinstance(state, Backups):
            continue
        if state.drills is not None:
            drilled.append((stream.removeprefix("backups-"), state.drills))
        if state.schedule is not None and crc32(stream.encode()) % REVIEW_S == second:
            plan = state.schedule.plan
            if unread(state.schedule, state.backups, now_us)[0] or retained(state.backups, state.holds, plan):
                yield TendBackups(vm=stream.removeprefix("backups-"), now_us=now_us)
    yield from drill_turns.ticks(now_us, drilled)
