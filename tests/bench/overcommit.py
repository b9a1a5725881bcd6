"""How many more VMs a host holds when its memory is over-allocated, and whether it ever runs out: a back-test on real traces.

    python -m tests.bench.overcommit [--trace FILE] [--quick] [--json]

Hosts that hold 40 equal VMs without over-allocation are filled with random VMs of the trace by the production ledger (reservation:
half of nominal memory, every second VM best-effort) until it denies one. Then the trace is played: each sample is a memory beat,
heard by memory's own view, predicted from the past two hours, judged by its ladder, decided and folded. The host has no swap. A
VM that the ladder wishes away is gone before the next sample, and nothing takes its place.

    extra_vms_pct             VMs held, in the mean over all windows, over those held without over-allocation, at ratio 1.5
    missed_windows_pct        windows of 30 minutes, after the first two hours, in which the host's VMs (QEMU's own included)
                              needed more than there is for VMs, at any sample, before the ladder acted upon that sample
    guarantee_breaches        positions of the log at which libs/memory/prove.py finds an invariant broken
    moved_vms                 VMs that the ladder wished away
    uncapped_extra_vms_pct, uncapped_missed_windows_pct   the same with a ratio of 4, where guarantees alone are the limit
    predicted_pct             what is predicted for a host's VMs, of their nominal memory
    outgrown_windows_pct      windows whose peak was above what had been predicted at their beginning
    young_short_pct           estimates of one VM seen for less than 15 minutes that were below what it needed in the next half hour
    young_lacked_pct, young_spare_pct   by how much, and how much memory they leave to be taken, in % of its memory, in the mean
    grown_short_pct, grown_lacked_pct, grown_spare_pct   the same for the quarter of an hour after that
    hosts, windows, trace     what was played

FILE: CSV, also gzipped, with the columns vm, t_s and mem_pct (memory in use, in percent of the VM's size).
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from libs.common.messages import Command, Recorded, encode
from libs.memory.areas import sized
from libs.memory.promise import promise_of, taken_mib, whole_mib
from libs.memory.prove import Proof
from proto.ladder import MemoryPolicy, VmMoveWanted
from proto.machine import Allotment, Priority
from proto.memory import (
    LedgerEvent,
    MemoryReserved,
    NoteHost,
    Promise,
    ReleaseMemory,
    ReserveMemory,
    SetMemoryPolicy,
)
from proto.node import MemoryBeat, VmMemory
from services.memory import react, views
from services.memory.model import LEDGER, Account, Ledger
from tests.bench.common import Options, report
from tests.bench.overcommit_young import estimates

TRACE = Path("../shared/data/google2011-vms/vms_even.csv.gz")
VMS_WITHOUT = 40
NOMINAL_MIB = 4096
HISTORY_S = 7200
WINDOW_S = 1800
LOOKS = 5
"""how often the ladder is asked between two samples, while it wishes VMs away; in production it is asked each second"""
LOOK_US = 61_000_000
HERE = Recorded(1, "ledger-n", 1, "t", 1, 0, b"", b"")

type Series = list[tuple[int, float]]
"""(seconds, percent) of one VM, in order"""


def read(path: Path) -> list[Series]:
    """The VMs that were seen for as long as most are. Raises SystemExit with what is wrong."""
    found: dict[str, Series] = defaultdict(list)
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for row in csv.DictReader(lines):
                found[row["vm"]].append((int(float(row["t_s"])), float(row["mem_pct"])))
    except (OSError, KeyError, ValueError) as bad:
        raise SystemExit(f"{path} is no trace with the columns vm, t_s, mem_pct: {bad!r}") from None
    for series in found.values():
        series.sort()
    usual = Counter(len(s) for s in found.values()).most_common(1)
    length = usual[0][0] if usual else 0
    vms = [s[:length] for s in found.values() if len(s) >= length]
    if len(vms) < 2 * VMS_WITHOUT or not vms[0] or vms[0][-1][0] - vms[0][0][0] < HISTORY_S + WINDOW_S:
        raise SystemExit(f"{path}: too little: {len(vms)} VMs of {length} samples; {2 * VMS_WITHOUT} of 2.5 hours are needed")
    return vms


def host_mib(capacity_mib: int) -> int:
    """The smallest host that has so much for VMs beside its areas."""
    mib = capacity_mib
    while mib - taken_mib(sized(mib)) < capacity_mib:
        mib += capacity_mib - (mib - taken_mib(sized(mib)))
    return mib


CAPACITY_MIB = VMS_WITHOUT * whole_mib(promise_of(NOMINAL_MIB, Priority.CRITICAL))


@dataclass(slots=True)
class Host:
    """One node: the production ledger, view and ladder, with guests that use what the trace says."""

    ratio_pct: int
    state: Account = LEDGER.initial
    views: views.Views = field(default_factory=views.Views)
    proof: Proof = field(default_factory=Proof)
    guests: dict[str, Series] = field(default_factory=dict)
    moved: int = 0

    def begin(self) -> None:
        self._do(NoteHost(node="n", memory_mib=host_mib(CAPACITY_MIB), balloon=True, memory_areas="v2"))
        self._do(SetMemoryPolicy(node="n", policy=MemoryPolicy(ratio_pct=self.ratio_pct)))

    def _do(self, command: Command, now_us: int = 0) -> list[LedgerEvent]:
        asked = views.enrich(command, self.views, now_us)
        events = list(LEDGER.decide(asked, self.state))
        for event in events:
            self.state = LEDGER.evolve(self.state, event)
            self.views.apply(HERE, event)
            self.proof.look(self.proof.positions + 1, event)
        return events

    def admit(self, vm: str, promise: Promise, series: Series) -> bool:
        events = self._do(ReserveMemory(node="n", vm=vm, generation=1, promise=promise))
        granted = isinstance(events[0], MemoryReserved)
        if granted:
            self.guests[vm] = series
        return granted

    def needs(self, n: int) -> dict[str, int]:
        return {vm: round(series[n][1] * NOMINAL_MIB / 100) for vm, series in self.guests.items()}

    def demand_mib(self, n: int) -> int:
        """What the VMs need of the host at that sample, QEMU's own included."""
        own = whole_mib(promise_of(NOMINAL_MIB, Priority.CRITICAL)) - NOMINAL_MIB
        return sum(used + own for used in self.needs(n).values())

    def play(self, n: int, at_us: int) -> None:
        """The ladder looks at this sample; again while it wishes VMs away."""
        for look in range(LOOKS):
            now_us = at_us + look * LOOK_US
            self._say(n, now_us)
            gone = [e.vm for c in self._ticks(now_us) for e in self._do(c, now_us) if isinstance(e, VmMoveWanted)]
            for vm in gone:
                self._do(ReleaseMemory(node="n", vm=vm, generation=1), now_us)
                del self.guests[vm]
            self.moved += len(gone)
            if not gone:
                return

    def _ticks(self, now_us: int) -> list[Command]:
        return list(react.ticks(now_us, iter([("ledger-n", self.state)])))

    def _say(self, n: int, now_us: int) -> None:
        assert isinstance(self.state, Ledger)
        grips = self.state.grips
        rows = []
        for vm, used in self.needs(n).items():
            grip = grips.get(vm)
            has = grip.target_mib if grip is not None and grip.target_mib >= 0 else NOMINAL_MIB
            own = whole_mib(self.state.reserved[vm].promise) - NOMINAL_MIB
            rows.append(VmMemory(vm, 1, min(has, used) + own, 0, has, max(0, has - used)))
        total = self.state.physical_mib
        available = max(0, self.state.capacity_mib - self.demand_mib(n))
        beat = MemoryBeat("n", "b", now_us, total, available, vms=tuple(rows))
        views.hear("tel.n.memory", encode(beat), now_us, self.views)

    def forecast_mib(self, now_us: int) -> int:
        return self.views.forecast(self.views.nodes["n"], now_us)


