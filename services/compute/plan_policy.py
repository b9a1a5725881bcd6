"""How the VMs of one node share its pCPUs: inputs in, plan out. The same inputs and homes give the same plan.

Taken in this order, and inside each step by class, then by name:

    1  pins        a VM whose allotment names pCPUs keeps to them; as many pins as vCPUs: one each
    2  exclusive   a critical VM that reserves all of its vCPUs gets whole cores of its own, in one cell where one has them
    3  floating    all others float over what is left: in one cell where their vCPUs and memory fit, with a core for each vCPU
                   before threads of fewer cores, the one with the fewest vCPUs a pCPU
    4  apart       QEMU's other threads are kept off the pCPUs of critical vCPUs, where there are others
    5  memory      is bound to the cell of the vCPUs, where that cell cannot come short (plan_cells.py)

Nothing is taken for a VM alone where several nodes divide a host: they see the same pCPUs, and each plans without the others.
Weights follow from the class; one that would not hold a reservation with all VMs busy is raised until it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil

from proto.machine import Priority
from proto.plan import NodeCpus, PlanInputs, VmNeeds, VmPlan
from services.compute.plan_cells import NOT_BOUND, Binding, bindings
from services.compute.plan_limits import Pcpus, said, usable, weight_of, weights

POLICY = "plan-3"
"""Name and version of the rules; raised with each change that could make another plan."""

LAYOUTS_KNOWN_MAX = 4096
"""nodes whose pCPUs are remembered as they were laid out"""

SERVICE_CORES_EVERY = 8
"""One core in so many is kept free of critical vCPUs, for the emulator and I/O threads of all."""

SERVICE_CORES_MIN = 4
"""A cell of fewer cores keeps none apart: critical VMs would lose more by it than they win."""

_RANK = {p: n for n, p in enumerate((Priority.CRITICAL, Priority.IMPORTANT, Priority.NORMAL, Priority.BEST_EFFORT))}


@dataclass(slots=True)
class _Node:
    """What is left of a node while a plan is made. cells: usable pCPUs by cell; critical: those critical vCPUs keep to.
    What many VMs ask again is remembered (`pools`, `homes`, `beside`)."""

    cells: list[Pcpus]
    cores: list[Pcpus]
    share: int
    taken: set[int] = field(default_factory=set)
    critical: set[int] = field(default_factory=set)
    load: list[int] = field(default_factory=list)
    """vCPUs that float in each cell"""
    reserved: list[int] = field(default_factory=list)
    """CPU time reserved by VMs that keep to each cell, in percent of one pCPU"""
    cells_mib: list[int] = field(default_factory=list)
    """what VMs may be promised in each cell; empty: not known"""
    memory_mib: list[int] = field(default_factory=list)
    """what VMs that keep to each cell are promised"""
    numbers: tuple[int, ...] = ()
    """the kernel's, of each cell; empty: not known"""
    usable: Pcpus = ()
    pools: list[Pcpus] = field(default_factory=list)
    """of each cell, the pCPUs that nobody has for himself"""
    wide: list[int] = field(default_factory=list)
    """how many cores those are of"""
    homes: dict[Pcpus, int | None] = field(default_factory=dict)
    beside: dict[int | None, tuple[Pcpus, str]] = field(default_factory=dict)

    def take(self, pcpus: Iterable[int]) -> None:
        """For one VM alone."""
        self.taken.update(pcpus)
        self.pools = [tuple(p for p in cell if p not in self.taken) for cell in self.cells]
        self.wide = list(_wide(self.cores, self.pools))

    def holds(self, n: int, mib: int) -> bool:
        """Is so much memory left in cell n?"""
        return not self.cells_mib or self.memory_mib[n] + mib <= self.cells_mib[n]

    @property
    def pool_all(self) -> Pcpus:
        return tuple(p for pool in self.pools for p in pool)


@dataclass(slots=True)
class _Place:
    pcpus: Pcpus
    why: str
    pins: tuple[Pcpus, ...] = ()
    exclusive: bool = False
    fault: str = ""


