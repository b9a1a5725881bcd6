"""`asvctl disk` and `asvctl nic`: a VM's devices, at rest or while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

disk = typer.Typer(help="Disks of virtual machines.", no_args_is_help=True)
nic = typer.Typer(help="Network cards of virtual machines.", no_args_is_help=True)

Vm = Annotated[str, typer.Argument(metavar="VM", help="The VM's name.")]
Device = Annotated[str, typer.Argument(metavar="NAME", help="As `ls` shows it, such as disk1 or nic1.")]
Iops = Annotated[int, typer.Option(help="Requests a second at most; 0: no limit.", min=0)]
Mibps = Annotated[int, typer.Option(help="MiB a second at most; 0: no limit.", min=0)]
Burst = Annotated[int, typer.Option(help="For a moment above that limit; 0: not.", min=0)]


def _limits(iops: int, mibps: int, iops_burst: int, mibps_burst: int) -> dict[str, int]:
    return {"iops": iops, "mibps": mibps, "iops_burst": iops_burst, "mibps_burst": mibps_burst}


def _list(vm: str, kind: str, heads: tuple[str, ...], row: Callable[[dict[str, Any]], tuple[object, ...]]) -> None:
    whole = client().get(path("vms", vm))
    found = [d for d in whole.get(kind) or [] if not str(d.get("bus", "")).endswith("cdrom")]
    if wants_json():
        show.as_json(found)
        return
    rows = [(*row(each), "") for each in found]
    for one in whole.get("unplugging") or ():
        if one["name"].startswith(kind[:-1]):  # disk0 of disks, nic0 of nics
            state = "unplug pending" if one.get("pending") else "unplugging"
            rows.append((one["name"], *[""] * (len(heads) - 1), state))
    for one in (whole.get("left") or ()) if kind == "disks" else ():
        blank = [""] * (len(heads) - 4)
        rows.append((one["name"], units.size(one["size_mib"]), "", one["pool"], *blank, "detached, its file left"))
    show.table((*heads, "STATE"), rows, "it has none (before its first start)")


@disk.command("ls")
def disk_ls(vm: Vm, _json: AsJson = False) -> None:
    """List a VM's disks."""

    def row(d: dict[str, Any]) -> tuple[object, ...]:
        bus, image = d.get("bus", "virtio-blk"), d.get("image", "")
        return d["name"], units.size(d["size_mib"]), bus, d["pool"], image, d["serial"], _said(d)

    _list(vm, "disks", ("NAME", "SIZE", "BUS", "POOL", "IMAGE", "SERIAL", "LIMITS"), row)


def _said(one: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in (one.get("limits") or {}).items() if value)


