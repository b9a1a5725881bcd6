"""Who would have to go so that what a node promised fits again: after a loss of memory, or before a stricter policy holds. Pure.

Best-effort VMs first, then normal, then important ones, of a class the largest; and nobody whose going is not needed in the end.
A critical VM is never named.
"""

from __future__ import annotations

from collections.abc import Mapping

from libs.memory.promise import guaranteed_mib, whole_mib
from proto.ladder import MemoryPolicy
from proto.machine import Priority
from proto.memory import Area, Promise
from services.memory.admit import over

ORDER = {Priority.BEST_EFFORT: 0, Priority.NORMAL: 1, Priority.IMPORTANT: 2}


def relief(
    promises: Mapping[str, Promise], policy: MemoryPolicy, areas: tuple[Area, ...], room_mib: int
) -> tuple[tuple[str, ...], bool]:
    """(who has to go, whether that is enough). Nobody, where all fits."""
    stays = dict(promises)
    going: list[str] = []
    for vm in sorted((vm for vm, p in promises.items() if p.priority in ORDER), key=lambda vm: _rank(vm, promises[vm])):
        if _fits(stays, policy, areas, room_mib):
            break
        going.append(vm)
        del stays[vm]
    if not _fits(stays, policy, areas, room_mib):
        return tuple(going), False
    for vm in sorted(going, key=lambda vm: (-ORDER[promises[vm].priority], whole_mib(promises[vm]), vm)):
        if _fits({**stays, vm: promises[vm]}, policy, areas, room_mib):
            stays[vm] = promises[vm]
            going.remove(vm)
    return tuple(going), True


def _rank(vm: str, promise: Promise) -> tuple[int, int, str]:
    return ORDER[promise.priority], -max(guaranteed_mib(promise), promise.nominal_mib), vm


def _fits(promises: Mapping[str, Promise], policy: MemoryPolicy, areas: tuple[Area, ...], room_mib: int) -> bool:
    return not any(over(promises.values(), policy, areas, room_mib))
