"""`asvctl vm clone`: another VM of the same definition, with copies of its disks."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import typer

from services.cli import show, task
from services.cli.client import Client, path
from services.cli.failure import Failure
from services.cli.session import AsJson, TimeoutS, client
from services.cli.vm_show import print_vm

Source = Annotated[str, typer.Argument(metavar="VM", help="The VM that it is made of.")]
NewName = Annotated[str, typer.Argument(metavar="NEW", help="A DNS label: lower-case letters, digits, hyphens.")]

SAME = ("vcpus", "memory_mib", "vcpus_max", "memory_max_mib", "memory_by", "priority", "allotment", "project", "system")
"""what a clone has of its source's definition as it is; MACs, serials and the UUID are its own"""
NOT_COPIED = "direct"
"""firmware that follows from the image"""


def clone(
    source: Source,
    new: NewName,
    snapshot: Annotated[
        str, typer.Option(help="As a snapshot holds it. Of a VM that runs one is taken, and deleted afterwards.")
    ] = "",
    no_start: Annotated[bool, typer.Option("--no-start", help="Only define it.")] = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Make another VM of the same definition, with full copies of its disks. Waits until it is done."""
    api = client()
    vm = api.get(path("vms", source))
    _free(api, new)
    taken = ""
    if not snapshot and vm["state"] != "stopped":
        taken = snapshot = f"for-{new}"[:63].rstrip("-")
        task.wait(api, _asked(api.post(path("vms", source, "snapshots"), {"name": taken})), timeout_s, f"snapshot of {source}")
    made: list[str] = []
    try:
        disks = [_disk(api, vm, disk, new, snapshot, made, timeout_s) for disk in vm.get("disks") or vm.get("disk_wishes") or ()]
        body = definition(vm, new, [disk for disk in disks if disk], start=not no_start)
        task.wait(api, _asked(api.post("/v1/vms", body)), timeout_s, f"clone {source} as {new}")
    except (Failure, KeyboardInterrupt):
        _undo(api, made, timeout_s)
        raise
    finally:
        if taken:
            with contextlib.suppress(Failure):
                task.wait(api, _asked(api.delete(path("vms", source, "snapshots", taken))), timeout_s, f"delete {taken}")
    if vm.get("firmware") == "uefi":
        show.note(f"{new} has UEFI variables of its own: boot entries that {source} made are not among them")
    print_vm(api.get(path("vms", new)))


def definition(vm: dict[str, Any], new: str, disks: list[dict[str, Any]], *, start: bool) -> dict[str, Any]:
    """As the API takes it."""
    nics = [
        {key: nic[key] for key in ("network", "model", "queues") if nic.get(key)}
        for nic in vm.get("nics") or vm.get("nic_wishes") or ()
    ]
    body = {"name": new, "disks": disks, "nics": nics, "start": start} | {key: vm[key] for key in SAME if vm.get(key)}
    return body | ({"firmware": vm["firmware"]} if vm.get("firmware", NOT_COPIED) != NOT_COPIED else {})


def _disk(
    api: Client, vm: dict[str, Any], disk: dict[str, Any], new: str, snapshot: str, made: list[str], timeout_s: float
) -> dict[str, Any]:
    """What the clone has for it; nothing for a drive with a seed, which is one VM's own."""
    same = {key: disk[key] for key in ("bus", "pool", "limits", "first") if disk.get(key)}
    if str(disk.get("bus", "")).endswith("cdrom"):
        return {**same, "image": disk.get("image", "")} if disk.get("image") or not disk.get("file") else {}
    if not disk.get("name"):  # as it was wished for: no guest has run with it, so there is nothing to copy
        return same | {key: disk[key] for key in ("image", "size_mib", "format") if disk.get(key)}
    image = f"{new}-{disk['name']}"
    asked = api.post(path("images", name=image, from_vm=vm["name"], disk=disk["name"], snapshot=snapshot))
    made.append(image)
    task.wait(api, _asked(asked), timeout_s, f"copy {disk['name']} of {vm['name']}")
    return {**same, "image": image, "size_mib": disk["size_mib"]}


def _free(api: Client, new: str) -> None:
    """Before anything is copied. Raises Failure."""
    if any(each["name"] == new for each in api.items(path("vms"))):
        raise Failure(1, f"there is a VM {new}", "take another name, or delete that VM first")


def _undo(api: Client, made: list[str], timeout_s: float) -> None:
    """Images of a clone that came to nothing; one that a VM stands on already stays."""
    for image in made:
        with contextlib.suppress(Failure):
            task.wait(api, _asked(api.delete(path("images", image))), timeout_s, f"delete image {image}")


def _asked(accepted: dict[str, Any]) -> str:
    return str(accepted["task"])
