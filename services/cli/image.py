"""`asvctl image`: what disks are made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Disk images.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The image's name.")]
UPLOAD_WAIT_S = 600.0
QCOW2_MAGIC = b"QFI\xfb"
SUFFIXES = {
    ".raw": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vhdx": "vhdx", ".vdi": "vdi", ".vhd": "vhd", ".vpc": "vhd", ".ova": "ova",
    ".iso": "iso",
}  # fmt: skip
"""others (.img is used for raw and for qcow2) say nothing"""


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List images."""
    found = client().items(path("images"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            i.get("name"),
            i.get("state"),
            "iso" if i.get("source") == "iso" else i.get("format"),
            units.size(i.get("size_mib")),
            str(i.get("sha256") or "")[:12],
            i.get("reason"),
        )
        for i in found
    ]
    show.table(
        ("NAME", "STATE", "FORMAT", "SIZE", "SHA256", "WHY"), rows, "no images yet: `asvctl image import --help`"
    )


@app.command("show")
def show_(name: Name, _json: AsJson = False) -> None:
    """One image, and what the appliance that it came in says of its machine."""
    image = client().get(path("images", name))
    if wants_json():
        show.as_json(image)
        return
    said = image.get("suggests") or {}
    hints = [
        ("vcpus", said.get("vcpus")),
        ("memory", units.size(said.get("memory_mib"))),
        ("firmware", said.get("firmware")),
        ("NICs", said.get("nics")),
        ("system", said.get("system")),
    ]
    show.facts(
        [
            ("name", image.get("name")),
            ("state", image.get("state")),
            ("why", image.get("reason")),
            ("format", image.get("format")),
            ("made from", image.get("source")),
            ("size", units.size(image.get("size_mib"))),
            ("sha256", image.get("sha256")),
            ("pool", image.get("pool")),
            ("disks there", ", ".join(said.get("disks") or ())),
            ("suggests", ", ".join(f"{what} {value}" for what, value in hints if value not in (None, "", 0, "-"))),
        ]
    )


@app.command("import")
def import_(
    name: Name,
    file: Annotated[Path, typer.Option(help="The image file.", exists=True, dir_okay=False, readable=True)],
    format: Annotated[
        str, typer.Option(help="raw, qcow2, vmdk, vhdx, vdi, vhd, ova or iso; by default what the file's name says.")
    ] = "",
    disk: Annotated[str, typer.Option(help="Of an OVA: which of its disks; by default its first.")] = "",
    sha256: Annotated[str, typer.Option(help="Refuse the file when it has another digest.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 600.0,
    _json: AsJson = False,
) -> None:
    """Send a disk's file; it is checked before it is taken in, and made a qcow2 where it is neither that nor raw."""
    kind = format or _guessed(file)
    progress = show.Progress(f"import {name}")
    digest = _digest(file, progress)
    if sha256 and sha256.lower() != digest:
        progress.end()
        raise typer.BadParameter(f"{file} has the digest {digest}, not {sha256}")
    api = client(timeout_s=UPLOAD_WAIT_S)
    target = path("images", name=name, format=kind, sha256=digest, disk=disk)
    try:
        accepted = api.upload(target, file, lambda done, of: progress.step(f"sent {done >> 20} of {of >> 20} MiB"))
    finally:
        progress.end()
    task.finish(client(), accepted, f"import {name}", waiting, timeout_s)


@app.command("create")
def create(
    name: Name,
    vm: Annotated[str, typer.Option("--from-vm", help="The VM whose disk it is made of.")],
    disk: Annotated[str, typer.Option(help="Which of its disks; by default its first.")] = "",
    snapshot: Annotated[str, typer.Option(help="As a snapshot holds it; without one the VM must be stopped.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 600.0,
    _json: AsJson = False,
) -> None:
    """Make an image of a VM's disk: a template for more of its kind."""
    api = client()
    accepted = api.post(path("images", name=name, from_vm=vm, disk=disk, snapshot=snapshot))
    task.finish(api, accepted, f"create {name}", waiting, timeout_s)


def _guessed(file: Path) -> str:
    """By its name; where that says nothing, raw or qcow2 by its first bytes."""
    kind, why = SUFFIXES.get(file.suffix.lower(), ""), "its name"
    if not kind:
        with file.open("rb") as opened:
            kind, why = ("qcow2" if opened.read(4) == QCOW2_MAGIC else "raw"), "its first bytes"
    show.note(f"{file.name} is taken for {kind}, by {why}; --format says what it is")
    return kind


def _digest(file: Path, progress: show.Progress) -> str:
    progress.step("reading the file")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@app.command("delete")
def delete(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Delete an image that no disk stands on."""
    api = client()
    task.finish(api, api.delete(path("images", name)), f"delete image {name}", waiting, timeout_s)