def make(inputs: PlanInputs, homes: Mapping[str, Pcpus]) -> tuple[VmPlan, ...]:
    """The plan of each VM, by name. homes: where each floated or had its own before; kept while it holds."""
    node = opened(inputs.cpus)
    vms = sorted(inputs.vms, key=lambda vm: (_RANK[vm.priority], vm.vm))
    places: dict[str, _Place] = {}
    floating: list[VmNeeds] = []
    for vm in vms:
        if vm.allotment.pins:
            places[vm.vm] = _pinned(vm, node)
    pinned = {p for place in places.values() for p in place.pcpus}
    for vm in vms:
        if vm.vm in places and not places[vm.vm].fault:
            continue
        own = _exclusive(vm, node, homes.get(vm.vm, ()), pinned)
        fault = places[vm.vm].fault if vm.vm in places else ""
        if own is not None:
            own.fault = fault
            places[vm.vm] = own
        else:
            floating.append(vm)
    for vm in _settled_first(floating, node, homes):
        fault = places[vm.vm].fault if vm.vm in places else ""
        places[vm.vm] = _floating(vm, node, homes.get(vm.vm, ()))
        places[vm.vm].fault = fault or places[vm.vm].fault
    _set_apart(floating, places, node)
    shares = _shares(vms, places, node)
    keeps: dict[str, int | None] = {vm.vm: cell_of(node, places[vm.vm].pcpus) for vm in vms}
    bound = bindings(vms, keeps, node.cells_mib, node.numbers) if node.share == 1 else {}
    return tuple(
        _plan(vm, places[vm.vm], shares[vm.vm], bound.get(vm.vm, NOT_BOUND), node) for vm in sorted(vms, key=lambda vm: vm.vm)
    )


def opened(cpus: NodeCpus) -> _Node:
    cells, cores, sizes, numbers, wide = _layout(cpus)
    return _Node(
        cells_mib=list(sizes),
        numbers=numbers,
        memory_mib=[0] * len(cells),
        usable=tuple([p for cell in cells for p in cell]),
        pools=list(cells),
        cells=list(cells),
        cores=list(cores),
        share=max(1, cpus.share),
        load=[0] * len(cells),
        reserved=[0] * len(cells),
        wide=list(wide),
    )


