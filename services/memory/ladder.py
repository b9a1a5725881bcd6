"""The reclaim ladder of one node: when memory is taken back, from whom, on which rung, and when it is given again. Pure.

    free pages are reported by guests (always on, no decision)
    ample   available >= 100 % of minFree    give back, the last taken first: pause, move, swap, balloon, merge
    clear            <  100 %                merge equal pages inside a tenant (where the policy allows it)
    soft             <   64 %                balloon: min-funding revocation, down to what VMs are predicted to need
    hard             <   32 %                balloon down to what is used, to reservations; swap best-effort VMs; wish one away
    low              <   16 %                and wish that one best-effort VM stands still

What is available is looked at as it will be in three seconds if it goes on falling, once it is less than twice minFree; that
makes it hard at worst. Pressure (PSI) makes it one level worse where tasks wait for memory, two where all of them do, as long
as less than twice minFree is available. A forecast beyond what VMs may have wishes a best-effort VM away before it comes to
be. While a VM stands still, memory is taken as if it were hard until there is more than enough, for only then it goes on.
A critical VM is never touched, nor any VM below its reservation, nor by more than one step at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.messages import NodeId, VmId
from proto.ladder import HostSeen, JudgeMemory, LadderClimbed, LadderStep, Level, Rung, VmMoveWanted, VmPauseWanted
from proto.machine import Priority
from proto.memory import LedgerEvent
from services.memory import descent
from services.memory.balloon import Holder, price, revoke, step_mib
from services.memory.scene import CALM_PCT, HELD_LATE_US, Scene, Vm
from services.memory.states import Ledger

MINFREE = ((4096, 6), (12_288, 4), (28_672, 2))
"""minFree: 6 % of the first 4 GiB, 4 % of the next 8, 2 % of the next 16, and 1 % beyond"""

PERCENTS = ((16, Level.LOW), (32, Level.HARD), (64, Level.SOFT), (100, Level.CLEAR))
LEVELS = tuple(Level)

PSI_SOME = 10.0
PSI_FULL = 5.0
"""percent of ten seconds, from which on pressure counts"""

PACE_US = 5_000_000
"""between two decisions that take: guests need some seconds to give"""

AHEAD_S = 3
"""how far a fall is followed: a guest that fills its page cache takes hundreds of MiB in a second"""

WISH_US = 60_000_000
"""a wish that nobody has granted by then is no longer waited for: another VM may be wished away too"""


def min_free_mib(total_mib: int) -> int:
    free, below = 0, 0
    for upto, pct in MINFREE:
        free += max(0, min(total_mib, upto) - below) * pct
        below = upto
    return (free + max(0, total_mib - below)) // 100


def ahead_mib(seen: HostSeen, min_free: int) -> int:
    """What will be available soon."""
    if seen.available_mib >= 2 * min_free:
        return seen.available_mib
    return max(0, seen.available_mib - AHEAD_S * seen.fall_mib)


def _by(available_mib: int, min_free: int) -> Level:
    pct = available_mib * 100 // max(1, min_free)
    return next((level for most, level in PERCENTS if pct < most), Level.AMPLE)


def level_of(seen: HostSeen, min_free: int) -> Level:
    soon = min(_by(ahead_mib(seen, min_free), min_free), Level.HARD, key=LEVELS.index)
    found = max(_by(seen.available_mib, min_free), soon, key=LEVELS.index)
    worse = 2 if seen.psi_full >= PSI_FULL else 1 if seen.psi_some >= PSI_SOME else 0
    if seen.available_mib >= 2 * min_free:
        worse = 0
    return LEVELS[min(len(LEVELS) - 1, LEVELS.index(found) + worse)]


def calm(seen: HostSeen) -> bool:
    """It has more than enough now."""
    min_free = min_free_mib(seen.total_mib)
    return level_of(seen, min_free) is Level.AMPLE and seen.available_mib * 100 >= min_free * CALM_PCT


def judge(command: JudgeMemory, ledger: Ledger) -> Sequence[LedgerEvent]:
    """What is to be done now; nothing where nothing fresh was heard."""
    seen = command.seen
    if seen is None:
        return ()
    scene = Scene.of(command, ledger, min_free_mib(seen.total_mib))
    level = level_of(seen, scene.min_free_mib)
    beyond = max(0, seen.forecast_mib - ledger.capacity_mib)
    fast = level is Level.LOW or (level is Level.HARD and seen.fall_mib > 0)
    pace = PACE_US // 5 if fast else PACE_US
    rested = seen.at_us - ledger.climbed_us >= pace
    waits = "" if calm(seen) else next((vm.name for vm in scene.vms if vm.grip.pause), "")
    climbs = rested and (level is not Level.AMPLE or beyond or waits)
    taken = _climb(scene, command.node, level, beyond, waits) if climbs else ()
    if taken or level is not Level.AMPLE:
        return taken
    return descent.judge(scene, command.node, beyond > 0)


def _climb(scene: Scene, node: str, level: Level, beyond_mib: int, waits: str) -> Sequence[LedgerEvent]:
    """Rung after rung, until what lacks is covered."""
    ahead = ahead_mib(scene.seen, scene.min_free_mib)
    goal_mib = scene.calm_mib if waits else scene.min_free_mib
    lacking = max(0, goal_mib - ahead) if waits or level is not Level.AMPLE else 0
    if level is not Level.AMPLE and lacking == 0:
        lacking = scene.min_free_mib // 4
    left = lacking - scene.pending_mib
    steps: list[LadderStep] = []
    rank = max(LEVELS.index(level), LEVELS.index(Level.HARD) if waits else 0)
    if rank >= LEVELS.index(Level.CLEAR):
        steps += _merge(scene)
    if rank >= LEVELS.index(Level.SOFT) and left > 0:
        steps += _balloon(scene, left, in_need=rank >= LEVELS.index(Level.HARD))
        left -= _brought(steps)
    if rank >= LEVELS.index(Level.HARD) and left > 0:
        swapped = _swap(scene, left, {s.vm: s.to_mib for s in steps if s.rung is Rung.BALLOON})
        steps += swapped
        left -= _brought(swapped)
    covered = _brought(steps)
    wanted = max(left if rank >= LEVELS.index(Level.HARD) else 0, beyond_mib)
    moves = _move(scene, wanted) if wanted > 0 else []
    steps += moves
    if level is Level.LOW and left > 0:
        steps += _pause(scene, {s.vm for s in moves})
    if not steps:
        return ()
    climbed = LadderClimbed(
        node=NodeId(node), level=level, seen=scene.seen, min_free_mib=scene.min_free_mib,
        short_mib=max(lacking, beyond_mib), covered_mib=covered, steps=tuple(steps), waits=waits,
    )  # fmt: skip
    return [climbed, *(w for s in steps if (w := _wish(climbed, s)) is not None)]


def _brought(steps: Sequence[LadderStep]) -> int:
    """What these steps give the host. Balloon: from_mib is what the VM held, to_mib its new size; swap: what may go out more."""
    balloon = sum(max(0, s.from_mib - s.to_mib) for s in steps if s.rung is Rung.BALLOON)
    return balloon + sum(s.to_mib - s.from_mib for s in steps if s.rung is Rung.SWAP)


def _merge(scene: Scene) -> list[LadderStep]:
    if not scene.ledger.policy.merge:
        return []
    return [_step(Rung.MERGE, vm, vm.nominal_mib, vm.nominal_mib) for vm in scene.vms if not vm.grip.merge]


def _holder(vm: Vm) -> Holder:
    own = vm.reservation_mib + vm.grip.swap_mib
    return Holder(vm.name, vm.priority, vm.nominal_mib, own, vm.held_mib, vm.demand_mib, vm.used_mib)


def _balloon(scene: Scene, wanted_mib: int, in_need: bool) -> list[LadderStep]:
    if not scene.ledger.balloon:
        return []
    vms = {vm.name: vm for vm in scene.vms if vm.ballooned and not vm.late and not vm.grip.pause}
    after = revoke([_holder(vm) for vm in vms.values()], wanted_mib, in_need)
    return [_step(Rung.BALLOON, vms[name], vms[name].held_mib, mib) for name, mib in after.items()]


def _swap(scene: Scene, wanted_mib: int, targets: dict[str, int]) -> list[LadderStep]:
    """Best-effort VMs only, in the order of the balloon, as far as the node's swap goes: what was allowed before counts, also where
    the kernel has not put it there yet."""
    ledger, out = scene.ledger, []
    allowed = sum(grip.swap_mib for grip in ledger.grips.values())
    spare = min(scene.seen.swap_free_mib, ledger.swap_mib - allowed)
    if not (ledger.policy.swap and ledger.memory_areas):
        return []
    for vm in sorted(scene.best_effort, key=lambda v: (price(_holder(v), v.held_mib), v.name)):
        holds = targets.get(vm.name, vm.held_mib)
        room = holds - vm.grip.swap_mib - vm.reservation_mib
        amount = min(wanted_mib, spare, room, step_mib(vm.nominal_mib))
        if amount <= 0:
            continue
        out.append(_step(Rung.SWAP, vm, vm.grip.swap_mib, vm.grip.swap_mib + amount))
        wanted_mib, spare = wanted_mib - amount, spare - amount
    return out


def _move(scene: Scene, wanted_mib: int) -> list[LadderStep]:
    """The smallest best-effort VM that makes up for it, else the largest; one at a time, while wishes are fresh."""
    now = scene.seen.at_us
    coming = [vm for vm in scene.best_effort if vm.grip.move and now - vm.grip.at_us < WISH_US]
    free = [vm for vm in scene.best_effort if not vm.grip.move and vm.takes_mib > 0]
    if coming or not free:
        return []
    enough = [vm for vm in free if vm.takes_mib >= wanted_mib]
    chosen = min(enough, key=_size) if enough else max(free, key=_size)
    return [_step(Rung.MOVE, chosen, chosen.nominal_mib, 0)]


def _pause(scene: Scene, moving: set[str]) -> list[LadderStep]:
    """The largest best-effort VM that still runs; one at a time."""
    now = scene.seen.at_us
    if any(vm.grip.pause and now - vm.grip.at_us < HELD_LATE_US for vm in scene.best_effort):
        return []
    free = [vm for vm in scene.best_effort if not vm.grip.pause and vm.name not in moving]
    return [_step(Rung.PAUSE, max(free, key=_size), max(free, key=_size).nominal_mib, 0)] if free else []


def _size(vm: Vm) -> tuple[int, str]:
    return vm.takes_mib, vm.name


def _step(rung: Rung, vm: Vm, from_mib: int, to_mib: int) -> LadderStep:
    cost = round(price(_holder(vm), vm.held_mib), 6)
    return LadderStep(
        rung=rung, vm=vm.name, generation=vm.generation, from_mib=from_mib, to_mib=to_mib,
        demand_mib=vm.demand_mib, price=cost, used_mib=vm.used_mib, reservation_mib=vm.reservation_mib,
    )  # fmt: skip


def _wish(climbed: LadderClimbed, step: LadderStep) -> VmMoveWanted | VmPauseWanted | None:
    if step.rung not in {Rung.MOVE, Rung.PAUSE}:
        return None
    seen = climbed.seen
    said = (
        f"{climbed.node} has {seen.available_mib} of {seen.total_mib} MiB available (minFree {climbed.min_free_mib}), its VMs are "
        f"predicted to need {seen.forecast_mib}; {climbed.short_mib} MiB lacked, {climbed.covered_mib} came from lower rungs"
    )
    kind = VmMoveWanted if step.rung is Rung.MOVE else VmPauseWanted
    return kind(
        node=climbed.node, vm=VmId(step.vm), generation=step.generation, priority=Priority.BEST_EFFORT,
        memory_mib=step.from_mib, short_mib=climbed.short_mib, sentence=said,
    )  # fmt: skip
