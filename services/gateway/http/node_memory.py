"""GET /v1/nodes/{node}/memory: areas, ledger and pressure of one node."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from proto.node import PLAIN, MemoryBeat
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.views.ledgers import Ledger


class VmNow(msgspec.Struct):
    """-1: not known."""

    vm: str
    resident_mib: int
    swapped_mib: int
    balloon_mib: int
    guest_available_mib: int


class AreaUse(msgspec.Struct):
    """One area of this node, as proto/node.py says it (AreaNow)."""

    name: str
    used_mib: int
    peak_mib: int
    max_mib: int
    swapped: bool
    hits: int
    kills: int
    psi_some_pct: float
    psi_full_pct: float


class SwapUse(msgspec.Struct):
    """One swap of the host, as proto/node.py says it (SwapNow); encrypted: nothing of it lies on a disk in the clear."""

    name: str
    kind: str
    size_mib: int
    used_mib: int
    why_not: str
    memory_mib: int
    memory_max_mib: int
    own: bool
    encrypted: bool


class Pressure(msgspec.Struct):
    """Of the whole host, also where nodes share it; areas: of this node. psi_…: percent of ten seconds in which some, or all, tasks
    waited for memory; -1: not known."""

    at_us: int
    total_mib: int
    available_mib: int
    swap_total_mib: int
    swap_free_mib: int
    psi_some_pct: float
    psi_full_pct: float
    ksm_saved_mib: int
    vms: list[VmNow]
    areas: list[AreaUse]
    swaps: list[SwapUse]


class NodeMemory(msgspec.Struct):
    """ledger: None before the node has reported; pressure: None where the node was not heard lately."""

    node: str
    ledger: Ledger | None = None
    pressure: Pressure | None = None


@get("/{node:str}/memory", action=Action.READ, summary="A node's memory: areas, ledger, pressure")
async def memory_of_node(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> NodeMemory:
    """VMs of other projects are in the sums, but not named."""
    await gateway.node(node)
    ledger, beat = gateway.model.ledgers.all.get(node), gateway.beats.memory(node)

    def named(vm: str) -> bool:
        found = gateway.model.vms.all.get(vm)
        return found is not None and request.user.sees(found.project)

    if ledger is not None:
        taken = ledger.taken if request.user.all_projects else []
        vms = {vm: promised for vm, promised in ledger.vms.items() if named(vm)}
        whose = {text: text.partition(":")[0] for text in ledger.faults}
        faults = tuple(t for t, vm in whose.items() if named(vm) or vm not in gateway.model.vms.all)
        nominal_mib = sum(vm.nominal_mib for vm in ledger.vms.values())
        ledger = msgspec.structs.replace(ledger, vms=vms, taken=taken, faults=faults, nominal_mib=nominal_mib)
    return NodeMemory(node, ledger, None if beat is None else _pressure(beat, {v.vm for v in beat.vms if named(v.vm)}))


def _pressure(beat: MemoryBeat, named: set[str]) -> Pressure:
    vms = [
        VmNow(v.vm, v.resident_mib, v.swapped_mib, v.balloon_mib, v.guest_available_mib)
        for v in beat.vms
        if v.vm in named
    ]
    return Pressure(
        beat.at_us, beat.total_mib, beat.available_mib, beat.swap_total_mib, beat.swap_free_mib,
        beat.psi_some_avg10, beat.psi_full_avg10, beat.ksm_saved_mib, vms,
        [AreaUse(**msgspec.structs.asdict(area)) for area in beat.areas],
        [SwapUse(**msgspec.structs.asdict(s), encrypted=s.kind != PLAIN) for s in beat.swaps],
    )  # fmt: skip
