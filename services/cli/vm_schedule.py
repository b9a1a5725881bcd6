"""`asvctl vm set` and `asvctl vm schedule`: what a VM is worth, and how it fares by it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import machine, show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

Name = Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.")]
Vcpus = Annotated[int | None, typer.Option(help="How many vCPUs it has.", min=1, max=512)]
Memory = Annotated[int | None, typer.Option(parser=units.mib, metavar="SIZE", help="How much memory it has: 2GiB.")]
VcpusMax = Annotated[
    int | None, typer.Option(help="How many it may have while it runs; of a stopped VM only.", min=1, max=512)
]
MemoryMax = Annotated[
    int | None,
    typer.Option(parser=units.mib, metavar="SIZE", help="How much it may have while it runs; of a stopped VM only."),
]
_PCT_MAX = 51_200


def set_(
    name: Name,
    vcpus: Vcpus = None,
    memory: Memory = None,
    vcpus_max: VcpusMax = None,
    memory_max: MemoryMax = None,
    priority: Annotated[str | None, typer.Option(help="critical, important, normal or best-effort.")] = None,
    cpu_weight: Annotated[
        int | None, typer.Option(help="Its part of CPU time among VMs that compete; 0: by class.", min=0, max=10_000)
    ] = None,
    cpu_cap: Annotated[
        int | None,
        typer.Option(metavar="PCT", help="At most so much, in % of one pCPU; 0: no cap.", min=0, max=_PCT_MAX),
    ] = None,
    memory_by: machine.MemoryBy = None,
    cpu_reserved: Annotated[
        int | None, typer.Option(metavar="PCT", help="Always its own, in % of one pCPU.", min=0, max=_PCT_MAX)
    ] = None,
    memory_reserved: Annotated[
        int | None,
        typer.Option(parser=units.mib, metavar="SIZE", help="Memory never taken back; of a stopped VM only."),
    ] = None,
    pin: Annotated[
        list[int] | None, typer.Option(metavar="PCPU", help="A host pCPU its vCPUs keep to; may be repeated.", min=0)
    ] = None,
    unpin: Annotated[bool, typer.Option("--unpin", help="Let its vCPUs float again.")] = False,
    together: Annotated[str | None, typer.Option(metavar="GROUP", help="At its next placement.")] = None,
    apart: Annotated[str | None, typer.Option(metavar="GROUP", help="At its next placement.")] = None,
    one_cell: Annotated[bool | None, typer.Option(help="All of it in one NUMA cell, at its next placement.")] = None,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Change a VM's size or what it is worth, stopped or running; what is not said stays."""
    if pin and unpin:
        raise typer.BadParameter("--pin and --unpin exclude each other")
    said: dict[str, Any] = {
        "priority": priority,
        "cpu_weight": cpu_weight,
        "cpu_cap_pct": cpu_cap,
        "cpu_reserved_pct": cpu_reserved,
        "memory_reserved_mib": memory_reserved,
        "pins": [] if unpin else pin or None,
        "together": together,
        "apart": apart,
        "one_cell": one_cell,
    }
    body = {field: value for field, value in said.items() if value is not None}
    size = {"vcpus": vcpus, "memory_mib": memory, "vcpus_max": vcpus_max, "memory_max_mib": memory_max, "memory_by": memory_by}
    size = {field: value for field, value in size.items() if value is not None}
    if not body and not size:
        raise typer.BadParameter("say what is to change, for example --vcpus 4 or --cpu-weight 400")
    api = client()
    if size:
        task.finish(api, api.post(path("vms", name, "size"), size), f"resize {name}", waiting, timeout_s)
    if body:
        task.finish(api, api.post(path("vms", name, "allotment"), body), f"set {name}", waiting, timeout_s)


def schedule(name: Name, _json: AsJson = False) -> None:
    """How it is scheduled: guest CPUs, their threads, the pCPUs; what it got, waited for, and why."""
    found = client().get(path("vms", name, "schedule"))
    if wants_json():
        show.as_json(found)
        return
    plan = found.get("plan") or {}
    show.facts(
        [
            ("vm", found.get("vm")),
            ("node", found.get("node")),
            ("weight", found.get("weight") or "not enforced on this node"),
            ("cap", f"{found['cap_pct']} % of a pCPU" if found.get("cap_pct") else "none"),
            ("reserved", f"{plan['reserved_pct']} % of a pCPU" if plan.get("reserved_pct") else ""),
            ("used", _pct(found.get("used_pct"))),
            ("ready", f"{_pct(found.get('ready_pct'))} (could run, and waited for a pCPU; mean of its vCPUs)"),
            ("held by cap", _pct(found.get("throttled_pct"))),
            ("host's steal", _pct(found.get("steal_pct"))),
            ("satisfied", f"{_pct(found.get('satisfaction_pct'))} of what it wants and is due"),
            ("other threads", f"{found.get('threads')} on {_pcpus(found.get('thread_pcpus'))}"),
            ("why", plan.get("sentence") or "no plan has reached this node yet"),
            ("fault", plan.get("fault")),
        ]
    )
    rows = [
        (
            f"cpu{vcpu.get('vcpu', 0)}",
            vcpu.get("thread"),
            _pcpus(vcpu.get("pcpus")),
            vcpu.get("last_pcpu"),
            _pct(vcpu.get("used_pct")),
            _pct(vcpu.get("ready_pct")),
        )
        for vcpu in found.get("vcpus") or ()
    ]
    show.table(("GUEST CPU", "THREAD", "MAY RUN ON", "RAN LAST ON", "USED", "READY"), rows, "no vCPU thread was seen")
    for fault in found.get("faults") or ():
        show.note(f"not applied: {fault.get('part')}: {fault.get('sentence')}")


def _pct(value: Any) -> str:
    return f"{float(value or 0):.1f} %"


def _pcpus(numbers: Any) -> str:
    return "pCPUs " + ",".join(map(str, numbers)) if numbers else "no pCPU"
