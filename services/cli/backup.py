"""`asvctl backup`: a VM's backups, in pools where they outlive it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import backup_files, backup_key, backup_schedule, show, task, units
from services.cli.client import Client, path
from services.cli.failure import USAGE, Failure
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Backups of virtual machines.", no_args_is_help=True)
app.command("schedule")(backup_schedule.schedule)
app.add_typer(backup_key.app, name="key")
app.add_typer(backup_files.app, name="files")

Vm = Annotated[str, typer.Argument(metavar="VM", help="The VM's name; one that was deleted has its backups still.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `ls` shows it: b1-3.")]


@app.command("create")
def create(
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM's name.")],
    pool: Annotated[str, typer.Option(metavar="POOL", help="Where it is to lie: a pool that the VM's node reaches.")],
    full: Annotated[bool, typer.Option("--full", help="Also where an incremental one could be had.")] = False,
    no_freeze: Annotated[bool, typer.Option("--no-freeze", help="Do not ask the guest to hold its file systems still.")] = False,
    require_freeze: Annotated[bool, typer.Option("--require-freeze", help="Take none where they do not stand still.")] = False,
    rate: Annotated[int, typer.Option(metavar="MIB/S", help="Read the guest's disks no faster; 0: no limit.", min=0)] = 0,
    compress: Annotated[bool, typer.Option("--compress", help="By zstd.")] = False,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="By the key that there is; see `asvctl backup key`.")] = False,
    key: Annotated[str, typer.Option(metavar="KEY", help="Encrypt by this one, where there are several: a name or an id.")] = "",
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Back up all disks of a VM as they are at one instant, running or stopped."""
    if no_freeze and require_freeze:
        raise Failure(USAGE, "--no-freeze and --require-freeze say the opposite", "give one of them, or none")
    freeze = "no" if no_freeze else "require" if require_freeze else "auto"
    body = {
        "pool": pool, "full": full, "freeze": freeze, "rate_mibps": rate, "compress": compress, "description": description,
    }  # fmt: skip
    if encrypt or key:
        body |= {"encrypt": True, "key": key}
    api = client()
    accepted = api.post(path("vms", vm, "backups"), body)
    name = str(accepted.get("backup") or "")
    task.finish(api, accepted, f"back {vm} up{f' as {name}' if name else ''}", waiting, timeout_s, lambda: _far(api, vm, name))


def _far(api: Client, vm: str, name: str) -> str:
    """For the progress line."""
    said = progress(api.get(path("vms", vm, "backups", name)).get("progress")) if name else ""
    return f"; {said}" if said else ""


@app.command("ls")
def ls(
    vm: Annotated[str, typer.Argument(metavar="[VM]", help="None: of all VMs, deleted ones too.")] = "", _json: AsJson = False
) -> None:
    """List backups, the oldest first."""
    api = client()
    names = [vm] if vm else sorted(str(row["vm"]) for row in api.get(path("recoveries", "report"))["items"])
    lists = [api.get(path("vms", name, "backups")) for name in names]
    if wants_json():
        show.as_json(lists[0] if vm else {"items": lists})
        return
    heads = ("VM", "ID", "STATE", "KIND", "PARENT", "TAKEN", "SIZE", "OF", "CONSISTENCY", "VERIFIED", "POOL", "HELD BY", "REMARKS")
    rows = [_row(one["backup"], one.get("progress")) for found in lists for one in found["items"]]
    show.table(heads, rows, f"{vm} has no backups" if vm else "there are no backups yet: asvctl backup create --help")
    for found in lists:
        if planned := backup_schedule.line(found.get("schedule")):
            show.note(planned)
        if found.get("failure"):
            failed = found["failure"]
            show.note(f"{found['vm']}: {failed['id']} failed at {show.when(failed['at_us'])}: {failed['sentence']}")


def _row(one: dict[str, Any], far: dict[str, Any] | None) -> tuple[object, ...]:
    state = f"{one['state']} {far['percent']:g} %" if far else one["state"]
    verified = show.when(one["verified_us"]) if one.get("verified_us") else ""
    taken = show.when(one["taken_us"]) if one.get("taken_us") else ""
    return (
        one["vm"], one["id"], state, one["kind"], one["parent"], taken, bytes_said(one["bytes"]), units.size(one["guest_mib"]),
        one["consistency"], verified, one["pool"], ", ".join(one["held_by"]), _remarks(one),
    )  # fmt: skip


