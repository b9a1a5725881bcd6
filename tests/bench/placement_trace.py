"""A trace of VM arrivals played on empty hosts of 64 cores and 256 GB: by the production policy and by the usual rules.

Measures, per tenant slice (hash of the batch modulo 8):

    bound   ceil(peak of cores in use / 64): fewer hosts can never do
    hosts   the fewest hosts on which no VM is turned away
    empty   mean share of hosts without a VM, over the arrival times after the first day, on int(1.16 x bound) hosts
"""

from __future__ import annotations

import csv
import gzip
import heapq
import math
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from libs.common.messages import NodeId
from services.compute.index import NodeIndex
from services.compute.lifetime_outlook import HORIZONS, Outlook
from services.compute.lifetime_table import Life, LifetimeTable
from services.compute.policy import PACK, NodeFacts, Weights, Wishes

CORES, MEMORY_MIB = 64, 256 * 1024
SLICES = 8
WARM_S = 86_400
ABOVE_MAX = 25
US = 1_000_000


class Arrival(NamedTuple):
    at_s: int
    batch: str
    vcpus: int
    memory_mib: int
    life_s: int


class Chooser(Protocol):
    """Keeps hosts; `choose` gives the number of the host it took, None where none has room."""

    def choose(self, vm: int, arrival: Arrival) -> int | None: ...
    def leave(self, vm: int, host: int, arrival: Arrival, at_s: int) -> None: ...
    def tick(self, at_s: int) -> None: ...


