"""What many schedules come to: how many count, what they executed and hold, what befell, which guards kept something away.

A schedule counts with at least HELD_MIN deliveries, three nodes, five VMs, and three faults of two kinds.
"""

from __future__ import annotations

from typing import Any

import msgspec

from libs.world.befall import KINDS
from libs.world.tree import Schedule

HELD_MIN, NODES_MIN, VMS_MIN, FAULTS_MIN, KINDS_MIN = 100, 3, 5, 3, 2
VIOLATIONS_MAX = 100
"""that are kept with their words; all are counted"""
FAULTS = frozenset(word for word, kind in KINDS.items() if kind.breaks != "people")


class Census(msgspec.Struct):
    """trees: so many are done. schedules: that count; left_out: that do not. restarts: of those that count, with a lost node and a
    restart decided. held, own: deliveries on their paths, and executed for them alone. settled: were followed into peace.
    fenced: in worlds with fence devices."""

    trees: int = 0
    schedules: int = 0
    left_out: int = 0
    restarts: int = 0
    held: int = 0
    own: int = 0
    settled: int = 0
    fenced: int = 0
    violations: int = 0
    faults: list[tuple[int, str]] = []
    kinds: dict[str, int] = {}
    types: dict[str, int] = {}
    guards: dict[str, int] = {}

    def count(self, schedule: Schedule) -> None:
        if schedule.fault:
            self.violations += 1
            if len(self.faults) < VIOLATIONS_MAX:
                self.faults.append((schedule.story.seed, schedule.fault))
        self.own += schedule.own
        self.settled += schedule.settled
        if not counts(schedule):
            self.left_out += 1
            return
        self.schedules += 1
        self.held += schedule.held
        self.fenced += schedule.story.fences
        self.restarts += bool(schedule.types["node_lost"] and schedule.types["restart_wanted"])
        for word in schedule.kinds:
            self.kinds[word] = self.kinds.get(word, 0) + 1
        _add(self.guards, schedule.guards)
        _add(self.types, schedule.types)

    def add(self, other: Census) -> None:
        for name in ("trees", "schedules", "left_out", "restarts", "held", "own", "settled", "fenced", "violations"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.faults = [*self.faults, *other.faults][:VIOLATIONS_MAX]
        for mine, theirs in ((self.kinds, other.kinds), (self.types, other.types), (self.guards, other.guards)):
            _add(mine, theirs)

    def lines(self) -> list[str]:
        """For people."""
        each = max(1, self.schedules)
        said = [
            f"{self.schedules} schedules of {self.trees} trees ({self.left_out} more do not count), {self.violations} violations",
            f"deliveries: {self.held / each:.0f} on each schedule's path, {self.own / each:.0f} of them executed for it alone",
            f"{100 * self.restarts / each:.0f} % reach a restart; {self.settled} were followed until all had settled",
            f"fence devices in {self.fenced} of them: " + (self._told("fence_") or "none was asked for anything"),
        ]
        for word, found in (("befell", self.kinds), ("guards", self.guards)):
            ordered = sorted(found.items(), key=lambda one: -one[1])
            said.append(f"{word}: " + ", ".join(f"{name} {n}" for name, n in ordered))
        missing = sorted(FAULTS - set(self.kinds))
        if missing:
            said.append(f"never befell: {', '.join(missing)}")
        return said + [f"VIOLATION in tree {seed}: {fault}" for seed, fault in self.faults]

    def _told(self, prefix: str) -> str:
        """Events, by their wire names, and how many."""
        return ", ".join(f"{name.removeprefix(prefix)} {n}" for name, n in sorted(self.types.items()) if name.startswith(prefix))


def counts(schedule: Schedule) -> bool:
    faults = [word for word in schedule.kinds if word in FAULTS]
    big = schedule.story.nodes >= NODES_MIN and schedule.story.vms >= VMS_MIN
    return big and schedule.held >= HELD_MIN and len(faults) >= FAULTS_MIN and len(set(faults)) >= KINDS_MIN


def _add(sums: dict[str, int], more: Any) -> None:
    for name, n in more.items():
        sums[name] = sums.get(name, 0) + n
