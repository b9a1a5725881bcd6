"""`asvctl ha verdicts`: what was found of VMs that died inside, and what their screen showed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli import show
from services.cli.client import path
from services.cli.failure import USAGE, Failure
from services.cli.session import AsJson, client, wants_json

Picture = Annotated[Path | None, typer.Option("--picture", metavar="FILE", help="save what its screen showed (PNG); needs --vm")]


def verdicts(
    vm: Annotated[str, typer.Option("--vm", metavar="NAME", help="of this VM only")] = "",
    picture: Picture = None,
    number: Annotated[int, typer.Option("--number", min=0, help="whose picture; 0: of the latest verdict")] = 0,
    _json: AsJson = False,
) -> None:
    """What was found of VMs whose guest panicked or hung, or whose process died; the oldest first."""
    api = client()
    if picture is not None:
        if not vm:
            raise Failure(USAGE, "--picture needs --vm", "say whose: asvctl ha verdicts --vm NAME --picture FILE")
        png, _ = api.file(path("vms", vm, "verdicts", str(number), "picture"))
        try:
            picture.write_bytes(png)
        except OSError as error:
            raise Failure(USAGE, f"{picture} cannot be written: {error.strerror}", "name another file") from error
        if wants_json():
            show.as_json({"file": str(picture), "bytes": len(png)})
        else:
            show.note(f"{picture}: {len(png)} bytes")
        return
    found = api.items(path("vms", vm, "verdicts") if vm else path("verdicts"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            show.when(v.get("at_us")), v.get("vm"), str(v.get("number")), v.get("kind"), v.get("node"), v.get("sentence"),
            _done(v), "yes" if v.get("picture") else "",
        )
        for v in found
    ]  # fmt: skip
    head = ("WHEN", "VM", "NO", "KIND", "NODE", "WHAT", "DONE", "PICTURE")
    show.table(head, rows, "no VM was found dead")


def _done(verdict: dict[str, object]) -> str:
    if verdict.get("lifted"):
        return f"lifted: {verdict['lifted']}"
    return "started again" if verdict.get("treated") else f"nothing: {verdict.get('why_not')}"