@dataclass(slots=True)
class Tally:
    held: int = 0
    windows: int = 0
    missed: int = 0
    outgrown: int = 0
    predicted: float = 0.0
    moved: int = 0
    breaches: int = 0

    def extra_pct(self, without: int) -> float:
        return round(100 * (self.held / max(1, self.windows) / without - 1), 2)

    def part_pct(self, count: float) -> float:
        return round(100 * count / max(1, self.windows), 4)


def windows(series: Series) -> Iterator[range]:
    """The samples of each window, after the history."""
    begin = series[0][0] + HISTORY_S
    first = next((i for i, (t, _) in enumerate(series) if t >= begin), len(series))
    while first < len(series):
        end_s = series[first][0] + WINDOW_S
        last = next((i for i in range(first, len(series)) if series[i][0] >= end_s), len(series))
        if series[last - 1][0] - series[first][0] + 1 < WINDOW_S // 2:
            return
        yield range(first, last)
        first = last


def fill(host: Host, trace: list[Series], random: Random, own_mib: int) -> int:
    """VMs of the trace, at random, until the ledger denies one; how many it holds."""
    for n, series in enumerate(random.sample(trace, len(trace))):
        priority = Priority.BEST_EFFORT if n % 2 else Priority.NORMAL
        promise = promise_of(NOMINAL_MIB, priority, Allotment(memory_reserved_mib=own_mib))
        if not host.admit(f"vm-{n}", promise, series):
            return n
    return len(trace)


