"""The reclaim ladder: which rung, from whom, how much, and back again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from libs.common.testing import Given
from libs.memory.promise import promise_of
from libs.memory.prove import Proof
from proto.ladder import (
    HostSeen,
    JudgeMemory,
    LadderClimbed,
    LadderDescended,
    LadderStep,
    Level,
    MemoryPolicy,
    Rung,
    VmMoveWanted,
    VmPauseWanted,
    VmSeen,
)
from proto.machine import Priority
from proto.memory import CapacitySet, LedgerEvent, Purpose, ReserveMemory
from proto.node import MemoryTarget
from services.memory import grips
from services.memory.balloon import Holder, price, revoke
from services.memory.ladder import calm, level_of, min_free_mib
from services.memory.model import LEDGER, Ledger

N = NodeId("n")
SECOND_US = 1_000_000
TOTAL = 16_000
MINFREE = min_free_mib(TOTAL)
HOST = CapacitySet(node=N, capacity_mib=15_000, physical_mib=TOTAL, balloon=True, memory_areas="v2", swap_mib=4000)
CRIT, IMP, NORM, BEST = Priority


class Node:
    """A ledger with VMs, and telemetry as it is said here."""

    def __init__(self, *host: LedgerEvent, **vms: Priority) -> None:
        self.now_s = self.short_s = 1000
        self.state = LEDGER.fold(host or (HOST,))
        self.proof = Proof()
        for event in host or (HOST,):
            self.proof.look(0, event)
        self.seen: dict[str, VmSeen] = {}
        for vm, priority in vms.items():
            promise = promise_of(1024, priority)
            self.tell(ReserveMemory(node="n", vm=vm, generation=1, promise=promise, purpose=Purpose.FOUND))
            self.uses(vm, 400)

    def uses(self, vm: str, demand_mib: int, resident_mib: int = 1136, held_mib: int = 1024, used_mib: int | None = None) -> None:
        self.seen[vm] = VmSeen(
            vm=vm, generation=1, resident_mib=resident_mib, swapped_mib=0, held_mib=held_mib, demand_mib=demand_mib,
            used_mib=demand_mib if used_mib is None else used_mib,
        )  # fmt: skip

    def comply(self) -> None:
        """Guests have given what their balloons asked for, and the kernel swapped out what it may."""
        for vm, grip in self.ledger.grips.items():
            has = grip.target_mib if grip.target_mib >= 0 else 1024
            self.uses(vm, self.seen[vm].demand_mib, resident_mib=has + 112 - grip.swap_mib, held_mib=has)

    def tell(self, command: object) -> list[LedgerEvent]:
        events = list(LEDGER.decide(command, self.state))  # type: ignore[arg-type]
        for event in events:
            self.proof.look(0, event)
        self.state = LEDGER.fold(events, self.state)
        assert not self.proof.faults, self.proof.faults
        return events

    def judge(self, available_mib: int, after_s: int = 10, **more: object) -> list[LedgerEvent]:
        self.now_s += after_s
        seen = HostSeen(at_us=self.now_s * SECOND_US, total_mib=TOTAL, available_mib=available_mib)
        seen = replace(seen, **({"swap_free_mib": 4000} | more))
        if not calm(seen):
            self.short_s = self.now_s
        seen = replace(seen, calm_s=self.now_s - self.short_s)
        return self.tell(JudgeMemory(node="n", now_us=0, seen=seen, vms=tuple(self.seen.values())))

    def steps(self, available_mib: int, **more: object) -> list[LadderStep]:
        return [s for e in self.judge(available_mib, **more) if isinstance(e, LadderClimbed) for s in e.steps]  # type: ignore[arg-type]

    @property
    def ledger(self) -> Ledger:
        assert isinstance(self.state, Ledger)
        return self.state


def pct(part: int) -> int:
    return MINFREE * part // 100


def test_min_free_grows_slower_than_the_host() -> None:
    assert min_free_mib(4096) == 4096 * 6 // 100
    assert min_free_mib(28_672) == (4096 * 6 + 8192 * 4 + 16_384 * 2) // 100
    assert min_free_mib(128_672) - min_free_mib(28_672) == 1000


@pytest.mark.parametrize(
    ("available", "some", "full", "level"),
    [
        (100, -1.0, -1.0, Level.AMPLE),
        (99, -1.0, -1.0, Level.CLEAR),
        (63, -1.0, -1.0, Level.SOFT),
        (31, -1.0, -1.0, Level.HARD),
        (15, -1.0, -1.0, Level.LOW),
        (150, 10.0, 0.0, Level.CLEAR),
        (150, 10.0, 5.0, Level.SOFT),
        (60, 10.0, 0.0, Level.HARD),
        (10, 99.0, 99.0, Level.LOW),
        (201, 99.0, 99.0, Level.AMPLE),
    ],
)
def test_levels_by_what_is_available_and_by_pressure(available: int, some: float, full: float, level: Level) -> None:
    seen = HostSeen(at_us=0, total_mib=TOTAL, available_mib=10 * available, psi_some=some, psi_full=full)
    assert level_of(seen, 1000) is level


@pytest.mark.parametrize(
    ("pct", "fall_pct", "level"),
    [
        (120, 0, Level.AMPLE),
        (120, 5, Level.AMPLE),
        (120, 10, Level.CLEAR),  # 90 % in three seconds
        (120, 25, Level.SOFT),
        (120, 300, Level.HARD),  # however fast: nobody stands still for what has not come yet
        (199, 60, Level.HARD),
        (201, 300, Level.AMPLE),  # a start takes much at once, where there is much
        (15, 0, Level.LOW),
    ],
)
def test_what_falls_fast_is_looked_at_as_it_will_be(pct: int, fall_pct: int, level: Level) -> None:
    seen = HostSeen(at_us=0, total_mib=10_000, available_mib=10 * pct, fall_mib=10 * fall_pct)
    assert level_of(seen, 1000) is level


def test_a_node_with_enough_decides_nothing_and_so_does_one_unheard() -> None:
    node = Node(a=NORM)
    assert node.judge(MINFREE) == []
    assert node.tell(JudgeMemory(node="n", now_us=1)) == []
    assert node.judge(pct(99)) == [], "merging is off by default"


def test_merging_comes_first_where_it_is_allowed() -> None:
    node = Node(replace(HOST, policy=MemoryPolicy(merge=True)), a=NORM, c=CRIT)
    assert [(s.rung, s.vm) for s in node.steps(pct(99))] == [(Rung.MERGE, "a")]
    assert node.steps(pct(99)) == [], "once"


def test_the_balloon_takes_idle_memory_first_and_no_more_than_a_step() -> None:
    node = Node(busy=NORM, idle=NORM, dear=IMP, own=CRIT)
    node.uses("busy", 1024)
    node.uses("idle", 100)
    (event,) = node.judge(pct(60))
    assert isinstance(event, LadderClimbed) and event.level is Level.SOFT
    first = event.steps[0]
    assert event.short_mib == MINFREE - pct(60)
    taken = {s.vm: s.from_mib - s.to_mib for s in event.steps}
    assert set(taken) <= {"idle", "dear"} and taken["idle"] == 128, "an eighth of 1024"
    assert first.demand_mib and first.price > 0
    assert node.ledger.grips["idle"].target_mib == 1024 - 128


def test_memory_that_is_in_use_is_left_alone_until_the_node_is_in_need() -> None:
    node = Node(a=NORM)
    node.uses("a", 1024)
    assert node.steps(pct(40)) == []
    assert [s.rung for s in node.steps(pct(30))] == [Rung.BALLOON]


def test_in_need_what_nobody_uses_now_is_taken_before_what_is_in_use() -> None:
    node = Node(quiet=NORM, busy=NORM)
    node.uses("quiet", 1024, used_mib=100)
    node.uses("busy", 1024)
    assert node.steps(pct(60)) == [], "it may need it again"
    assert {s.vm for s in node.steps(MINFREE - 128, psi_full=9.0, psi_some=9.0)} == {"quiet"}


def test_the_balloon_never_goes_below_the_reservation() -> None:
    node = Node(a=NORM)
    for _ in range(20):
        node.judge(pct(20))
        node.uses("a", 900, held_mib=max(0, node.ledger.grips["a"].target_mib))
    assert node.ledger.grips["a"].target_mib == 512


def test_what_a_guest_is_about_to_give_is_waited_for_and_a_stuck_one_is_passed_over() -> None:
    node = Node(a=NORM, b=NORM)
    node.uses("b", 1024)
    first = node.steps(pct(63))
    assert {s.vm for s in first} == {"a"}
    short = MINFREE - pct(63)
    assert sum(s.from_mib - s.to_mib for s in first) == min(128, short)
    assert node.steps(MINFREE - 100, psi_some=20.0, after_s=6) == [], "a still has to give"
    again = node.steps(pct(63), after_s=60)
    assert "a" not in {s.vm for s in again}, "its balloon has not moved for a minute"


def test_swap_is_for_best_effort_vms_only_and_within_what_the_node_has() -> None:
    node = Node(replace(HOST, balloon=False), best=BEST, norm=NORM, crit=CRIT)
    steps = node.steps(pct(30))
    assert [(s.rung, s.vm) for s in steps] == [(Rung.SWAP, "best"), (Rung.MOVE, "best")]
    assert steps[0].to_mib == 128
    assert node.steps(pct(30), swap_free_mib=0) == []
    off = Node(replace(HOST, balloon=False, policy=MemoryPolicy(swap=False)), best=BEST)
    assert [s.rung for s in off.steps(pct(30))] == [Rung.MOVE]


def test_a_best_effort_vm_is_wished_away_and_at_last_one_stands_still() -> None:
    node = Node(replace(HOST, balloon=False, swap_mib=0), small=BEST, large=BEST, norm=NORM, crit=CRIT)
    node.uses("small", 100, resident_mib=300)
    climbed, wish = node.judge(pct(31))
    assert isinstance(climbed, LadderClimbed) and isinstance(wish, VmMoveWanted)
    assert wish.vm == "large" and str(pct(31)) in wish.sentence
    assert node.judge(pct(31)) == [], "one at a time"
    events = node.judge(pct(10))
    (pause,) = [e for e in events if isinstance(e, VmPauseWanted)]
    assert pause.priority is BEST
    assert [e.vm for e in node.judge(pct(31), after_s=90) if isinstance(e, VmMoveWanted)] == ["small"]
    assert node.judge(0, after_s=90) != [] or node.ledger.grips.keys() == {"small", "large"}


def test_while_one_stands_still_memory_is_taken_until_it_may_go_on() -> None:
    """Between minFree and more than enough nothing would be taken otherwise, and nothing given back."""
    node = Node(replace(HOST, swap_mib=0), still=BEST, norm=NORM, crit=CRIT)
    node.uses("norm", 1000)
    wishes = [e for _ in range(2) for e in node.judge(pct(10)) if isinstance(e, VmMoveWanted | VmPauseWanted)]
    assert [type(wish) for wish in wishes] == [VmMoveWanted, VmPauseWanted], "it goes nowhere, and stands still"
    node.comply()
    (climbed,) = node.judge(pct(110))
    assert isinstance(climbed, LadderClimbed) and (climbed.level, climbed.waits) == (Level.AMPLE, "still")
    assert climbed.short_mib == pct(125) - pct(110) and [s.vm for s in climbed.steps] == ["norm"]
    node.comply()
    assert node.judge(pct(126)) == [], "it is enough, though not for long yet"
    (descended,) = node.judge(pct(130), after_s=31)
    assert isinstance(descended, LadderDescended) and [s.rung for s in descended.steps] == [Rung.PAUSE]
    assert node.judge(pct(110)) == [], "nobody waits any more"


def test_a_forecast_beyond_the_node_wishes_a_vm_away_before_it_comes_to_be() -> None:
    node = Node(best=BEST, norm=NORM)
    climbed, wish = node.judge(8000, forecast_mib=15_100)
    assert isinstance(climbed, LadderClimbed) and climbed.level is Level.AMPLE and climbed.short_mib == 100
    assert isinstance(wish, VmMoveWanted) and wish.vm == "best"
    assert Node(norm=NORM).judge(8000, forecast_mib=15_100) == []


def test_a_critical_vm_is_never_touched() -> None:
    node = Node(a=CRIT, b=CRIT)
    for part in (60, 30, 10, 0):
        assert node.judge(pct(part), psi_some=99.0, psi_full=99.0, forecast_mib=99_999) == []


def test_it_takes_again_only_after_guests_had_time_to_give() -> None:
    node = Node(a=NORM)
    assert node.judge(pct(60)) and not node.judge(pct(50), after_s=4)
    assert node.judge(pct(5), after_s=1) != [] or node.ledger.grips


def test_no_more_may_be_swapped_than_there_is_swap_for() -> None:
    """Looks again and again, before the kernel has swapped anything out: swap stays as free as it was."""
    node = Node(replace(HOST, balloon=False, swap_mib=300), a=BEST, b=BEST, c=BEST)
    for _ in range(30):
        node.judge(pct(20), swap_free_mib=300)
        assert sum(grip.swap_mib for grip in node.ledger.grips.values()) <= 300
    assert sum(grip.swap_mib for grip in node.ledger.grips.values()) == 300
    none = Node(replace(HOST, balloon=False, swap_mib=0), a=BEST)
    assert Rung.SWAP not in {s.rung for s in none.steps(pct(20), swap_free_mib=4000)}, "plain swap is not for VMs"


def test_down_again_last_taken_first_slowly_and_only_with_enough_to_spare() -> None:
    node = Node(best=BEST, norm=NORM)
    node.uses("norm", 600)
    for part in (60, 30, 30, 30, 30, 10, 10, 10, 10, 10, 10):
        node.judge(pct(part))
        node.comply()
    taken = dict(node.ledger.grips)
    assert taken["best"].swap_mib and taken["best"].pause and taken["norm"].target_mib >= 0
    assert node.judge(pct(300), after_s=20) == [], "not long enough"
    assert node.judge(pct(124), after_s=60) == [], "not enough to spare"
    order: list[Rung] = []
    for _ in range(200):
        for event in node.judge(9000, after_s=31):
            assert isinstance(event, LadderDescended)
            for step in event.steps:
                order += [step.rung] if order[-1:] != [step.rung] else []
                if step.rung is Rung.BALLOON:
                    assert step.to_mib - step.from_mib <= 128
    assert node.ledger.grips == {}
    assert order == [Rung.PAUSE, Rung.MOVE, Rung.SWAP, Rung.BALLOON]


def test_a_newer_generation_and_an_end_forget_what_was_taken() -> None:
    node = Node(a=NORM)
    node.judge(pct(60))
    assert node.ledger.grips
    newer = ReserveMemory(node="n", vm="a", generation=2, promise=promise_of(1024, NORM))
    node.tell(newer)
    assert node.ledger.grips == {}
    assert node.judge(pct(60)) == [], "telemetry of the older one says nothing"


def test_the_node_is_told_all_targets_and_all_areas() -> None:
    node = Node(a=NORM, best=BEST, c=CRIT)
    node.judge(pct(30))
    order = grips.order(N, node.ledger, 9)
    assert order is not None and order.version == 9
    targets = {t.vm: t for t in order.targets}
    assert targets["a"] == MemoryTarget(vm="a", generation=1, target_mib=node.ledger.grips["a"].target_mib)
    assert set(targets) <= {"a", "best"}
    areas = {a.name: a for a in order.limits}
    assert areas["vms-critical"].min_mib == 1024 + 112 and areas["vms-normal"].min_mib == 512 + 112
    assert areas["vms-important"].min_mib == 0 and areas["vms-normal"].max_mib == 15_000
    assert grips.order(N, replace(node.ledger, balloon=False, memory_areas=""), 9) is None


def test_min_funding_takes_from_who_holds_much_and_uses_little() -> None:
    def holder(vm: str, priority: Priority, held: int, demand: int) -> Holder:
        return Holder(vm, priority, 1000, 0, held, demand, demand)

    idle, busy = holder("i", NORM, 1000, 0), holder("b", NORM, 1000, 1000)
    assert price(busy, 1000) == pytest.approx(4 * price(idle, 1000))
    assert price(holder("x", IMP, 1000, 0), 1000) == pytest.approx(2 * price(idle, 1000))
    assert revoke([idle, busy], 80, in_need=False) == {"i": 920}
    both = revoke([holder("i", NORM, 1000, 0), holder("j", NORM, 1000, 0)], 100, in_need=False)
    assert sum(both.values()) == 1900 and abs(both["i"] - both["j"]) <= 8, "equals pay equally"
    assert revoke([busy], 100, in_need=False) == {} and revoke([busy], 100, in_need=True) == {"b": 900}
    assert revoke([], 100, in_need=True) == {}


def test_what_a_state_says_can_be_decided_again() -> None:
    node = Node(a=NORM)
    node.judge(pct(60))
    assert Given(LEDGER, node.state).when(JudgeMemory(node="n", now_us=1)).events == ()