def _remarks(one: dict[str, Any]) -> str:
    said = [f"damaged: {one['damaged']}"] if one.get("damaged") else []
    said += [f"encrypted by {one['key']}"] if one.get("key") else []
    said += [f"of no use: {one['unsound']} beneath it is damaged"] if one.get("unsound") else []
    said += [f"all that there is at {show.when(one['unchanged_us'])}"] if one.get("unchanged_us") else []
    return "; ".join([*said, *(one[key] for key in ("note", "description") if one.get(key))])


def bytes_said(count: int) -> str:
    """`3.2 MiB`, `512 KiB`."""
    if count >= 1 << 20:
        mib = count / (1 << 20)
        return units.size(round(mib)) if mib >= 1024 else f"{mib:.4g} MiB"
    return f"{-(-count // 1024)} KiB" if count else ""


def progress(far: dict[str, Any] | None) -> str:
    """`40 % (400 of 1000 MiB), 120 MiB/s, done at …`; empty where nothing goes on."""
    if not far:
        return ""
    when = f", to be done at {show.when(far['end_us'])}" if far.get("end_us") else ", standing still"
    return f"{far['percent']:g} % ({far['done_mib']} of {far['all_mib']} MiB), {far['mibps']:g} MiB/s{when}"


@app.command("show")
def show_one(vm: Vm, id: Id, _json: AsJson = False) -> None:
    """Show a backup: its files, how consistent it is, what it stands on, and what needs it."""
    found = client().get(path("vms", vm, "backups", id))
    if wants_json():
        show.as_json(found)
        return
    one = found["backup"]
    show.facts([
        ("id", one["id"]),
        ("of", one["vm"]),
        ("state", one["state"]),
        ("progress", progress(found.get("progress"))),
        ("kind", one["kind"]),
        ("stands on", one["parent"]),
        ("taken", show.when(one["taken_us"]) if one["taken_us"] else ""),
        ("all that there is", f"as of {show.when(one['unchanged_us'])}: its VM has not run" if one.get("unchanged_us") else ""),
        ("asked for", show.when(one["asked_us"]) + (f" by the schedule {one['plan']}" if one["plan"] else "")),
        ("consistency", one["consistency"] + (f", stood still for {one['frozen_ms']} ms" if one["frozen_ms"] else "")),
        ("took", f"{one['took_ms']} ms, {one['copied_mib']} MiB read" if one["took_ms"] else ""),
        ("size", f"{bytes_said(one['bytes'])} (disks of {units.size(one['guest_mib'])})" if one["bytes"] else ""),
        ("pool", one["pool"]),
        ("encrypted by", one.get("key", "")),
        ("node", one["node"]),
        ("verified", show.when(one["verified_us"]) if one["verified_us"] else "not since it was taken"),
        ("damaged", one["damaged"]),
        ("of no use", f"{one['unsound']} beneath it is damaged" if one["unsound"] else ""),
        ("held by", ", ".join(one["held_by"])),
        ("description", one["description"]),
        ("note", one["note"]),
        ("files taken out", [_read(each) for each in found.get("reads", ()) if each["take"]]),
        ("files", [f"{d['name']}: {d['file']} ({bytes_said(d['bytes'])}, sha256 {d['sha256'][:12]}…)" for d in one["disks"]]),
    ])  # fmt: skip


def _read(one: dict[str, Any]) -> str:
    far = "not over yet" if not one["ended_us"] else "" if one["whole"] else f"not whole: {one['note']}"
    said = f"{one['path']} by {one['by']} at {show.when(one['at_us'])}, {bytes_said(one['bytes']) or '0 bytes'}"
    return f"{said} ({far})" if far else said


@app.command("verify")
def verify(
    vm: Vm,
    id: Id,
    boot: Annotated[bool, typer.Option("--boot", help="Boot it instead, without a network: a recovery drill of it.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Read it again, with all that it stands on, and compare it with its digests."""
    api = client()
    if boot:
        task.finish(api, api.post(path("vms", vm, "drill"), {"backup": id}), f"boot {id} of {vm}", waiting, timeout_s)
        return
    task.finish(api, api.post(path("vms", vm, "backups", id, "verify")), f"verify {id} of {vm}", waiting, timeout_s)


@app.command("cancel")
def cancel(vm: Vm, id: Id, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Give up what is being done with it: one that is being taken is removed, one that is being verified stays."""
    api = client()
    task.finish(api, api.post(path("vms", vm, "backups", id, "cancel")), f"give {id} of {vm} up", waiting, timeout_s)


@app.command("delete")
def delete(vm: Vm, id: Id, waiting: Wait = False, timeout_s: TimeoutS = 3600.0, _json: AsJson = False) -> None:
    """Delete a backup; those that stand on it are written anew first."""
    api = client()
    task.finish(api, api.delete(path("vms", vm, "backups", id)), f"delete {id} of {vm}", waiting, timeout_s)