@lru_cache(maxsize=LAYOUTS_KNOWN_MAX)
def _layout(cpus: NodeCpus) -> tuple[tuple[Pcpus, ...], tuple[Pcpus, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Cells that have usable pCPUs, cores likewise, the cells' sizes and numbers, and how many cores each is of: a node is planned
    anew with each VM that comes or goes, and its pCPUs stay."""
    may = set(usable(cpus))
    cells = [tuple(p for p in cell if p in may) for cell in cpus.cells]
    cores = [tuple(p for p in core if p in may) for core in cpus.cores]
    known = {p for core in cores for p in core}
    cores += [(p,) for p in sorted(may - known)]
    sizes = cpus.cells_mib if len(cpus.cells_mib) == len(cells) else ()
    sizes_of_used = [mib for mib, cell in zip(sizes, cells, strict=False) if cell]
    numbers = cpus.numbers if len(cpus.numbers) == len(cells) else ()
    numbers = tuple(n for n, cell in zip(numbers, cells, strict=False) if cell)
    cells = [cell for cell in cells if cell]
    cores = sorted(core for core in cores if core)
    return tuple(cells), tuple(cores), tuple(sizes_of_used), numbers, _wide(cores, cells)


def _wide(cores: Sequence[Pcpus], pools: Sequence[Pcpus]) -> tuple[int, ...]:
    """Of how many cores each pool is."""
    return tuple([sum(not set(core).isdisjoint(pool) for core in cores) for pool in pools])


def _settled_first(vms: Sequence[VmNeeds], node: _Node, homes: Mapping[str, Pcpus]) -> list[VmNeeds]:
    """Those that have a home in one cell keep it; newcomers then see how full each cell is."""
    if len(node.cells) == 1:
        return list(vms)
    return sorted(vms, key=lambda vm: cell_of(node, homes.get(vm.vm, ())) is None)


# --- 1 · pins ----------------------------------------------------------------------------------------------------------


def _pinned(vm: VmNeeds, node: _Node) -> _Place:
    pins = vm.allotment.pins
    if wrong := sorted(set(pins) - set(node.usable)):
        fault = f"pinned to {said(pins)}, but VMs may not run on {said(wrong)} of this node: they may on {said(node.usable)}"
        return _Place((), "", fault=fault)
    if vm.priority is Priority.CRITICAL:
        node.critical.update(pins)
    cell = cell_of(node, pins)
    if cell is not None:
        node.reserved[cell] += vm.allotment.cpu_reserved_pct
        node.memory_mib[cell] += vm.memory_mib
    each = tuple((p,) for p in pins) if len(pins) == vm.vcpus else ()
    why = f"pinned to {said(pins)} by its allotment" + (", one for each vCPU" if each and len(each) > 1 else "")
    return _Place(tuple(sorted(pins)), why, pins=each)


# --- 2 · exclusive -----------------------------------------------------------------------------------------------------


def _exclusive(vm: VmNeeds, node: _Node, home: Pcpus, pinned: set[int]) -> _Place | None:
    """Whole cores, one for each vCPU; their other threads stay idle. None: it is not entitled to any, or there are too few."""
    whole = vm.allotment.cpu_reserved_pct >= 100 * vm.vcpus and vm.priority is Priority.CRITICAL
    if not whole or node.share > 1:
        return None
    free = [core for core in node.cores if not set(core) & (node.taken | pinned)]
    chosen = _cores(vm, free, node, home)
    if chosen is None:
        return None
    pcpus = tuple(sorted(p for core in chosen for p in core))
    node.take(pcpus)
    node.critical.update(pcpus)
    if (cell := cell_of(node, pcpus)) is not None:
        node.memory_mib[cell] += vm.memory_mib
    why = f"reserves all of its vCPUs: {len(chosen)} whole core{'s' * (len(chosen) > 1)} of its own ({said(pcpus)})"
    return _Place(pcpus, why, pins=tuple(chosen), exclusive=True)


def _cores(vm: VmNeeds, free: list[Pcpus], node: _Node, home: Pcpus) -> list[Pcpus] | None:
    """The same as before where they are free; else from the cell that has the fewest to spare, among those with its memory where
    there are any; else from any. One core at least is left to all others."""
    count = vm.vcpus
    if len(free) <= count:
        return None
    before = [core for core in free if set(core) <= set(home)]
    if len(before) == count:
        return before
    by_cell = [[core for core in free if set(core) <= set(cell)] for cell in node.cells]
    enough = [n for n, cores in enumerate(by_cell) if len(cores) >= count]
    fitting = [by_cell[n] for n in [n for n in enough if node.holds(n, vm.memory_mib)] or enough]
    from_cell = min(fitting, key=lambda cores: (len(cores), cores[0])) if fitting else free
    return from_cell[-count:]


# --- 3 · floating ------------------------------------------------------------------------------------------------------


def cell_of(node: _Node, home: Pcpus) -> int | None:
    """The one cell that all of these pCPUs lie in."""
    try:
        return node.homes[home]
    except KeyError:
        inside = (n for n, cell in enumerate(node.cells) if home and set(home) <= set(cell))
        cell = node.homes[home] = next(inside, None)
        return cell


def _floating(vm: VmNeeds, node: _Node, home: Pcpus) -> _Place:
    short = ""
    if vm.priority is Priority.CRITICAL and vm.allotment.cpu_reserved_pct >= 100 * vm.vcpus:
        several = f"{node.share} nodes divide this host" if node.share > 1 else "too few whole cores are free"
        short = f"reserves all of its vCPUs, but {several}: "
    if len(node.cells) == 1:
        return _Place(node.pools[0], f"{short}floats over {said(node.pools[0])}")
    wanted, before = vm.allotment.cpu_reserved_pct, cell_of(node, home)
    roomy = [
        n
        for n in range(len(node.cells))
        if len(node.pools[n]) >= vm.vcpus
        if n == before or node.holds(n, vm.memory_mib)  # what lies there already stays there
        if not wanted or node.reserved[n] + wanted <= 100 * len(node.pools[n]) // node.share
    ]
    if not roomy:
        needs = f"{vm.vcpus} pCPUs for its vCPUs" + (f", {wanted} % to reserve" if wanted else "")
        needs += f" and {vm.memory_mib} MiB for its memory" if node.cells_mib else ""
        fault = f"it is to lie in one cell, and no cell has {needs}" if vm.allotment.one_cell else ""
        return _Place(node.pool_all, f"{short}floats over {said(node.pool_all)}: no cell has {needs}", fault=fault)
    cored = [n for n in roomy if node.wide[n] >= vm.vcpus] or roomy  # a core for each vCPU before threads of fewer
    cell = before if before in roomy else min(cored, key=lambda n: ((node.load[n] + vm.vcpus) / len(node.pools[n]), n))
    assert cell is not None
    node.load[cell] += vm.vcpus
    node.reserved[cell] += wanted
    node.memory_mib[cell] += vm.memory_mib
    held = " and its memory" if node.cells_mib and node.memory_mib[cell] <= node.cells_mib[cell] else ""
    return _Place(
        node.pools[cell], f"{short}floats over {said(node.pools[cell])}, one cell with a pCPU for each of its vCPUs{held}"
    )


# --- 4 · apart ---------------------------------------------------------------------------------------------------------


def _set_apart(floating: Sequence[VmNeeds], places: dict[str, _Place], node: _Node) -> None:
    """Critical VMs that float leave some cores of their cell to the other threads of all, where the cell is large enough."""
    if node.share > 1:
        return
    critical = [vm for vm in floating if vm.priority is Priority.CRITICAL]
    for n in range(len(node.cells)) if critical else ():
        pool = set(node.pools[n])
        inside = [vm for vm in critical if set(places[vm.vm].pcpus) == pool]
        cores = [core for core in node.cores if set(core) <= pool]
        if not inside or len(cores) < SERVICE_CORES_MIN:
            continue
        service = {p for core in cores[: ceil(len(cores) / SERVICE_CORES_EVERY)] for p in core}
        rest = tuple(sorted(pool - service))
        left = sum(1 for core in cores if not set(core) & service)
        if sum(vm.vcpus for vm in inside) > len(rest) or any(left < min(vm.vcpus, len(cores)) for vm in inside):
            continue  # it would cost them more than it wins: some would wait, or two vCPUs share a core that could have one each
        node.critical.update(rest)
        for vm in inside:
            place = places[vm.vm]
            place.pcpus = rest
            place.why += f", without {said(sorted(service))}, which the other threads of all VMs keep to"


def _threads(place: _Place, node: _Node) -> tuple[Pcpus, str]:
    """Where QEMU's other threads run: near, and not where critical vCPUs are."""
    cell = cell_of(node, place.pcpus)
    known = node.beside.get(cell)
    if known is None:
        free = [p for p in node.usable if p not in node.critical and p not in node.taken]
        near = free if cell is None else [p for p in free if p in node.cells[cell]]
        alone = "" if free else "; no pCPU is free of critical vCPUs, so its other threads run anywhere"
        known = node.beside[cell] = tuple(near or free or node.usable), alone
    return known


def _shares(vms: Sequence[VmNeeds], places: Mapping[str, _Place], node: _Node) -> dict[str, int]:
    """Weights, so that each reservation holds among those that it competes with: of a VM that floats in one cell, all that may run
    there; of another, all. Who has its own pCPUs competes with nobody."""
    shares: dict[str, int] = {vm.vm: weight_of(vm) for vm in vms}
    rivals = [vm for vm in vms if not places[vm.vm].exclusive]
    if not any(vm.allotment.cpu_reserved_pct for vm in rivals):
        return shares
    cells: dict[str, int | None] = {vm.vm: cell_of(node, places[vm.vm].pcpus) for vm in rivals}
    raised = weights(rivals, shares, 100.0 * len(node.pool_all) / node.share)
    if len(node.cells) == 1:
        return shares | raised
    shares |= {vm: weight for vm, weight in raised.items() if cells[vm] is None}
    for n in range(len(node.cells)):
        inside = [vm for vm in rivals if set(places[vm.vm].pcpus) & set(node.cells[n])]
        raised = weights(inside, shares, 100.0 * len(node.pools[n]) / node.share)
        shares |= {vm: weight for vm, weight in raised.items() if cells[vm] == n}
    return shares


# --- in words ----------------------------------------------------------------------------------------------------------


def _plan(vm: VmNeeds, place: _Place, weight: int, bound: Binding, node: _Node) -> VmPlan:
    wish = vm.allotment
    threads, alone = _threads(place, node)
    plain = weight_of(vm)
    of = "its own" if wish.cpu_weight else vm.priority
    weighs = f"weight {weight} ({of})"
    if weight > plain:
        weighs = f"weight raised from {plain} to {weight}, which holds its {wish.cpu_reserved_pct} % with all VMs busy"
    cap = f", at most {wish.cpu_cap_pct} %" if wish.cpu_cap_pct else ""
    apart = f"; its other threads keep to {said(threads)}, off critical vCPUs" if node.critical and not alone else ""
    return VmPlan(
        vm=vm.vm,
        generation=vm.generation,
        weight=weight,
        cap_pct=wish.cpu_cap_pct,
        reserved_pct=wish.cpu_reserved_pct,
        pcpus=place.pcpus,
        pins=place.pins,
        threads=threads,
        exclusive=place.exclusive,
        sentence=f"{place.why}; {weighs}{cap}{apart}{alone}{bound.words}",
        fault=place.fault or bound.fault,
        priority=vm.priority,
        cells=bound.cells,
    )