def read(path: Path) -> list[Arrival]:
    """Raises SystemExit where the file has not the columns."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt") as file:
            return [
                Arrival(
                    int(r["arrive_s"]), r["batch"], int(r["vcpu"]), round(float(r["mem_gb"]) * 1024), int(r["life_s"])
                )
                for r in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as bad:
        raise SystemExit(f"{path} is no trace with arrive_s, batch, vcpu, mem_gb, life_s: {bad!r}") from None


def slices(trace: list[Arrival]) -> list[list[Arrival]]:
    found: list[list[Arrival]] = [[] for _ in range(SLICES)]
    for arrival in trace:
        found[int(arrival.batch) * 2654435761 % 2**32 % SLICES].append(arrival)
    return found


def bound(trace: list[Arrival]) -> int:
    leaving: list[tuple[int, int]] = []
    cores = peak = 0
    for arrival in trace:
        while leaving and leaving[0][0] <= arrival.at_s:
            cores -= heapq.heappop(leaving)[1]
        cores += arrival.vcpus
        peak = max(peak, cores)
        heapq.heappush(leaving, (arrival.at_s + arrival.life_s, arrival.vcpus))
    return math.ceil(peak / CORES)


def play(trace: list[Arrival], hosts: int, chooser: Chooser, strict: bool) -> tuple[int, float]:
    """(VMs turned away, mean share of empty hosts). strict: ends with the first that is turned away."""
    leaving: list[tuple[int, int, int]] = []
    held, occupied, refused = [0] * hosts, 0, 0
    shares: list[float] = []
    last = trace[0].at_s
    for vm, arrival in enumerate(trace):
        while leaving and leaving[0][0] <= arrival.at_s:
            at_s, host, gone = heapq.heappop(leaving)
            held[host] -= 1
            occupied -= held[host] == 0
            chooser.leave(gone, host, trace[gone], at_s)
        if arrival.at_s != last:
            if arrival.at_s - trace[0].at_s > WARM_S:
                shares.append(1 - occupied / hosts)
            chooser.tick(arrival.at_s)
            last = arrival.at_s
        chosen = chooser.choose(vm, arrival)
        if chosen is None:
            refused += 1
            if strict:
                break
            continue
        occupied += held[chosen] == 0
        held[chosen] += 1
        heapq.heappush(leaving, (arrival.at_s + arrival.life_s, chosen, vm))
    return refused, sum(shares) / len(shares) if shares else 0.0


class Rule:
    """first, best, worst: the usual rules over free CPU and memory; the first of equals."""

    def __init__(self, hosts: int, rule: str) -> None:
        self.rule = rule
        self.cpu, self.memory = np.full(hosts, float(CORES)), np.full(hosts, float(MEMORY_MIB))

    def choose(self, vm: int, arrival: Arrival) -> int | None:
        fits = (self.cpu >= arrival.vcpus) & (self.memory >= arrival.memory_mib)
        if self.rule == "first":
            host = int(fits.argmax())
        else:
            left = self.cpu / CORES + self.memory / MEMORY_MIB
            sign = 1.0 if self.rule == "worst" else -1.0
            host = int(np.where(fits, sign * left, -np.inf).argmax())
        if not fits[host]:
            return None
        self.cpu[host] -= arrival.vcpus
        self.memory[host] -= arrival.memory_mib
        return host

    def leave(self, vm: int, host: int, arrival: Arrival, at_s: int) -> None:
        self.cpu[host] += arrival.vcpus
        self.memory[host] += arrival.memory_mib

    def tick(self, at_s: int) -> None:
        return None


class Production:
    """The production policy: its index, its table of lifetimes (empty at first) and its outlook. Facts of hosts that changed are
    renewed before the next choice, as services/compute/fleet.py does."""

    def __init__(self, hosts: int, weights: Weights = PACK) -> None:
        self.weights, self.table, self.outlook = weights, LifetimeTable(), Outlook()
        self.names = [NodeId(f"host-{n:05}") for n in range(hosts)]
        self.rows: dict[str, int] = {name: n for n, name in enumerate(self.names)}
        self.vcpus, self.memory_mib = [0] * hosts, [0] * hosts
        self.lives: dict[int, Life] = {}
        self.changed: set[int] = set(range(hosts))
        self.closed: frozenset[int] = frozenset()
        self.index = NodeIndex(horizons=HORIZONS)

    def facts(self, host: int) -> NodeFacts:
        return NodeFacts(
            node=self.names[host], number=host, online=True, cordoned=host in self.closed, pcpus=CORES, vcpus_per_pcpu=1.0,
            vcpus_promised=self.vcpus[host], memory_capacity_mib=MEMORY_MIB, memory_reserved_mib=self.memory_mib[host],
            ends=self.outlook.ends(self.names[host]),
        )  # fmt: skip

    def renew(self) -> None:
        if self.changed:
            self.index.put(*map(self.facts, self.changed))
            self.changed.clear()

    def wish(self, arrival: Arrival) -> tuple[Wishes, Life]:
        life = self.table.kind(arrival.batch, arrival.vcpus, arrival.at_s * US)
        lasts = self.outlook.lasts(life.kind)
        return Wishes(vcpus=arrival.vcpus, memory_mib=arrival.memory_mib, lasts=lasts), life

    def choose(self, vm: int, arrival: Arrival) -> int | None:
        self.renew()
        wish, life = self.wish(arrival)
        best = self.index.best(wish, self.weights)
        return None if best is None else self.take(vm, arrival, life, best)

    def take(self, vm: int, arrival: Arrival, life: Life, node: str) -> int:
        host, now_us = self.rows[node], arrival.at_s * US
        self.table.began(arrival.batch, life, now_us)
        life.ran = True
        self.lives[vm] = life
        self.outlook.add(str(vm), node, life, now_us)
        self._count(host, arrival, 1)
        return host

    def leave(self, vm: int, host: int, arrival: Arrival, at_s: int) -> None:
        self.outlook.drop(str(vm))
        self.table.ended(self.lives.pop(vm), at_s * US)
        self._count(host, arrival, -1)

    def tick(self, at_s: int) -> None:
        for names in (self.outlook.learn(self.table, at_s * US), self.outlook.age(at_s * US)):
            self.changed.update(self.rows[name] for name in names)

    def _count(self, host: int, arrival: Arrival, sign: int) -> None:
        self.vcpus[host] += sign * arrival.vcpus
        self.memory_mib[host] += sign * arrival.memory_mib
        self.changed.add(host)


def chooser(policy: str, hosts: int) -> Chooser:
    return Production(hosts) if policy == "ours" else Rule(hosts, policy)


def hosts_needed(trace: list[Arrival], lowest: int, policy: str) -> int:
    """The fewest hosts without a refusal, from the bound upwards."""
    for hosts in range(lowest, lowest + ABOVE_MAX):
        if not play(trace, hosts, chooser(policy, hosts), strict=True)[0]:
            return hosts
    return lowest + ABOVE_MAX


def empty_share(trace: list[Arrival], lowest: int, policy: str) -> float:
    hosts = int(lowest * 1.16)
    return play(trace, hosts, chooser(policy, hosts), strict=False)[1]
