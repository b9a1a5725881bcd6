"""A cluster as columns of numbers: its score, what a transfer between two nodes would make of it, and what fits where.

The score is that of Ganeti's hbal for storage that all nodes reach, and one term more:

    memory   standard deviation over the nodes of the promised part of memory
    vcpus    standard deviation of the promised vCPUs per pCPU
    cpu      standard deviation of the CPU demand per pCPU
    excess   sum of the CPU demand per pCPU beyond `busy_share`

The deviations are those of the nodes that take VMs; excess counts on cordoned ones too, which are left but not entered.

A deviation is kept as two sums, of the values and of their squares, so that a move changes it in a few operations, whatever
the number of nodes. Everything is by index: nodes by name, VMs by name, so that equals are taken in the same order every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt

from proto.balance import ClusterLoad, NodeLoad, Rules, VmLoad

TERMS = 3
"""terms that are deviations"""

PCPUS_MIN = 0.01
"""a node that has less is counted as if it had so much"""


class Board:
    """Mutable working paper of one plan. `at[i]`: the index of the node on which VM i is."""

    def __init__(self, load: ClusterLoad, rules: Rules, at: list[int] | None = None) -> None:
        """at: where the VMs are instead, in the order of their names."""
        self.nodes: list[NodeLoad] = sorted(load.nodes, key=lambda n: n.node)
        index = {node.node: n for n, node in enumerate(self.nodes)}
        self.vms: list[VmLoad] = sorted((vm for vm in load.vms if vm.node in index), key=lambda vm: vm.vm)
        weights = rules.weights
        self.rules = rules
        self.weights = (weights.memory, weights.vcpus, weights.cpu)
        self.excess_weight = weights.excess
        self.home = [index[vm.node] for vm in self.vms] if at is None else list(at)
        self.at = list(self.home)
        self.counted = [not node.cordoned for node in self.nodes]
        self.scale = [(1 / max(1, n.memory_mib), *[1 / max(PCPUS_MIN, n.pcpus)] * 2) for n in self.nodes]
        self.free_mib = [n.memory_mib - n.kept_mib for n in self.nodes]
        self.free_charged = [n.memory_mib - n.kept_charged_mib for n in self.nodes]
        self.free_vcpus = [n.vcpus_max - n.vcpus_kept for n in self.nodes]
        kept = [max(n.kept_mib, n.kept_charged_mib) for n in self.nodes]
        self.used = [[k * s[0], n.vcpus_kept * s[1], 0.0] for k, n, s in zip(kept, self.nodes, self.scale, strict=True)]
        self.held: list[tuple[int, int]] = []
        self.guests: list[set[int]] = [set() for _ in self.nodes]
        self.apart: list[dict[str, int]] = [{} for _ in self.nodes]
        self.together: dict[str, list[int]] = {}
        for vm, n in enumerate(self.home):
            self._enter(vm, n)
            if group := self.vms[vm].together:
                self.together.setdefault(group, []).append(vm)
        self.reach = _reaches(self.nodes, self.vms, self.home)

    def names(self) -> tuple[dict[str, int], dict[str, int]]:
        """Index by name: of VMs, of nodes."""
        return {vm.vm: i for i, vm in enumerate(self.vms)}, {node.node: n for n, node in enumerate(self.nodes)}

    # --- the score ------------------------------------------------------------------------------------------------

    def score(self) -> float:
        return sum(self.terms().values())

    def terms(self) -> dict[str, float]:
        """Each term, weighted. Computed afresh: what incremental sums have drifted apart does not add up."""
        found = {}
        for t, name in enumerate(("memory", "vcpus", "cpu")):
            column = [used[t] for used, counts in zip(self.used, self.counted, strict=True) if counts]
            found[name] = self.weights[t] * _deviation(column)
        found["excess"] = self.excess_weight * sum(max(0.0, used[2] - self.rules.busy_share) for used in self.used)
        return found

    def transfers(self, a: int) -> Callable[[int, tuple[float, float, float]], float]:
        """A function of (node b, amounts) that says the score if these amounts (MiB, vCPUs, pCPUs of demand) went from node a to
        b. Valid until the board changes."""
        if not all(self.counted):
            return self._transfers_beside_cordoned(a)
        count = len(self.nodes)
        used, scale, busy, heavy = self.used, self.scale, self.rules.busy_share, self.excess_weight
        (w0, w1, w2), (a0, a1, a2), (s0, s1, s2) = self.weights, used[a], scale[a]
        sums = [sum(u[t] for u in used) for t in range(TERMS)]
        squares = [sum(u[t] * u[t] for u in used) for t in range(TERMS)]
        m0, m1, m2 = sums
        q0, q1, q2 = squares
        over = sum(u[2] - busy for u in used if u[2] > busy)
        over_without_a = over - max(0.0, a2 - busy)

        def score(b: int, amounts: tuple[float, float, float]) -> float:
            d0, d1, d2 = amounts
            b0, b1, b2 = used[b]
            z0, z1, z2 = scale[b]
            x0, x1, x2 = a0 - d0 * s0, a1 - d1 * s1, a2 - d2 * s2
            y0, y1, y2 = b0 + d0 * z0, b1 + d1 * z1, b2 + d2 * z2
            u0 = (m0 - a0 - b0 + x0 + y0) / count
            u1 = (m1 - a1 - b1 + x1 + y1) / count
            u2 = (m2 - a2 - b2 + x2 + y2) / count
            v0 = (q0 - a0 * a0 - b0 * b0 + x0 * x0 + y0 * y0) / count - u0 * u0
            v1 = (q1 - a1 * a1 - b1 * b1 + x1 * x1 + y1 * y1) / count - u1 * u1
            v2 = (q2 - a2 * a2 - b2 * b2 + x2 * x2 + y2 * y2) / count - u2 * u2
            found = (w0 * sqrt(v0) if v0 > 0 else 0.0) + (w1 * sqrt(v1) if v1 > 0 else 0.0)
            if v2 > 0:
                found += w2 * sqrt(v2)
            beyond = over_without_a - (b2 - busy if b2 > busy else 0.0)
            beyond += (x2 - busy if x2 > busy else 0.0) + (y2 - busy if y2 > busy else 0.0)
            return found + heavy * beyond

        return score

    def _transfers_beside_cordoned(self, a: int) -> Callable[[int, tuple[float, float, float]], float]:
        """The same where some nodes' use does not count in the deviations."""
        used, busy, heavy = self.used, self.rules.busy_share, self.excess_weight
        open = [u for u, counts in zip(used, self.counted, strict=True) if counts]
        count = max(1, len(open))
        sums = [sum(u[t] for u in open) for t in range(TERMS)]
        squares = [sum(u[t] * u[t] for u in open) for t in range(TERMS)]
        over = sum(max(0.0, u[2] - busy) for u in used)

        def score(b: int, amounts: tuple[float, float, float]) -> float:
            found, beyond = 0.0, over
            for t in range(TERMS):
                total, square = sums[t], squares[t]
                for n, sign in ((a, -1), (b, 1)):
                    old = used[n][t]
                    new = old + sign * amounts[t] * self.scale[n][t]
                    if self.counted[n]:
                        total, square = total + new - old, square + new * new - old * old
                    if t == TERMS - 1:
                        beyond += max(0.0, new - busy) - max(0.0, old - busy)
                found += self.weights[t] * sqrt(max(0.0, square / count - (total / count) ** 2))
            return found + heavy * beyond

        return score

    def amounts(self, vm: int) -> tuple[float, float, float]:
        load = self.vms[vm]
        return (load.counts_mib or max(load.memory_mib, load.charged_mib), load.vcpus, load.demand_pcpus)

    # --- what fits ------------------------------------------------------------------------------------------------

    def fits(self, vm: int, b: int) -> bool:
        """May VM go to node b as things are, staying where it is until it is there? It takes memory and vCPUs of both meanwhile."""
        load = self.vms[vm]
        return (
            load.memory_mib <= self.free_mib[b]
            and load.charged_mib <= self.free_charged[b]
            and load.vcpus <= self.free_vcpus[b]
            and b in self.reach[vm]
            and not (load.vcpus_per_pcpu and self._crowds(load, b))
            and not (load.apart and self.apart[b].get(load.apart))
            and not (load.together and self._parts(vm, b))
        )

    def changes_places(self, vm: int, other: int) -> bool:
        """Could the two be on each other's nodes in the end? How they get there is another question."""
        a, b = self.at[vm], self.at[other]
        one, two = self.vms[vm], self.vms[other]
        if one.together or two.together or one.vcpus_per_pcpu or two.vcpus_per_pcpu:
            return False
        if b not in self.reach[vm] or a not in self.reach[other]:
            return False
        more_mib, more_vcpus = one.memory_mib - two.memory_mib, one.vcpus - two.vcpus
        if more_mib > self.free_mib[b] or -more_mib > self.free_mib[a]:
            return False
        more_charged = one.charged_mib - two.charged_mib
        if more_charged > self.free_charged[b] or -more_charged > self.free_charged[a]:
            return False
        if more_vcpus > self.free_vcpus[b] or -more_vcpus > self.free_vcpus[a]:
            return False
        if one.apart and one.apart == two.apart:
            return True
        return not (one.apart and self.apart[b].get(one.apart)) and not (two.apart and self.apart[a].get(two.apart))

    def _crowds(self, load: VmLoad, b: int) -> bool:
        """Would there be more vCPUs per pCPU than the VM's class allows?"""
        node = self.nodes[b]
        there = node.vcpus_max - self.free_vcpus[b]
        return there + load.vcpus > max(1, int(node.pcpus * load.vcpus_per_pcpu))

    def _parts(self, vm: int, b: int) -> bool:
        """Would the VM be on another node than one of its group?"""
        return any(other != vm and self.at[other] != b for other in self.together[self.vms[vm].together])

    # --- changes --------------------------------------------------------------------------------------------------

    def move(self, vm: int, b: int) -> None:
        self._leave(vm, self.at[vm])
        self.at[vm] = b
        self._enter(vm, b)

    def begin(self, vm: int, b: int) -> None:
        """The VM counts on node b; until `release` its memory, vCPUs and group are taken on the node that it leaves, too."""
        a = self.at[vm]
        self.move(vm, b)
        self._occupy(vm, a, 1)
        self.held.append((vm, a))

    def undo(self, vm: int) -> None:
        """Takes back the latest `begin`, which was this VM's."""
        held, a = self.held.pop()
        assert held == vm, f"{held} began last, not {vm}"
        self._occupy(vm, a, -1)
        self.move(vm, a)

    def release(self) -> None:
        for vm, n in self.held:
            self._occupy(vm, n, -1)
        self.held.clear()

    def _enter(self, vm: int, n: int) -> None:
        self._add(vm, n, 1)
        self.guests[n].add(vm)

    def _leave(self, vm: int, n: int) -> None:
        self._add(vm, n, -1)
        self.guests[n].discard(vm)

    def _add(self, vm: int, n: int, sign: int) -> None:
        self._occupy(vm, n, sign)
        for t, amount in enumerate(self.amounts(vm)):
            self.used[n][t] += sign * amount * self.scale[n][t]

    def _occupy(self, vm: int, n: int, sign: int) -> None:
        load = self.vms[vm]
        self.free_mib[n] -= sign * load.memory_mib
        self.free_charged[n] -= sign * load.charged_mib
        self.free_vcpus[n] -= sign * load.vcpus
        if load.apart:
            self.apart[n][load.apart] = self.apart[n].get(load.apart, 0) + sign


def _reaches(nodes: list[NodeLoad], vms: list[VmLoad], home: list[int]) -> list[frozenset[int]]:
    """By VM, the nodes that have all pools and networks it needs and take VMs; and its own. Few VMs differ in that: each need is
    looked up once."""
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], frozenset[int]] = {}
    found: list[frozenset[int]] = []
    for vm, own in zip(vms, home, strict=True):
        need = (vm.pools, vm.networks)
        if need not in known:
            known[need] = frozenset(_having(nodes, *need))
        found.append(known[need] | {own} if nodes[own].cordoned else known[need])
    return found


def _having(nodes: list[NodeLoad], pools: tuple[str, ...], networks: tuple[str, ...]) -> Iterable[int]:
    for n, node in enumerate(nodes):
        if not node.cordoned and set(pools) <= set(node.pools) and set(networks) <= set(node.networks):
            yield n


def _deviation(column: list[float]) -> float:
    if not column:
        return 0.0
    mean = sum(column) / len(column)
    return sqrt(sum((x - mean) ** 2 for x in column) / len(column))
