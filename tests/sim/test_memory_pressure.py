"""Hosts that run short of memory, second by second: the production ledger, view and ladder around guests that keep what they once
touched until their balloon takes it. Noisy neighbour, thrash, and a host that loses memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import sin

from libs.common.messages import Command, Recorded, encode
from libs.memory.promise import promise_of
from libs.memory.prove import Proof
from proto.ladder import LadderClimbed, LadderDescended, Rung, VmMoveWanted
from proto.machine import Priority
from proto.memory import (
    CapacityExceeded,
    LedgerEvent,
    MemoryDenied,
    MemoryReserved,
    NoteHost,
    Promise,
    ReleaseMemory,
    ReserveMemory,
)
from proto.node import MemoryBeat, MemoryTarget, VmMemory
from services.memory import grips, react, views
from services.memory.ladder import min_free_mib
from services.memory.model import LEDGER, Account, Ledger

HERE = Recorded(1, "ledger-n", 1, "t", 1, 0, b"", b"")
GIVES_MIB_S = 64
"""how fast a guest gives pages to its balloon, and how fast the host swaps"""
CRIT, IMP, NORM, BEST = Priority

type Use = Callable[[int], int]
"""MiB in use at a second"""


@dataclass(slots=True)
class Guest:
    use: Use
    promise: Promise
    touched_mib: int = 0
    balloon_mib: int = 0
    """what it has of its nominal memory"""
    swapped_mib: int = 0
    lowest_mib: int = 10**6
    """least that it ever had"""

    def second(self, t: int, target: MemoryTarget | None) -> None:
        used, wanted = self.use(t), target.target_mib if target else self.promise.nominal_mib
        if wanted < self.balloon_mib:
            self.balloon_mib = max(wanted, self.balloon_mib - GIVES_MIB_S)
        else:
            self.balloon_mib = wanted
        self.touched_mib = min(self.balloon_mib, max(self.touched_mib, used))
        most = target.swap_max_mib if target else 0
        self.swapped_mib = min(most, self.touched_mib, self.swapped_mib + GIVES_MIB_S)
        self.lowest_mib = min(self.lowest_mib, self.balloon_mib - self.swapped_mib)

    def said(self, vm: str, t: int) -> VmMemory:
        resident = self.touched_mib + self.promise.overhead_mib - self.swapped_mib
        free = max(0, self.balloon_mib - self.use(t))
        return VmMemory(vm, 1, resident, self.swapped_mib, self.balloon_mib, free)


@dataclass(slots=True)
class Node:
    total_mib: int
    swap_mib: int = 0
    state: Account = LEDGER.initial
    views: views.Views = field(default_factory=views.Views)
    proof: Proof = field(default_factory=Proof)
    guests: dict[str, Guest] = field(default_factory=dict)
    decided: list[tuple[int, LedgerEvent]] = field(default_factory=list)
    t: int = 10_000

    def say(self, command: Command) -> list[LedgerEvent]:
        asked = views.enrich(command, self.views, self.t * 1_000_000)
        events = list(LEDGER.decide(asked, self.state))
        for event in events:
            self.state = LEDGER.evolve(self.state, event)
            self.views.apply(HERE, event)
            self.proof.look(len(self.decided), event)
            self.decided.append((self.t, event))
        assert not self.proof.faults, self.proof.faults
        return events

    def host(self, total_mib: int) -> list[LedgerEvent]:
        self.total_mib = total_mib
        return self.say(
            NoteHost(node="n", memory_mib=total_mib, swap_mib=self.swap_mib, balloon=True, memory_areas="v2")
        )

    def start(self, vm: str, nominal_mib: int, priority: Priority, use: Use) -> LedgerEvent:
        promise = promise_of(nominal_mib, priority)
        (event,) = self.say(ReserveMemory(node="n", vm=vm, generation=1, promise=promise))
        if isinstance(event, MemoryReserved):
            self.guests[vm] = Guest(use, promise, balloon_mib=nominal_mib)
        return event

    def stop(self, vm: str) -> None:
        self.say(ReleaseMemory(node="n", vm=vm, generation=1))
        del self.guests[vm]

    @property
    def ledger(self) -> Ledger:
        assert isinstance(self.state, Ledger)
        return self.state

    @property
    def available_mib(self) -> int:
        held = sum(g.touched_mib - g.swapped_mib + g.promise.overhead_mib for g in self.guests.values())
        return max(0, self.total_mib - 600 - held)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.t += 1
            order = grips.order("n", self.ledger, 1)  # type: ignore[arg-type]
            targets = {target.vm: target for target in order.targets} if order is not None else {}
            for vm, guest in self.guests.items():
                guest.second(self.t, targets.get(vm))
            self._beat()
            for command in react.ticks(self.t * 1_000_000, iter([("ledger-n", self.state)])):
                self.say(command)

    def _beat(self) -> None:
        rows = tuple(guest.said(vm, self.t) for vm, guest in self.guests.items())
        free_swap = self.swap_mib - sum(g.swapped_mib for g in self.guests.values())
        pressed = 40.0 if self.available_mib == 0 else 0.0
        beat = MemoryBeat(
            "n", "b", self.t, self.total_mib, self.available_mib, self.swap_mib, free_swap, pressed, pressed / 2, 0, rows
        )
        views.hear("tel.n.memory", encode(beat), self.t * 1_000_000, self.views)

    def ladder(self) -> list[tuple[int, LadderClimbed | LadderDescended]]:
        return [(t, e) for t, e in self.decided if isinstance(e, LadderClimbed | LadderDescended)]

    def touched(self) -> set[str]:
        return {step.vm for _, event in self.ladder() for step in event.steps}


def steady(mib: int) -> Use:
    return lambda t: mib


def test_a_noisy_neighbour_pays_for_itself_and_a_critical_vm_notices_nothing() -> None:
    node = Node(16_384, swap_mib=2048)
    node.host(16_384)
    node.start("crit", 3072, CRIT, steady(3000))
    node.start("norm", 4096, NORM, steady(3500))
    node.start("idle", 4096, NORM, lambda t: 3500 if t < 10_100 else 600)
    node.start("noisy", 6144, BEST, lambda t: min(6100, 500 + max(0, t - 10_300) * 20))
    node.run(200)
    assert node.ladder() == [], "all of it fits"
    node.run(1200)
    assert node.available_mib >= min_free_mib(16_384) * 64 // 100, "it came back from need"
    assert "crit" not in node.touched() and node.guests["crit"].lowest_mib == 3072
    norm, noisy = node.guests["norm"], node.guests["noisy"]
    assert norm.lowest_mib >= 3500, "what a neighbour is using was left to it"
    assert node.guests["idle"].balloon_mib < 3500, "what nobody used was taken first"
    assert noisy.lowest_mib >= noisy.promise.reservation_mib


def test_a_load_that_swings_around_the_edge_does_not_make_the_ladder_swing() -> None:
    node = Node(8192)
    node.host(8192)
    for n in range(4):
        node.start(f"v{n}", 2048, NORM, lambda t, n=n: int(1500 + 300 * sin(t / 20 + n)))  # type: ignore[misc]
    node.run(3600)
    turns = [type(event) for _, event in node.ladder()]
    changes = sum(a is not b for a, b in pairwise(turns))
    assert turns and changes <= 30, f"{changes} turns in an hour"
    times = [t for t, event in node.ladder() if isinstance(event, LadderClimbed)]
    assert all(b - a >= 1 for a, b in pairwise(times))
    last_quarter = [event for t, event in node.ladder() if t > 10_000 + 2700]
    assert len(last_quarter) <= 60, "it does not decide for ever"


def test_a_host_that_loses_memory_keeps_its_promises_and_takes_no_more_until_it_fits() -> None:
    node = Node(16_384, swap_mib=2048)
    node.host(16_384)
    for n in range(5):
        node.start(f"v{n}", 4096, NORM if n else BEST, lambda t: 1500 if t < 10_200 else 2300)
    node.run(300)
    before = node.ledger.reserved
    events = node.host(12_288)
    assert [type(e).__name__ for e in events] == ["CapacitySet", "CapacityExceeded"]
    exceeded = events[1]
    assert isinstance(exceeded, CapacityExceeded) and exceeded.short_mib > 0
    assert node.ledger.reserved == before, "nothing is taken from anyone's promise"
    assert isinstance(node.start("new", 256, NORM, steady(10)), MemoryDenied)
    node.run(600)
    assert any(isinstance(e, VmMoveWanted) and e.vm == "v0" for _, e in node.decided), "a best-effort VM should go"
    node.stop("v0")
    node.stop("v1")
    assert isinstance(node.start("new", 256, NORM, steady(10)), MemoryDenied), "those left grew of late, and may again"
    node.run(7300)
    assert isinstance(node.start("new", 256, NORM, steady(10)), MemoryReserved)
    for vm in ("v2", "v3", "v4"):
        guest = node.guests[vm]
        assert guest.lowest_mib >= guest.promise.reservation_mib


def test_what_was_taken_is_given_back_when_the_need_is_over() -> None:
    node = Node(8192, swap_mib=1024)
    node.host(8192)
    node.start("norm", 4096, NORM, lambda t: 3300 if t < 10_100 else 500)
    node.start("best", 4096, BEST, lambda t: 500 if t < 10_200 or t > 10_900 else 4000)
    node.run(900)
    assert node.ladder() and node.ledger.grips
    rungs = {step.rung for _, event in node.ladder() for step in event.steps}
    assert Rung.BALLOON in rungs
    for guest in node.guests.values():
        guest.touched_mib = 500
    node.run(900)
    left = node.ledger.grips
    assert set(left) <= {"best"} and all(grip.move for grip in left.values()), "what may come again is still wished away"
    node.run(7200)
    assert node.ledger.grips == {}
    assert all(guest.balloon_mib == 4096 and guest.swapped_mib == 0 for guest in node.guests.values())
