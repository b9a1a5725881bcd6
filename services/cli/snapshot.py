"""`asvctl snapshot`: a VM's disks as they were at one moment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from libs.common.clock import SystemClock
from services.cli import show, task
from services.cli.client import path
from services.cli.failure import Failure
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Snapshots of virtual machines.", no_args_is_help=True)

Vm = Annotated[str, typer.Argument(metavar="VM", help="The VM's name.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="As `ls` shows it.")]


@app.command("take")
def take(
    vm: Vm,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="None: the time, as s-20261125-201500.")] = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    no_freeze: Annotated[bool, typer.Option("--no-freeze", help="Do not ask the guest to hold its file systems still.")] = False,
    require_freeze: Annotated[bool, typer.Option("--require-freeze", help="Take none where they do not stand still.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Take a snapshot of all disks of a VM, running or stopped."""
    if no_freeze and require_freeze:
        raise Failure(2, "--no-freeze and --require-freeze say the opposite", "give one of them, or none")
    name = name or datetime.fromtimestamp(SystemClock().now_us() / 1e6, UTC).strftime("s-%Y%m%d-%H%M%S")
    freeze = "no" if no_freeze else "require" if require_freeze else "auto"
    api = client()
    accepted = api.post(path("vms", vm, "snapshots"), {"name": name, "description": description, "freeze": freeze})
    task.finish(api, accepted, f"take the snapshot {name} of {vm}", waiting, timeout_s)


@app.command("ls")
def ls(vm: Vm, _json: AsJson = False) -> None:
    """List a VM's snapshots, the oldest first."""
    found = client().get(path("vms", vm, "snapshots"))["snapshots"]
    if wants_json():
        show.as_json(found)
        return
    heads = ("NAME", "STATE", "TAKEN", "CONSISTENCY", "FROZEN", "DISKS", "DESCRIPTION")
    show.table(heads, [_row(one) for one in found], "it has none")


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    frozen = f"{one["frozen_ms"]} ms" if one.get("frozen_ms") else ""
    disks = ", ".join(disk["name"] for disk in one["disks"])
    return one["name"], one["state"], _when(one), one["consistency"], frozen, disks, one["description"]


def _when(one: dict[str, Any]) -> str:
    us = one.get("taken_us") or 0
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if us else ""


@app.command("show")
def show_one(vm: Vm, name: Name, _json: AsJson = False) -> None:
    """Show a snapshot: its files, how consistent it is, and why."""
    one = client().get(path("vms", vm, "snapshots", name))
    if wants_json():
        show.as_json(one)
        return
    rows: list[tuple[object, ...]] = [("state", one["state"]), ("taken", _when(one)), ("consistency", one["consistency"])]
    rows += [(key, one[key]) for key in ("description", "note") if one.get(key)]
    rows += [(f"{key}_ms", one[f"{key}_ms"]) for key in ("frozen", "took") if one.get(f"{key}_ms")]
    rows += [(disk["name"], f"{disk['file']} ({disk['size_mib']} MiB)") for disk in one["disks"]]
    show.table(("WHAT", "IS"), rows, "")


@app.command("revert")
def revert(
    vm: Vm,
    name: Name,
    lose: Annotated[
        list[str] | None, typer.Option(help="What may be thrown away, once for each: the VM's own name, and each newer snapshot.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Power the VM off first; it is not started again.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Put a stopped VM's disks back to what they were. What was written since is lost."""
    api = client()
    if stop and api.get(path("vms", vm))["state"] != "stopped":
        stopped = api.post(path("vms", vm, "stop"), {"deadline_s": 0})
        task.finish(api, stopped, f"power {vm} off", True, timeout_s)
    accepted = api.post(path("vms", vm, "snapshots", name, "revert"), {"lose": lose or []})
    task.finish(api, accepted, f"put {vm} back to {name}", waiting, timeout_s)


@app.command("delete")
def delete(vm: Vm, name: Name, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Delete a snapshot; what the VM is now stays, and it runs on meanwhile."""
    api = client()
    accepted = api.delete(path("vms", vm, "snapshots", name))
    task.finish(api, accepted, f"delete the snapshot {name} of {vm}", waiting, timeout_s)
