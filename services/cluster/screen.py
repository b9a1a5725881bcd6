"""What people see: the screen at the end of `make up`, and `make status`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from typing import Any

from services.cluster import api, networks, vms
from services.cluster.api import ApiRefused
from services.cluster.layout import Layout
from services.cluster.plan import api_url
from services.cluster.processes import alive
from services.cluster.record import Record


def processes(record: Record) -> str:
    """One line per process: state, pid, how often it was started again, its last words if it is not well."""
    rows = []
    watchdogs = {f"watchdog-{node}": child for node, child in record.watchdogs.items()}
    for name, child in (record.children | watchdogs).items():
        pid = str(child.mark.pid) if alive(child.mark) and child.mark else "-"
        state = child.state if pid != "-" or child.state not in ("ready", "starting") else "gone"
        again = f"started again {child.restarts} times; {child.sentence}" if child.restarts else ""
        rows.append(f"  {name:<11} {state:<9} {pid:>8}  {again}".rstrip())
    return "\n".join(rows)


def status(layout: Layout, record: Record) -> tuple[str, bool]:
    """The page, and whether the cluster is healthy."""
    runs = alive(record.supervisor)
    state = record.state if runs else "stopped"
    if not runs and record.supervisor is not None:
        state = "crashed (`make up` recovers it)"
    well = state == "healthy" and all(c.state in ("ready", "cut", "frozen", "off") for c in record.children.values())
    lines = [f"cluster    {state}", f"state      {layout.home}"]
    if runs:
        lines += [f"API        {api_url(record)}", processes(record)]
    count = len(vms.running(layout))
    lines.append(f"VMs        {count} running")
    if runs:
        lines.append(f"networks   {networks.said(layout.home)}")
    return "\n".join(lines), well


def welcome(layout: Layout, record: Record) -> str:
    """What runs, on what accelerator, what is not enforced, and what to try."""
    asvctl = "./asvctl" if os.environ.get("ASV_HOME") is None else f"ASV_HOME={shlex.quote(str(layout.home))} ./asvctl"
    lines = ["", "aSV is up: a three-node cluster on this machine.", "", processes(record), ""]
    lines += [*_enforcement(layout, record)]
    lines += [
        f"API         {api_url(record)}   (its page: {api_url(record)}/schema)",
        f"token       {layout.admin_token}",
        f"state       {layout.home}",
        f"networks    {networks.said(layout.home)}",
        "",
        "Try:",
        f"  {asvctl} node ls",
        f"  {asvctl} vm create web-1 --vcpus 1 --memory 256MiB --image tiny --wait",
        f"  {asvctl} vm exec web-1 -- uname -r",
        "",
    ]
    return "\n".join(lines)


def _enforcement(layout: Layout, record: Record) -> Iterable[str]:
    try:
        cluster: dict[str, Any] = api.call(record.ports["gateway"], layout.admin_token, "GET", "/v1/cluster")
    except (OSError, ApiRefused) as error:
        return [f"accelerator unknown: {error}"]
    missing = cluster.get("not_enforced") or []
    lines = [f"accelerator {_accelerator(cluster)}"]
    return [*lines, *(f"not enforced: {sentence}" for sentence in missing)]


def _accelerator(cluster: dict[str, Any]) -> str:
    words = {"kvm": "KVM", "tcg": "TCG: instructions are emulated, slower than KVM by ten times and more"}
    names = [str(name) for name in cluster.get("accelerators") or ["unknown"]]
    return ", ".join(words.get(name, name) for name in names)


def still_running(layout: Layout) -> str:
    """Said by `down`."""
    left = vms.running(layout)
    if not left:
        return "No VM runs."
    names = ", ".join(vm.vm for vm in left[:8]) + (" …" if len(left) > 8 else "")
    return (
        f"{len(left)} VM(s) run on without the control plane: {names}.\n"
        "`make up` finds them again; `asvctl vm stop NAME` stops one then; `make destroy` kills them all."
    )