@disk.command("attach")
def disk_attach(
    vm: Vm,
    size: Annotated[int | None, typer.Option(parser=units.mib, metavar="SIZE", help="A blank disk of that size.")] = None,
    image: Annotated[str, typer.Option(help="A disk that stands on this image.")] = "",
    pool: Annotated[str, typer.Option(help="Where its file lies.")] = "default",
    bus: Annotated[Literal["virtio-blk", "virtio-scsi", "nvme"], typer.Option(help="How the guest sees it.")] = "virtio-blk",
    iops: Iops = 0,
    mibps: Mibps = 0,
    iops_burst: Burst = 0,
    mibps_burst: Burst = 0,
    again: Annotated[str, typer.Option(metavar="NAME", help="One that was detached from it, with its file left.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Give a VM one more disk; a running guest has it in a second."""
    if again:
        if size or image:
            raise typer.BadParameter("--again takes a disk as it was; --size and --image are of new ones")
        api = client()
        accepted = api.post(path("vms", vm, "disks", again, "attach"), {})
        task.finish(api, accepted, f"attach {again} to {vm} again", waiting, timeout_s)
        return
    body = {"size_mib": size or 0, "image": image, "pool": pool, "bus": bus}
    api = client()
    accepted = api.post(path("vms", vm, "disks"), body | {"limits": _limits(iops, mibps, iops_burst, mibps_burst)})
    task.finish(api, accepted, f"attach a disk to {vm}", waiting, timeout_s)


@disk.command("detach")
def disk_detach(
    vm: Vm,
    name: Device,
    remove: Annotated[bool, typer.Option("--delete", help="Remove its file too; else it stays in the pool.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Take a disk away; a guest that does not let go is asked again."""
    api = client()
    accepted = api.delete(path("vms", vm, "disks", name, remove=remove))
    task.finish(api, accepted, f"detach {name} of {vm}", waiting, timeout_s)


@disk.command("resize")
def disk_resize(
    vm: Vm,
    name: Device,
    size: Annotated[int, typer.Argument(parser=units.mib, metavar="SIZE", help="Larger than it is.")],
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Grow a disk."""
    api = client()
    accepted = api.patch(path("vms", vm, "disks", name), {"size_mib": size})
    task.finish(api, accepted, f"resize {name} of {vm}", waiting, timeout_s)


@disk.command("set")
def disk_set(
    vm: Vm,
    name: Device,
    iops: Iops = 0,
    mibps: Mibps = 0,
    iops_burst: Burst = 0,
    mibps_burst: Burst = 0,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Limit what a disk may do; what is not said is without limit."""
    api = client()
    accepted = api.patch(path("vms", vm, "disks", name), {"limits": _limits(iops, mibps, iops_burst, mibps_burst)})
    task.finish(api, accepted, f"limit {name} of {vm}", waiting, timeout_s)


@nic.command("ls")
def nic_ls(vm: Vm, _json: AsJson = False) -> None:
    """List a VM's network cards."""

    def row(n: dict[str, Any]) -> tuple[object, ...]:
        link = "up" if n.get("link", True) else "down"
        where = f"{n['bridge']}{'.' + str(n['vlan']) if n.get('vlan') else ''}" if n.get("bridge") else ""
        return n["name"], n["mac"], n.get("network", "user"), where, n.get("model", "virtio"), n.get("queues", 1), link

    _list(vm, "nics", ("NAME", "MAC", "NETWORK", "BRIDGE", "MODEL", "QUEUES", "LINK"), row)


@nic.command("attach")
def nic_attach(
    vm: Vm,
    network: Annotated[str, typer.Option(help="As `network ls` names it; `user` isolates the VM.")] = "user",
    model: Annotated[Literal["virtio", "e1000e"], typer.Option(help="How the guest sees it.")] = "virtio",
    queues: Annotated[int, typer.Option(min=1, max=8, help="Pairs of queues, each served by a vCPU.")] = 1,
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Give a VM one more network card; a running guest has it in a second."""
    api = client()
    body = {"network": network, "model": model, "queues": queues}
    task.finish(api, api.post(path("vms", vm, "nics"), body), f"attach a NIC to {vm}", waiting, timeout_s)


@nic.command("detach")
def nic_detach(vm: Vm, name: Device, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Take a network card away."""
    api = client()
    task.finish(api, api.delete(path("vms", vm, "nics", name)), f"detach {name} of {vm}", waiting, timeout_s)


@nic.command("set")
def nic_set(
    vm: Vm,
    name: Device,
    link: Annotated[Literal["up", "down"] | None, typer.Option(help="Whether its cable is in.")] = None,
    network: Annotated[str, typer.Option(help="Another network for it, while the VM is at rest.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Put a network card's cable in, or pull it; or put the card into another network."""
    if link is None and not network:
        raise typer.BadParameter("say --link up, --link down or --network NAME")
    api = client()
    body: dict[str, Any] = ({} if link is None else {"link": link == "up"}) | ({"network": network} if network else {})
    accepted = api.patch(path("vms", vm, "nics", name), body)
    task.finish(api, accepted, f"set {name} of {vm}", waiting, timeout_s)
