"""Uneven clusters for the rebalancers: drawn from a seed, the same for both, nothing in them that only one of them could see."""

from __future__ import annotations

import random
from dataclasses import dataclass

from libs.common.messages import NodeId, VmId
from proto.balance import ClusterLoad, NodeLoad, VmLoad

VCPUS_PER_PCPU_MAX = 8
PCPUS = 16
MEMORY_MIB = (65_536, 65_536, 98_304)
VCPUS = (1, 2, 2, 4, 8)
MEMORY_STEPS = (1, 2, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Shape:
    """fill: promised part of all memory. mixed: nodes of two memory sizes. apart: VMs in groups of three that keep apart."""

    nodes: int
    vms: int
    seed: int
    fill: float = 0.6
    mixed: bool = False
    apart: int = 0

    @property
    def name(self) -> str:
        words = [f"{self.nodes} nodes", f"{self.vms} VMs", f"{self.fill:.0%} full", f"seed {self.seed}"]
        return ", ".join(words + ["two sizes"] * self.mixed + [f"{self.apart} groups apart"] * bool(self.apart))


QUICK = (
    *(Shape(8, 60, seed) for seed in (1, 2, 3, 4)),
    Shape(8, 60, 5, fill=0.8),
    Shape(8, 60, 6, mixed=True, apart=6),
    Shape(20, 150, 1),
    Shape(20, 150, 2, fill=0.75, mixed=True),
    Shape(20, 150, 3, apart=15),
    Shape(40, 160, 1, mixed=True),
)
FULL = (
    *(Shape(8, 60, seed) for seed in range(1, 11)),
    *(Shape(8, 60, seed, fill=0.8, mixed=True, apart=6) for seed in range(11, 17)),
    *(Shape(20, 150, seed) for seed in range(1, 5)),
    *(Shape(20, 150, seed, fill=0.8, mixed=True, apart=15) for seed in range(5, 8)),
    Shape(40, 160, 1, mixed=True),
    Shape(40, 300, 1),
    Shape(40, 300, 2, fill=0.75, mixed=True, apart=30),
)


def draw(shape: Shape) -> ClusterLoad:
    """Nodes draw VMs by chance and by a weight of their own, so that some are crowded; every VM fits where it is."""
    chance = random.Random(shape.seed)
    nodes = tuple(
        NodeLoad(
            node=NodeId(f"n{n + 1}"),
            pcpus=PCPUS,
            memory_mib=MEMORY_MIB[n % 3] if shape.mixed else MEMORY_MIB[0],
            vcpus_max=PCPUS * VCPUS_PER_PCPU_MAX,
        )
        for n in range(shape.nodes)
    )
    vcpus = [chance.choice(VCPUS) for _ in range(shape.vms)]
    steps = [chance.choice(MEMORY_STEPS) for _ in range(shape.vms)]
    scale = shape.fill * sum(node.memory_mib for node in nodes) / sum(steps)
    sizes = [max(64, int(scale * step) // 64 * 64) for step in steps]
    weights = [chance.random() ** 1.5 + 0.05 for _ in nodes]
    free = [[node.memory_mib, node.vcpus_max] for node in nodes]
    groups: list[set[str]] = [set() for _ in nodes]
    vms = []
    for i in sorted(range(shape.vms), key=lambda i: -sizes[i]):
        group = f"g{i % shape.apart}" if shape.apart and i < 3 * shape.apart else ""
        fits = [
            n for n, (mib, cpus) in enumerate(free) if sizes[i] <= mib and vcpus[i] <= cpus and group not in groups[n]
        ]
        n = chance.choices(fits, [weights[k] for k in fits])[0]
        free[n][0] -= sizes[i]
        free[n][1] -= vcpus[i]
        groups[n] |= {group} - {""}
        demand = round(vcpus[i] * chance.betavariate(1.2, 4.0), 3)
        vms.append(
            VmLoad(
                vm=VmId(f"vm{i + 1}"),
                node=nodes[n].node,
                vcpus=vcpus[i],
                memory_mib=sizes[i],
                demand_pcpus=demand,
                apart=group,
            )
        )
    return ClusterLoad(nodes=nodes, vms=tuple(vms))
