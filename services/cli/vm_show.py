"""How one VM is shown."""

from __future__ import annotations

from typing import Any

from services.cli import show, units, vm_guard
from services.cli.session import wants_json


def migrating(vm: dict[str, Any]) -> str:
    """Where to, and how far it is."""
    sending = vm.get("sending")
    if not sending:
        return str(vm.get("migrating_to") or "")
    left = f"{sending.get('remaining_mib')} of {sending.get('memory_mib')} MiB to be sent, {sending.get('sent_mib')} MiB sent"
    disks = f"; {sending['disks_sent_mib']} of {sending['disks_mib']} MiB of disks copied" if sending.get("disks_mib") else ""
    return f"{vm.get('migrating_to')}: {left}, round {sending.get('round')}{disks}"


def waiting(disk: dict[str, Any]) -> str:
    """What a full pool needs before the VM goes on."""
    free = f", {disk['free_mib']} MiB free when it stopped" if disk.get("free_mib", -1) >= 0 else ""
    return f"{units.size(disk.get('needed_mib') or 1)} free in pool {disk.get('pool')} (for {disk.get('disk')}{free})"


def print_vm(vm: dict[str, Any]) -> None:
    """As facts with its reasons, or as JSON where that was asked for."""
    if wants_json():
        show.as_json(vm)
        return
    show.facts(
        [
            ("name", vm.get("name")),
            ("state", vm.get("state")),
            ("its guest died", vm.get("panic")),
            ("waits for", "; ".join(waiting(disk) for disk in vm.get("full") or ())),
            ("owed", vm_guard.owed(vm.get("owed"))),
            ("recovering", vm.get("recovering")),
            ("node", vm.get("node")),
            ("its node is lost", _node_lost(vm)),
            ("migrating to", migrating(vm)),
            ("pcpus", ", ".join(map(str, vm.get("pcpus") or ()))),
            ("addresses", ", ".join(vm.get("addresses") or ())),
            ("vcpus", f"{vm.get('vcpus')} (at most {vm.get('vcpus_max') or vm.get('vcpus')})"),
            ("memory", _memory(vm)),
            ("priority", vm.get("priority")),
            ("allotment", _allotment(vm.get("allotment") or {})),
            ("guard", vm_guard.brief(vm)),
            ("let go", vm.get("let_go")),
            ("machine", " ".join(str(vm[k]) for k in ("machine", "cpu_model", "firmware") if vm.get(k))),
            ("system", vm.get("system") if vm.get("system") != "linux" else ""),
            ("generation", vm.get("generation")),
            ("boot id", vm.get("boot_id")),
            ("project", vm.get("project")),
            ("otherwise than ordered", [_drift(drift) for drift in vm.get("drifts") or ()]),
            ("unplug pending", [_unplugging(one) for one in vm.get("unplugging") or () if one.get("pending")]),
            ("changed", show.when(vm.get("changed_us")) if vm.get("changed_us") else ""),
        ]
    )
    for disk in vm.get("disks") or vm.get("disk_wishes") or ():
        if str(disk.get("bus", "")).endswith("cdrom"):
            lies = disk.get("image") or ("cloud-init" if disk.get("seed") else "empty")
            print(f"cd    {show.clean(disk.get('name', ''))}  {show.clean(lies)}".replace("cd      ", "cd    "))
            continue
        made = [
            disk.get("name"),
            units.size(disk.get("size_mib")),
            disk.get("format"),
            disk.get("image") and f"on {disk['image']}",
            disk.get("pool") not in (None, "default") and f"in pool {disk['pool']}",
        ]
        print("disk  " + "  ".join(show.clean(part) for part in made if part))
    for nic in vm.get("nics") or vm.get("nic_wishes") or ():
        queues = nic.get("queues", 1)
        made = [nic.get("name"), nic.get("network", "user"), f"{queues} queues" if queues > 1 else "", nic.get("mac")]
        print("nic   " + "  ".join(show.clean(part) for part in made if part))
    for reason in vm.get("reasons") or ():
        told = isinstance(reason, dict)
        print(
            f"{show.when(reason.get('at_us') if told else None)}  {show.clean(reason.get('text') if told else reason)}"
        )


def _node_lost(vm: dict[str, Any]) -> str:
    said = vm.get("node_lost")
    return f"{said}; what became of it there is not known, so it is not started elsewhere" if said else ""


def _unplugging(one: dict[str, Any]) -> str:
    said = f"{one.get('name')} since {show.when(one.get('since_us'))}: {one.get('sentence')}"
    return f"{said}; it is asked again, and lets go when it restarts at the latest"


def _drift(drift: dict[str, Any]) -> str:
    return f"{drift.get('sentence')}" + (" (being set right)" if drift.get("repaired") else "")


def _memory(vm: dict[str, Any]) -> str:
    """What it grows by is said where that is not the usual."""
    by = vm.get("memory_by", "virtio-mem")
    most = units.size(vm.get("memory_max_mib") or vm.get("memory_mib"))
    return f"{units.size(vm.get('memory_mib'))} (at most {most}{'' if by == 'virtio-mem' else f', by {by}'})"


def _allotment(share: dict[str, Any]) -> str:
    """What was said of it; nothing where all follows from the class."""
    said = [
        share.get("cpu_weight") and f"CPU weight {share['cpu_weight']}",
        share.get("cpu_cap_pct") and f"CPU cap {share['cpu_cap_pct']} %",
        share.get("cpu_reserved_pct") and f"CPU reserved {share['cpu_reserved_pct']} %",
        share.get("memory_reserved_mib") and f"memory reserved {units.size(share['memory_reserved_mib'])}",
        share.get("pins") and f"pinned to {', '.join(map(str, share['pins']))}",
        share.get("together") and f"together {share['together']}",
        share.get("apart") and f"apart {share['apart']}",
        share.get("one_cell") and "in one NUMA cell",
    ]
    return ", ".join(part for part in said if part)
