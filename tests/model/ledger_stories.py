"""Random lives of one node's ledger, each step held against the invariants. Used by the tests and, by the million, by
`make prove` (python -m tests.prove).

The sums are made here once more, with whole numbers cross-multiplied, so that neither the ledger's own arithmetic nor the
proof's is taken for granted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from random import Random

from libs.common.decider import Refused
from libs.memory.promise import promise_of
from libs.memory.prove import Proof
from proto.ladder import HostSeen, JudgeMemory, LadderClimbed, LadderDescended, MemoryPolicy, VmSeen
from proto.machine import Allotment, Priority
from proto.memory import (
    AdvancePolicy,
    Area,
    LedgerCommand,
    MemoryReserved,
    NoteHost,
    Promise,
    Purpose,
    ReleaseMemory,
    ReserveMemory,
    ResizeMemory,
    SetAreas,
    SetFailoverShare,
    SetMemoryPolicy,
)
from services.memory.model import LEDGER, Account, Ledger

VMS = tuple(f"v{i}" for i in range(6))
CLASSES = tuple(Priority)
PURPOSES = (Purpose.START, Purpose.START, Purpose.FAILOVER, Purpose.MIGRATION, Purpose.FOUND)


class Story:
    """One ledger under a seed. `step` makes a random command, decides it, and checks."""

    def __init__(self, seed: int, told: Callable[[object], None] = lambda event: None) -> None:
        self.told = told
        self.random = Random(seed)
        self.state: Account = LEDGER.initial
        self.proof = Proof()
        self.now_us = 0
        self.position = 0

    def step(self) -> LedgerCommand:
        """Raises AssertionError where an invariant does not hold."""
        command, before = self._command(), self.state
        try:
            events = LEDGER.decide(command, before)
        except Refused:
            return command
        for event in events:
            self.position += 1
            self.state = LEDGER.evolve(self.state, event)
            self.proof.look(self.position, event)
            self.told(event)
        assert not self.proof.faults, (command, before, self.proof.faults)
        if events:
            self._holds(command, before)
            if not isinstance(command, JudgeMemory) and _promised(events):
                again = LEDGER.decide(command, self.state)
                waits = isinstance(command, ResizeMemory) and command.purpose is Purpose.ALLOTMENT
                same = all(LEDGER.evolve(self.state, event) == self.state for event in again)
                assert not again or (waits and same), ("said twice", command, again)
        return command

    def _holds(self, command: LedgerCommand, before: Account) -> None:
        after = self.state
        assert isinstance(after, Ledger), (command, before)
        exempt = isinstance(command, NoteHost) or (
            isinstance(command, ReserveMemory) and command.purpose is Purpose.FOUND
        )
        failover = isinstance(command, ReserveMemory) and command.purpose is Purpose.FAILOVER
        worse = lacks(after, share=not failover) > max(Fraction(0), lacks(before, share=not failover))
        assert exempt or not worse, (command, before, after)
        for vm, grip in after.grips.items():
            promise = after.reserved[vm].promise
            has = (grip.target_mib if grip.target_mib >= 0 else promise.nominal_mib) - grip.swap_mib
            assert promise.priority is not Priority.CRITICAL, (command, vm)
            assert has >= promise.reservation_mib, (command, vm, grip)

    # --- commands -------------------------------------------------------------------------------------------------

    def _command(self) -> LedgerCommand:
        r = self.random
        vm, generation = r.choice(VMS), r.randint(1, 4)
        match r.choices(range(9), weights=(4, 1, 2, 1, 14, 4, 5, 8, 2))[0] if self.position else 0:
            case 0:
                mib = r.choice((0, 1000, 1500, 2000, 4000))
                return NoteHost(node="n", memory_mib=mib, swap_mib=r.choice((0, 500)), balloon=True, memory_areas="v2")
            case 1:
                return SetAreas(node="n", areas=tuple(self._areas()))
            case 2:
                return SetFailoverShare(node="n", share_mib=r.choice((0, 100, 500, 1000)))
            case 3:
                return SetMemoryPolicy(node="n", policy=self._policy(), drain=r.random() < 0.5)
            case 4:
                return ReserveMemory(
                    node="n", vm=vm, generation=generation, promise=self._promise(), purpose=r.choice(PURPOSES),
                    forecast_mib=r.choice((-1, 0, 500, 1500)),
                )  # fmt: skip
            case 5:
                purpose = r.choice((Purpose.HOT_ADD, Purpose.ALLOTMENT))
                held = self._held(vm, generation)
                return ResizeMemory(node="n", vm=vm, generation=held, promise=self._promise(), purpose=purpose)
            case 6:
                return ReleaseMemory(node="n", vm=vm, generation=generation)
            case 8:
                return AdvancePolicy(node="n", now_us=self.now_us)
            case _:
                return self._judge()

    def _held(self, vm: str, generation: int) -> int:
        held = self.state.reserved.get(vm) if isinstance(self.state, Ledger) else None
        return held.generation if held is not None else generation

    def _promise(self) -> Promise:
        r = self.random
        nominal = r.choice((64, 100, 256, 333, 1000))
        promise = promise_of(
            nominal, r.choice(CLASSES), Allotment(memory_reserved_mib=r.choice((0, nominal // 3, nominal)))
        )
        overhead = r.choice((0, 7, promise.overhead_mib))
        return Promise(
            nominal_mib=nominal, reservation_mib=promise.reservation_mib, overhead_mib=overhead, priority=promise.priority
        )

    def _areas(self) -> Iterable[Area]:
        r = self.random
        if r.random() < 0.3:
            return
        yield Area(name="host", min_mib=r.choice((100, 400, 900)))
        if r.random() < 0.4:
            yield Area(name=f"vms-{r.choice(CLASSES).value}", max_mib=r.choice((200, 800)))

    def _policy(self) -> MemoryPolicy:
        r = self.random
        per_class = {r.choice(CLASSES).value: r.choice((100, 133, 250))} if r.random() < 0.5 else {}
        return MemoryPolicy(ratio_pct=r.choice((100, 120, 150, 300)), class_ratio_pct=per_class, merge=r.random() < 0.5)

    def _judge(self) -> JudgeMemory:
        r = self.random
        self.now_us += r.choice((1_000_000, 6_000_000, 40_000_000))
        seen = HostSeen(
            at_us=self.now_us, total_mib=2000, available_mib=r.choice((0, 15, 35, 70, 110, 600, 1500)),
            swap_free_mib=r.choice((0, 40, 500)), psi_some=r.choice((-1.0, 0.0, 50.0)), psi_full=r.choice((-1.0, 20.0)),
            forecast_mib=r.choice((0, 500, 3000)), calm_s=r.choice((0, 40)),
        )  # fmt: skip
        vms = tuple(self._seen(vm) for vm in VMS if r.random() < 0.9)
        return JudgeMemory(node="n", now_us=self.now_us, seen=seen, vms=vms)

    def _seen(self, vm: str) -> VmSeen:
        r = self.random
        generation = self._held(vm, 1) if r.random() < 0.95 else 9
        resident = r.choice((0, 50, 200, 500, 1100))
        return VmSeen(
            vm=vm, generation=generation, resident_mib=resident, swapped_mib=0, held_mib=r.choice((-1, 64, 300, 1000)),
            demand_mib=r.choice((0, 40, 300, 1000)), used_mib=r.choice((0, 40, 300, 1000)),
        )  # fmt: skip


def lacks(account: Account, share: bool) -> Fraction:
    """By how many MiB the tighter limit is broken; 0 or less: it holds."""
    if not isinstance(account, Ledger):
        return Fraction(0)
    areas = sum(area.min_mib for area in account.areas if not area.name.startswith("vms-"))
    room = max(0, account.physical_mib - areas) - (account.share_mib if share else 0)
    own, nominal = 0, Fraction(0)
    for held in account.reserved.values():
        p = held.promise
        own += p.reservation_mib + p.overhead_mib
        ratio = 100 if p.priority is Priority.CRITICAL else account.policy.ratio_pct
        if p.priority is not Priority.CRITICAL:
            ratio = account.policy.class_ratio_pct.get(p.priority.value, ratio)
        nominal += Fraction(p.nominal_mib * 100, ratio)
    return max(Fraction(own), nominal) - room


def _promised(events: Iterable[object]) -> bool:
    """These events leave nothing to decide when the same is said again (a denial is said again, so is what the ladder takes)."""
    return any(isinstance(e, MemoryReserved) for e in events) and not any(
        isinstance(e, LadderClimbed | LadderDescended) for e in events
    )
