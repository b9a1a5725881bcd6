"""Who is recovered by a wave, who is left out, and in which order, each with its reason. Pure.

A VM comes after all that it depends on. Among those that may come, the class decides, then the smaller: it is home sooner. A VM on
which one of a higher class depends counts as of that class: else what is critical would wait for what is not.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

from libs.common.decider import Refused
from libs.common.instants import utc
from libs.common.messages import Value
from proto.devices import VmPhase
from proto.io import Refusal
from proto.machine import Priority
from proto.waves import LEFT_MAX, STEPS_MAX, WaveCandidate, WaveKnown, WaveLeft, WaveStep, WaveWish

NAMES_MAX = 10
"""VMs named in one sentence"""
RANK: Mapping[Priority, int] = {priority: n for n, priority in enumerate(Priority)}


class Order(Value):
    """lose: of which VMs what is on their disks is thrown away."""

    steps: tuple[WaveStep, ...]
    left: tuple[WaveLeft, ...]
    left_more: int
    lose: tuple[str, ...]


def order(wish: WaveWish, known: WaveKnown) -> Order:
    """Raises Refused: NOT_DEFINED, CIRCLE."""
    if known.unknown:
        said = f"there is neither a VM nor a backup of {named(known.unknown)}"
        raise Refused(Refusal.NOT_DEFINED, said, "see asvctl vm ls and asvctl backup ls")
    left = {one.vm: WaveLeft(vm=one.vm, sentence=said, well=well) for one in known.candidates for said, well in why_not(one)}
    wanted = {one.vm: one for one in known.candidates if one.vm not in left}
    firsts = _firsts(wish, known, wanted)
    if (circle := _circle(firsts)) is not None:
        said = f"{' waits for '.join(circle)}: none of them could be the first"
        raise Refused(Refusal.CIRCLE, said, "leave one of these dependencies out (--after, or the VM's guard)")
    _leave_those_after(wish, known, wanted, left)
    firsts = {vm: tuple(f for f in those if f in wanted) for vm, those in firsts.items() if vm in wanted}
    steps = tuple(_sorted(wanted, firsts))
    rest = sorted(left.values(), key=lambda one: (one.well, one.vm))
    lose = tuple(step.vm for step in steps if step.lose)
    return Order(steps=steps, left=tuple(rest[:LEFT_MAX]), left_more=max(0, len(rest) - LEFT_MAX), lose=lose)


def check(order: Order, wish: WaveWish) -> None:
    """May it be done as it is? Raises Refused: NOTHING_TO_RECOVER, TOO_MANY, NOT_CONFIRMED."""
    if not order.steps:
        why = "; ".join(f"{one.vm}: {one.sentence}" for one in order.left[:NAMES_MAX])
        said = f"none of {len(order.left) + order.left_more} VMs can or needs to be recovered: {why}"
        raise Refused(Refusal.NOTHING_TO_RECOVER, said if order.left else "there is no such VM", "name others")
    if len(order.steps) > STEPS_MAX:
        said = f"{len(order.steps)} VMs are more than the {STEPS_MAX} that one wave takes"
        raise Refused(Refusal.TOO_MANY, said, "recover them by node, or by name")
    unsaid = [vm for vm in order.lose if vm not in wish.lose]
    if unsaid and wish.lose_count != len(order.lose):
        many = len(order.lose)
        said = f"what {many} VMs have on their disks would be thrown away: {named(order.lose)}"
        raise Refused(Refusal.NOT_CONFIRMED, said, f"say that you know: --lose {many}, or name each by --lose")


def why_not(one: WaveCandidate) -> Iterable[tuple[str, bool]]:
    """(why it is left out, whether it needs nothing); nothing: it is to be recovered."""
    if one.busy:
        yield one.busy, False
    elif one.phase not in (VmPhase.UNKNOWN, VmPhase.STOPPED) and one.silent:
        said = f"what became of it on {one.silent} is not known, which is not heard"
        yield f"{said}: bring that back, or say that it is off (asvctl ha confirm-off {one.silent})", False
    elif one.phase not in (VmPhase.UNKNOWN, VmPhase.STOPPED):
        yield f"it is {one.phase}" + (": stop it first" if one.named else ""), not one.named
    elif one.phase is VmPhase.STOPPED and one.well and not one.named:
        yield "it is stopped, and its disks are there: start it, or name it", True
    elif one.phase is VmPhase.UNKNOWN and not one.named:
        yield "it was deleted: name it to make it anew", True
    elif said := unusable(one):
        yield said, False


def unusable(one: WaveCandidate) -> str:
    """Why it has no backup to be recovered from."""
    if not one.kept:
        return "it has no backup"
    if not one.backup:
        return f"none of its {one.kept} backups is sound and of that time"
    if not one.reached:
        return f"no node reaches the pool {one.where}, in which its backup {one.backup} lies" + (
            f", and has the key {one.key}, by which that is encrypted" if one.key else ""
        )
    return f"it is started from files of the image {one.image}, which is not there" if one.image else ""


def named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more


# --- dependencies ---------------------------------------------------------------------------------------------------


def _firsts(wish: WaveWish, known: WaveKnown, wanted: Mapping[str, WaveCandidate]) -> dict[str, tuple[str, ...]]:
    """Of each VM of the wave, those of it that are to run before."""
    found: dict[str, set[str]] = {vm: {first for first in one.after if first in wanted} for vm, one in wanted.items()}
    for one in wish.after:
        if one.vm in wanted and one.first in wanted:
            found[one.vm].add(one.first)
    return {vm: tuple(sorted(those)) for vm, those in found.items()}


def _leave_those_after(
    wish: WaveWish, known: WaveKnown, wanted: dict[str, WaveCandidate], left: dict[str, WaveLeft]
) -> None:
    """Who was said to come after a VM that neither runs nor is recovered here would wait for ever; and who comes after that one."""
    changed = True
    while changed:
        changed = False
        for one in wish.after:
            if one.vm in wanted and one.first not in wanted and one.first not in known.runs:
                del wanted[one.vm]
                left[one.vm] = WaveLeft(vm=one.vm, sentence=f"it comes after {one.first}, which does not run and is not recovered")
                changed = True


def _circle(firsts: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    """`a, b, a` where a waits for b, and b for a; None: there is no circle."""
    counts = {vm: len(those) for vm, those in firsts.items()}
    then = _then(firsts)
    free = [vm for vm, count in counts.items() if not count]
    while free:
        for vm in then.get(free.pop(), ()):
            counts[vm] -= 1
            if not counts[vm]:
                free.append(vm)
    stuck = {vm for vm, count in counts.items() if count}
    if not stuck:
        return None
    walk = [min(stuck)]
    while walk[-1] not in walk[:-1]:
        walk.append(next(first for first in firsts[walk[-1]] if first in stuck))
    return tuple(walk[walk.index(walk[-1]) :])


def _then(firsts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    then: dict[str, list[str]] = {}
    for vm, those in sorted(firsts.items()):
        for first in those:
            then.setdefault(first, []).append(vm)
    return then


def _sorted(wanted: Mapping[str, WaveCandidate], firsts: Mapping[str, Sequence[str]]) -> Iterable[WaveStep]:
    then, counts = _then(firsts), {vm: len(those) for vm, those in firsts.items()}
    for_whom = _promoted(wanted, firsts)

    def key(vm: str) -> tuple[int, int, str]:
        return RANK[wanted[for_whom[vm]].priority], wanted[vm].mib, vm

    heap = [key(vm) for vm, count in counts.items() if not count]
    heapq.heapify(heap)
    while heap:
        vm = heapq.heappop(heap)[2]
        yield _step(wanted[vm], firsts[vm], wanted[for_whom[vm]])
        for other in then.get(vm, ()):
            counts[other] -= 1
            if not counts[other]:
                heapq.heappush(heap, key(other))


def _promoted(wanted: Mapping[str, WaveCandidate], firsts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of each VM, for the sake of which it has its class: itself, or the highest that waits for it, near or far."""
    whom = {vm: vm for vm in wanted}
    for vm in sorted(wanted, key=lambda vm: (RANK[wanted[vm].priority], vm)):
        below = list(firsts[vm])
        while below:
            first = below.pop()
            if RANK[wanted[vm].priority] < RANK[wanted[whom[first]].priority]:
                whom[first] = vm
                below.extend(firsts[first])
    return whom


def _step(one: WaveCandidate, firsts: Sequence[str], whom: WaveCandidate) -> WaveStep:
    said = [one.priority if whom is one else f"{one.priority}, but {whom.vm} ({whom.priority}) comes after it"]
    said += [f"after {named(firsts)}"] if firsts else []
    said += [f"{one.mib} MiB from {one.backup} of {utc(one.taken_us)}"]
    said += [f"{one.damaged} is newer, and of no use"] if one.damaged else []
    lose = one.phase is VmPhase.STOPPED
    said += ["what is on its disks is thrown away"] if lose else []
    return WaveStep(
        vm=one.vm, backup=one.backup, taken_us=one.taken_us, priority=one.priority, mib=one.mib, where=one.where,
        after=tuple(firsts), lose=lose, reason="; ".join(said),
    )  # fmt: skip