def play(trace: list[Series], seed: int, ratio_pct: int, tally: Tally) -> None:
    host = Host(ratio_pct)
    host.begin()
    fill(host, trace, Random(seed), NOMINAL_MIB // 2)
    clock = trace[0]
    opens = {span.start: span for span in windows(clock)}
    expected, peak, closes = 0, 0, -1
    for n, (t_s, _) in enumerate(clock):
        now_us = (t_s - clock[0][0] + 86_400) * 1_000_000
        if n in opens:
            span = opens[n]
            before_us = now_us - 1
            expected, peak, closes = host.forecast_mib(before_us), 0, span.stop - 1
            tally.windows += 1
            tally.held += len(host.guests)
            tally.predicted += expected / (len(host.guests) * NOMINAL_MIB) if host.guests else 0
        peak = max(peak, host.demand_mib(n))
        if n == closes:
            tally.missed += peak > CAPACITY_MIB
            tally.outgrown += peak > expected
        host.play(n, now_us)
    tally.moved += host.moved
    tally.breaches += host.proof.faults_count


def without_over_allocation(trace: list[Series]) -> int:
    host = Host(100)
    host.begin()
    return fill(host, trace, Random(0), NOMINAL_MIB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer hosts")
    parser.add_argument("--json", action="store_true", help="print nothing but the result")
    parser.add_argument("--trace", type=Path, default=TRACE)
    given = parser.parse_args()
    opts = Options(given.quick, given.json)
    trace = read(given.trace)
    without = without_over_allocation(trace)
    hosts = 30 if opts.quick else 200
    tallies: dict[int, Tally] = {}
    for ratio_pct, count in ((150, hosts), (400, max(5, hosts // 5))):
        tally = tallies[ratio_pct] = Tally()
        for seed in range(count):
            play(trace, seed, ratio_pct, tally)
        opts.say(f"ratio {ratio_pct} %: {count} hosts, {tally.windows} windows, {tally.missed} missed, {tally.moved} moved")
    young, grown = estimates(trace, NOMINAL_MIB)
    capped, uncapped = tallies[150], tallies[400]
    figures: dict[str, Any] = {
        "extra_vms_pct": capped.extra_pct(without),
        "missed_windows_pct": capped.part_pct(capped.missed),
        "guarantee_breaches": capped.breaches + uncapped.breaches,
        "moved_vms": capped.moved,
        "uncapped_extra_vms_pct": uncapped.extra_pct(without),
        "uncapped_missed_windows_pct": uncapped.part_pct(uncapped.missed),
        "uncapped_moved_vms": uncapped.moved,
        "predicted_pct": capped.part_pct(capped.predicted),
        "outgrown_windows_pct": capped.part_pct(capped.outgrown),
        "young_short_pct": young.pct(young.short),
        "young_lacked_pct": young.pct(young.lacked),
        "young_spare_pct": young.pct(young.spare),
        "grown_short_pct": grown.pct(grown.short),
        "grown_lacked_pct": grown.pct(grown.lacked),
        "grown_spare_pct": grown.pct(grown.spare),
        "vms_without": without,
        "hosts": hosts,
        "windows": capped.windows,
        "trace": given.trace.name,
    }
    report(**figures)


if __name__ == "__main__":
    main()
