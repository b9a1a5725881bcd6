"""`asvctl backup files`: single files out of a backup."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from services.cli import show
from services.cli.client import Client, path
from services.cli.failure import REFUSED, USAGE, Failure
from services.cli.session import AsJson, client, wants_json

app = typer.Typer(help="Single files out of a backup.", no_args_is_help=True)

Vm = Annotated[str, typer.Argument(metavar="VM", help="The VM's name; one that was deleted has its backups still.")]
At = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID] [PATH]", help="None: the newest backup, its disks. PATH: /DISK[:PARTITION]/NAME…, as `ls` shows."),
]
WAIT_S = 180.0
"""a node boots a small machine that reads, unless one is there"""
SIGNS = {"folder": "d", "link": "l", "file": "-", "other": "?", "part": "p"}
_ID = re.compile(r"b[0-9]+-[0-9]+")


@app.command("ls")
def ls(vm: Vm, at: At = None, _json: AsJson = False) -> None:
    """List the disks and partitions of a backup, or a folder in it."""
    api = _patient()
    id, where = _meant(api, vm, at or [])
    found = api.get(path("vms", vm, "backups", id, "files", path=where or "/"))
    if wants_json():
        show.as_json(found)
        return
    if not (where or "").strip("/"):
        parts = [(f"/{one['name']}", _size(one["bytes"]), one["type"] or "not known", one["label"]) for one in found["items"]]
        show.table(("PATH", "SIZE", "FILE SYSTEM", "LABEL"), parts, f"{id} of {vm} has no disks")
        return
    heads = ("MODE", "OWNER", "BYTES", "CHANGED", "NAME")
    show.table(heads, [_row(one) for one in found["items"]], f"{where} is empty")


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    size = str(one["bytes"]) if one["kind"] == "file" else ""
    name = f"{one['name']}/" if one["kind"] == "folder" else one["name"]
    changed = show.when(one["modified_s"] * 1_000_000)
    return f"{SIGNS[one['kind']]}{one['mode']:04o}", f"{one['uid']}:{one['gid']}", size, changed, name


@app.command("get")
def get(
    vm: Vm,
    at: At = None,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Where it goes; -: standard output.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Also where such a file is there already.")] = False,
    _json: AsJson = False,
) -> None:
    """Take a file out of a backup; a folder comes as a tar, with all below it."""
    api = _patient()
    id, where = _meant(api, vm, at or [])
    if not where.strip("/"):
        raise Failure(USAGE, "which file, or which folder?", f"look first: asvctl backup files ls {vm} {id}")
    asked = path("vms", vm, "backups", id, "files", "content", path=where)
    if out == "-":
        api.download(asked, lambda headers: sys.stdout.buffer, _quiet)
        return
    place: list[Path] = []

    def opened(headers: dict[str, str]) -> BinaryIO:
        tar = headers.get("asv-file-kind") == "folder"
        place.append(Path(out or where.rstrip("/").rpartition("/")[2].replace(":", "-") + (".tar" if tar else "")))
        return _fresh(place[0], force=force)

    try:
        count = api.download(asked, opened, _quiet)
    except BaseException:
        for made in place:
            _draft(made).unlink(missing_ok=True)
        raise
    _draft(place[0]).replace(place[0])
    if wants_json():
        show.as_json({"file": str(place[0]), "bytes": count})
    else:
        show.note(f"{place[0]}: {count} bytes of {where} in {id} of {vm}")


def _fresh(place: Path, *, force: bool) -> BinaryIO:
    """Raises Failure."""
    if os.path.lexists(place) and not force:
        raise Failure(REFUSED, f"{place} is there already", "name another with -o, or say --force")
    try:
        return _draft(place).open("wb")
    except OSError as error:
        raise Failure(USAGE, f"{place} cannot be written: {error.strerror}", "name another with -o") from error


def _draft(place: Path) -> Path:
    """Until it is whole."""
    return place.with_name(f".{place.name}.part")


def _quiet(count: int) -> None:
    pass


def _patient() -> Client:
    api = client()
    api.timeout_s = WAIT_S
    return api


def _meant(api: Client, vm: str, words: list[str]) -> tuple[str, str]:
    """(The backup, the path in it). Raises Failure."""
    id, rest = (words[0], words[1:]) if words and _ID.fullmatch(words[0]) else ("", words)
    if len(rest) > 1 or (rest and not rest[0].startswith("/")):
        raise Failure(USAGE, f"{' '.join(rest)} is no path", "a path begins with /, and one is taken at a time: quote its blanks")
    if not id:
        id = str(api.get(path("vms", vm, "backups"))["newest"])
        if not id:
            raise Failure(REFUSED, f"{vm} has no backup that is sound", f"see what it has: asvctl backup ls {vm}")
    return id, rest[0] if rest else ""


def _size(count: int) -> str:
    from services.cli.backup import bytes_said  # else each would need the other first

    return bytes_said(count)
