"""The memory part of `asvctl node show`: areas, ledger, pressure."""

from __future__ import annotations

from typing import Any

from services.cli import show, units


def print_memory(found: dict[str, Any]) -> None:
    """Behind the node's own facts; what is not known is left out."""
    ledger, pressure = found.get("ledger") or {}, found.get("pressure") or {}
    if ledger:
        show.facts(_ledger(ledger))
        for area in ledger.get("areas") or ():
            print(f"area  {show.clean(area.get('name')):<10} {_limits(area)}")
        for vm in (ledger.get("vms") or {}).values():
            kept = f"{units.size(vm.get('reservation_mib'))} of {units.size(vm.get('nominal_mib'))}"
            words = f"{vm.get('priority')}  {kept}, beside it {units.size(vm.get('overhead_mib'))}"
            print(f"promised  {show.clean(vm.get('vm'))}  {words}")
        for fault in ledger.get("faults") or ():
            print(f"not applied  {show.clean(fault)}")
    if pressure:
        show.facts(_pressure(pressure))
        for vm in pressure.get("vms") or ():
            print(f"vm  {show.clean(vm.get('vm'))}  {_vm(vm)}")


def _ledger(ledger: dict[str, Any]) -> list[tuple[str, object]]:
    taken = ledger.get("taken") or {}
    free = ledger.get("capacity_mib", 0) - ledger.get("share_mib", 0)
    return [
        ("ledger", f"{units.size(ledger.get('capacity_mib'))} of {units.size(ledger.get('physical_mib'))} for VMs"),
        ("kept for failover", units.size(ledger["share_mib"]) if ledger.get("share_mib") else ""),
        ("guaranteed", f"{units.size(ledger.get('reserved_mib'))} of {units.size(free)}"),
        ("nominal, by ratio", f"{units.size(ledger.get('charged_mib'))} of {units.size(free)}"),
        ("short by", units.size(ledger["short_mib"]) if ledger.get("short_mib") else ""),
        ("swap for VMs", units.size(ledger["swap_mib"]) if ledger.get("swap_mib") else "none that is encrypted"),
        ("areas", f"control groups {ledger['memory_areas']}" if ledger.get("memory_areas") else "not kept apart here"),
        ("reclaim", f"{taken.get('level')}: {'; '.join(taken.get('steps') or ())}" if taken else ""),
    ]


def _limits(area: dict[str, Any]) -> str:
    said = [
        f"{name} {units.size(area[f'{name}_mib'])}" for name in ("min", "low", "high", "max") if area.get(f"{name}_mib")
    ]
    return ", ".join(said) or "no limits"


def _pressure(now: dict[str, Any]) -> list[tuple[str, object]]:
    swap = f"{units.size(now.get('swap_free_mib'))} of {units.size(now.get('swap_total_mib'))} free"
    waited = f"some {now.get('psi_some_pct', -1):g} %, all {now.get('psi_full_pct', -1):g} % of the last 10 s"
    return [
        ("host memory", f"{units.size(now.get('available_mib'))} of {units.size(now.get('total_mib'))} available"),
        ("swap", swap if now.get("swap_total_mib") else "none"),
        ("waiting for memory", waited if now.get("psi_some_pct", -1) >= 0 else "the kernel does not say"),
        ("merged (KSM)", units.size(now["ksm_saved_mib"]) if now.get("ksm_saved_mib") else ""),
    ]


def _vm(vm: dict[str, Any]) -> str:
    said = [f"{units.size(vm.get('resident_mib'))} resident"]
    if vm.get("swapped_mib"):
        said.append(f"{units.size(vm['swapped_mib'])} swapped")
    if vm.get("balloon_mib", -1) >= 0:
        said.append(f"balloon leaves {units.size(vm['balloon_mib'])}")
    if vm.get("guest_available_mib", -1) >= 0:
        said.append(f"{units.size(vm['guest_available_mib'])} available in the guest")
    return ", ".join(said)
