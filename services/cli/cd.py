"""`asvctl cd`: CD drives of virtual machines, and the ISOs that lie in them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from services.cli import show, task
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="CD drives of virtual machines.", no_args_is_help=True)

Vm = Annotated[str, typer.Argument(metavar="VM", help="The VM's name.")]
Drive = Annotated[str, typer.Argument(metavar="[NAME]", help="As `cd ls` shows it; by default the first drive.")]
Iso = Annotated[str, typer.Option("--image", help="An image that was imported as iso.")]
Force = Annotated[bool, typer.Option("--force", help="Even where the guest holds the drive locked.")]


@app.command("ls")
def ls(vm: Vm, _json: AsJson = False) -> None:
    """List a VM's CD drives, and what is to lie in them."""
    found = [d for d in client().get(path("vms", vm)).get("disks") or [] if str(d.get("bus", "")).endswith("cdrom")]
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (d["name"], d["bus"], "(cloud-init)" if d.get("seed") else d.get("image", ""), "yes" if d.get("first") else "")
        for d in found
    ]
    show.table(("NAME", "BUS", "IMAGE", "BOOTS FIRST"), rows, f"it has none: `asvctl cd attach {vm}` gives it one")


@app.command("attach")
def attach(
    vm: Vm,
    image: Iso = "",
    bus: Annotated[Literal["cdrom", "sata-cdrom"], typer.Option(help="sata-cdrom: for guests without virtio-scsi.")] = "cdrom",
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Give a VM one more CD drive. (`asvctl disk detach` takes it away.)"""
    api = client()
    accepted = api.post(path("vms", vm, "cds"), {"image": image, "bus": bus})
    task.finish(api, accepted, f"attach a CD drive to {vm}", waiting, timeout_s)


@app.command("insert")
def insert(
    vm: Vm,
    name: Drive = "-",
    image: Iso = ...,  # type: ignore[assignment]  # it has to be said
    force: Force = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Put an ISO into a drive, in place of what is there."""
    api = client()
    accepted = api.patch(path("vms", vm, "cds", name), {"image": image, "force": force})
    task.finish(api, accepted, f"insert {image} into a drive of {vm}", waiting, timeout_s)


@app.command("eject")
def eject(
    vm: Vm, name: Drive = "-", force: Force = False, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False
) -> None:
    """Take out what lies in a drive."""
    api = client()
    accepted = api.patch(path("vms", vm, "cds", name), {"image": "", "force": force})
    task.finish(api, accepted, f"eject what is in a drive of {vm}", waiting, timeout_s)
