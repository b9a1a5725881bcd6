"""`asvctl vm memory` and `asvctl vm translate`."""

from __future__ import annotations

from typing import Any

from services.cli import show
from services.cli.client import Client, path
from services.cli.session import wants_json

CRITICAL = "vms-critical"


def memory(api: Client, vm: str) -> None:
    """Raises Failure."""
    use = api.get(path("vms", vm, "memory"))
    if wants_json():
        show.as_json(use)
        return
    guest, group = use.get("guest") or {}, use.get("group") or {}
    show.facts(
        [
            ("name", use.get("vm")),
            ("nominal", _kib((use.get("nominal_mib") or 0) << 10)),
            ("balloon leaves", _kib(use["balloon_mib"] << 10) if use.get("balloon_mib", -1) >= 0 else "not known"),
            ("resident", f"{_kib(use.get('resident_kib'))}, of that the guest's {_kib(use.get('guest_resident_kib'))}"),
            ("shared", _kib(use.get("shared_kib"))),
            ("merged (KSM)", _kib(use.get("ksm_kib"))),
            ("swapped", f"{_kib(use.get('swapped_kib'))}, of that the guest's {_kib(use.get('guest_swapped_kib'))}"),
            ("huge pages", f"{_kib(use.get('huge_kib'))}, of that the guest's {_kib(use.get('guest_huge_kib'))}"),
            ("cells", ", ".join(f"{c.get('cell', 0)}: {_kib(c.get('kib'))}" for c in use.get("cells") or ())),
            ("guest says", _guest(guest) if guest else "nothing yet: its balloon driver has not spoken"),
            ("control group", _group(group)),
            ("may be swapped", _swap(group)),
            ("simulated", "yes: nothing lies anywhere" if use.get("simulated") else ""),
        ]
    )
    for region in use.get("regions") or ():
        where = f"{region.get('guest_address', 0):#x}"
        cell = region.get("cell", -1)
        words = [region.get("backing", "anonymous"), f"cell {cell}" if cell >= 0 else ""]
        words += ["dirty tracking"] if region.get("dirty_tracking") else []
        size = _kib((region.get("size_mib") or 0) << 10)
        print("region  " + "  ".join(show.clean(w) for w in [region.get("name"), f"at {where}", size, *words] if w))


def _guest(guest: dict[str, Any]) -> str:
    known = {
        "available": guest.get("available_kib", -1),
        "free": guest.get("free_kib", -1),
        "of": guest.get("total_kib", -1),
        "caches": guest.get("caches_kib", -1),
        "swapped out": guest.get("swapped_out_kib", -1),
    }
    said = [f"{name} {_kib(kib)}" for name, kib in known.items() if kib >= 0]
    return ", ".join(said) + f" ({guest.get('age_s', -1)} s ago)"


def _swap(group: dict[str, Any]) -> str:
    if group.get("area") == CRITICAL:
        return "never: it is critical"
    most = group.get("swap_max_kib", -1)
    if not group or most < 0:
        return ""
    if not most:
        return "nothing now: only best-effort VMs are swapped, as far as the ladder orders"
    return f"up to {_kib(most)}, as its node's ladder ordered"


def _group(group: dict[str, Any]) -> str:
    if not group:
        return ""
    most = _kib(group.get("max_kib")) if group.get("max_kib") else "without limit"
    area = f"area {group['area']}, " if group.get("area") else ""
    kills, former = group.get("oom_kills", 0), group.get("former_kib", 0)
    stays = f", and {_kib(former)} charged to its former class until it moves or starts anew" if former else ""
    killed = f", {kills} kills for want of memory" if kills else ""
    return f"{area}{_kib(group.get('used_kib', 0))} of {most}{stays}{killed}"


def translate(api: Client, vm: str, gva: str, pid: int) -> None:
    """Raises Failure."""
    found = api.get(path("vms", vm, "translate", gva=gva, pid=pid or ""))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            step.get("space"),
            step.get("address"),
            f"{step['page_kib']} KiB" if step.get("page_kib") else "",
            f"{step.get('first')}-{step.get('last')}",
            step.get("region"),
        )
        for step in found.get("steps") or ()
    ]
    show.table(("SPACE", "ADDRESS", "PAGE", "WITHIN", "WHICH IS"), rows, "no steps")
    cell = found.get("cell", -1)
    words = [*(found.get("state") or ()), f"cell {cell}" if cell >= 0 else "in no cell"]
    show.facts(
        [
            ("page", ", ".join(words)),
            ("simulated", "yes: made up, but always the same" if found.get("simulated") else ""),
        ]
    )


def _kib(kib: int | None) -> str:
    """KiB for people."""
    kib = kib or 0
    if kib < 0:
        return "not known"
    for unit, scale in (("GiB", 1 << 20), ("MiB", 1 << 10)):
        if kib >= scale:
            return f"{kib / scale:.4g} {unit}"
    return f"{kib} KiB"
