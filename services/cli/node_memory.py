"""How a node's memory is shown, for `asvctl memory show` (what it is promised to) and `asvctl node show` (how it fares now)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from libs.memory.areas import BY_NAME
from libs.memory.promise import VMS
from libs.memory.swap import wanted_mib
from proto.ladder import MemoryPolicy
from services.cli import show, units

LIMITS = ("min", "high", "max")


def promises(ledger: dict[str, Any]) -> list[tuple[str, object]]:
    """A ledger's sums and what they are held to, as both commands show them."""
    policy = msgspec.convert(ledger.get("policy") or {}, MemoryPolicy)
    areas = [a for a in ledger.get("areas") or () if not a["name"].startswith(VMS)]
    room = ledger.get("capacity_mib", 0) - ledger.get("share_mib", 0)
    kept = ", ".join(f"{a['name']} {units.size(a.get('min_mib', 0))}" for a in areas)
    per_class = [f"{name} {pct} %" for name, pct in policy.class_ratio_pct.items()]
    return [
        ("physical", units.size(ledger.get("physical_mib"))),
        ("kept by areas", f"{units.size(sum(a.get('min_mib', 0) for a in areas))}: {kept}" if areas else ""),
        ("failover share", units.size(ledger["share_mib"]) if ledger.get("share_mib") else "none"),
        ("guaranteed", units.part(ledger.get("reserved_mib"), room)),
        ("nominal by ratio", units.part(ledger.get("charged_mib"), room)),
        ("ratio", ", ".join([f"{policy.ratio_pct} %", *per_class, "critical 100 %"])),
        ("nominal", backing(ledger, policy, room)),
        ("short by", units.size(ledger["short_mib"]) if ledger.get("short_mib") else ""),
        ("swap", swap(ledger, policy)),
        ("merging", "allowed" if policy.merge else "off"),
        ("not applied", "; ".join(ledger.get("faults") or ())),
    ]


def backing(ledger: dict[str, Any], policy: MemoryPolicy, room_mib: int) -> str:
    """What stands behind nominal memory beyond the node's own. No limit of the ledger counts on swap: it is not promised memory."""
    nominal_mib = ledger.get("nominal_mib", 0)
    beyond = max(0, nominal_mib - room_mib)
    if not beyond:
        return f"{_sum(nominal_mib)}, all of it there in memory"
    swapped = min(beyond, ledger.get("swap_mib", 0)) if policy.swap else 0
    said = f"{units.size(nominal_mib)}, {units.size(beyond)} beyond memory: "
    rest = f"{units.size(beyond - swapped)} only by balloons and moves" if beyond > swapped else ""
    return said + ", ".join(word for word in (f"{units.size(swapped)} by swap" if swapped else "", rest) if word)


def swap(ledger: dict[str, Any], policy: MemoryPolicy) -> str:
    """How much best-effort VMs may be swapped out to, beside what the ratio would want."""
    if not policy.swap:
        return "not allowed here"
    wanted = wanted_mib(ledger.get("capacity_mib", 0), policy)
    there = ledger.get("swap_mib", 0)
    want = f" ({units.size(wanted)} would go with the ratio)" if wanted else ""
    if not there:
        return f"none that VMs may use{want}"
    return f"{units.size(there)} for best-effort VMs{want}; a critical VM is never swapped"


