"""The numbers of a plan: which pCPUs VMs may use, what may be reserved on them, and the weights that hold it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import ceil

from proto.plan import CLASS_WEIGHT, WEIGHT_MAX, NodeCpus, VmNeeds

type Pcpus = tuple[int, ...]


def usable(cpus: NodeCpus) -> Pcpus:
    """The pCPUs that VMs may run on, by number."""
    return tuple(sorted(p for cell in cpus.cells for p in cell if p not in cpus.isolated))


def capacity_pct(cpus: NodeCpus) -> int:
    """CPU time that may be reserved on a node, in percent of one pCPU: its part of the host's pCPUs."""
    return 100 * len(usable(cpus)) // max(1, cpus.share)


def short_pct(cpus: NodeCpus, others_reserved_pct: int, wanted_pct: int) -> int:
    """By how much a reservation does not fit beside those of others; 0: it fits. Also a filter of placement's."""
    return max(0, others_reserved_pct + wanted_pct - capacity_pct(cpus)) if wanted_pct else 0


def weight_of(vm: VmNeeds) -> int:
    """By class, or as wished."""
    return vm.allotment.cpu_weight or CLASS_WEIGHT[vm.priority]


def weights(vms: Sequence[VmNeeds], plain: Mapping[str, int], capacity_pct: float) -> dict[str, int]:
    """Of VMs that compete for the same pCPUs: the plain ones, raised where a reservation would not hold with all busy. Raised ones
    take their reservation first, and the others divide the rest by their weights."""
    plain = {vm.vm: plain[vm.vm] for vm in vms}
    raised: dict[str, int] = {}
    while True:
        total = sum(w for vm, w in plain.items() if vm not in raised)
        rest_pct = capacity_pct - sum(raised.values())
        short: dict[str, int] = {
            vm.vm: vm.allotment.cpu_reserved_pct
            for vm in vms
            if vm.vm not in raised and len(vms) > 1
            if vm.allotment.cpu_reserved_pct > max(0.0, rest_pct) * plain[vm.vm] / total
        }
        if not short:
            break
        raised |= short
    if not raised:
        return dict(plain)
    total = sum(w for vm, w in plain.items() if vm not in raised)
    # nobody that is raised falls below its plain weight, also where nothing is left to divide
    per_pct = max(total / max(1.0, rest_pct), *(plain[vm] / pct for vm, pct in raised.items()))
    fits = {vm: min(WEIGHT_MAX, ceil(pct * per_pct)) for vm, pct in raised.items()}
    return dict(plain) | fits


def said(pcpus: Iterable[int]) -> str:
    """`pCPUs 0-3, 8`"""
    return _said(tuple(sorted(pcpus)))


@lru_cache(maxsize=1024)
def _said(numbers: Pcpus) -> str:
    runs: list[list[int]] = []
    for p in numbers:
        if runs and p == runs[-1][-1] + 1:
            runs[-1].append(p)
        else:
            runs.append([p])
    words = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"pCPU{'s' * (len(numbers) != 1)} {words or 'none'}"