def area_rows(areas: Iterable[dict[str, Any]], now: Iterable[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Limits from the ledger, use and pressure from the node: one row for each area that either knows."""
    limits, uses = {a["name"]: a for a in areas}, {a["name"]: a for a in now}
    names = [*BY_NAME, *sorted({*limits, *uses} - set(BY_NAME))]
    return [_area(name, limits.get(name, {}), uses.get(name)) for name in names if name in limits or name in uses]


AREA_HEADS = ("AREA", *(word.upper() for word in LIMITS), "USED", "MOST USED", "AT LIMIT", "KILLED", "WAITED", "SWAP")


def _area(name: str, limit: dict[str, Any], use: dict[str, Any] | None) -> tuple[object, ...]:
    own = [units.size(limit.get(f"{word}_mib")) for word in LIMITS]
    if use is None:
        return (name, *own, "-", "-", "-", "-", "-", "-")
    if not limit.get("max_mib"):
        own[2] = units.size(use["max_mib"])
    some, full = use.get("psi_some_pct", -1.0), use.get("psi_full_pct", -1.0)
    waited = f"some {some:g} %, all {full:g} %" if some >= 0 else "not known"
    return (
        name, *own, _sum(use["used_mib"]), _sum(use["peak_mib"]), use["hits"], use["kills"], waited,
        "as ordered" if use["swapped"] else "never",
    )  # fmt: skip


def limits(area: dict[str, Any] | None) -> str:
    if area is None:
        return "none"
    said = [f"{word} {units.size(area[f'{word}_mib'])}" for word in LIMITS if area.get(f"{word}_mib")]
    return ", ".join(said) or "no limits"


def print_now(found: dict[str, Any]) -> None:
    """The memory part of `asvctl node show`; what is not known is left out."""
    ledger, pressure = found.get("ledger") or {}, found.get("pressure") or {}
    if ledger:
        kept = ledger.get("memory_areas")
        show.facts([
            *promises(ledger),
            ("reclaim", [_taken(decision) for decision in ledger.get("taken") or ()]),
            ("areas", f"control groups {kept}" if kept else "not kept apart: this host lets nobody make control groups for memory"),
        ])  # fmt: skip
        rows = area_rows(ledger.get("areas") or (), pressure.get("areas") or ())
        show.table(AREA_HEADS, rows, "it has no areas")
    if pressure:
        swaps = pressure.get("swaps") or ()
        show.facts(_host(pressure, bool(swaps)))
        if swaps:
            show.table(("SWAP", "KIND", "SIZE", "USED", "TAKES", "IN THE CLEAR", "FOR VMS"), map(_swap, swaps), "none")
        rows = [(v.get("vm"), *_vm(v)) for v in pressure.get("vms") or ()]
        if rows:
            show.table(("VM", "RESIDENT", "SWAPPED", "BALLOON LEAVES", "FREE IN GUEST"), rows, "none")


def _taken(taken: dict[str, Any]) -> str:
    return f"{show.when(taken['at_us'])}: {taken['sentence']}"


def _host(now: dict[str, Any], swapped: bool) -> list[tuple[str, object]]:
    waited = f"some {now.get('psi_some_pct', -1):g} %, all {now.get('psi_full_pct', -1):g} % of the last 10 s"
    return [
        ("host memory", f"{units.size(now.get('available_mib'))} of {units.size(now.get('total_mib'))} available"),
        ("waiting for memory", waited if now.get("psi_some_pct", -1) >= 0 else "the kernel does not say"),
        ("merged (KSM)", units.size(now["ksm_saved_mib"]) if now.get("ksm_saved_mib") else ""),
        ("swap of the host", "" if swapped else "none is on"),
    ]


def _swap(one: dict[str, Any]) -> tuple[object, ...]:
    takes = f"{_sum(one['memory_mib'])} of {_sum(one['memory_max_mib'])}" if one["kind"] == "zram" else "-"
    clear = "no" if one["encrypted"] else "yes"
    whose = "made for them" if one["own"] else "yes"
    return (
        one["name"], one["kind"], units.size(one["size_mib"]), _sum(one["used_mib"]), takes, clear,
        f"no: {one['why_not']}" if one["why_not"] else whose,
    )  # fmt: skip


def _vm(vm: dict[str, Any]) -> tuple[object, ...]:
    known = (vm.get(key, -1) for key in ("balloon_mib", "guest_available_mib"))
    return (_sum(vm.get("resident_mib")), _sum(vm.get("swapped_mib")), *(_sum(m) if m >= 0 else "not known" for m in known))


def _sum(mib: int | None) -> str:
    """A sum may be none at all."""
    return units.size(mib) if mib else "0 MiB"
