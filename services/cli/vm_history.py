"""`asvctl vm history`: what happened to a VM, and who asked for it."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import show
from services.cli.client import path
from services.cli.session import AsJson, client, wants_json

Name = Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.")]


def history(
    name: Name,
    size: Annotated[bool, typer.Option("--size", help="Only what changed its vCPUs and memory.")] = False,
    last: Annotated[int, typer.Option(metavar="COUNT", help="How many of the newest; 0: all that are told.", min=0)] = 0,
    _json: AsJson = False,
) -> None:
    """What happened to a VM, a line each, with who asked for it."""
    found = client().get(path("vms", name, "history", size=size))
    items = found["items"][-last:] if last else found["items"]
    if wants_json():
        show.as_json(items)
        return
    if found.get("older"):
        print(f"({found['older']} earlier events)")
    rows = [(show.when(i["at_us"]), i["asked_by"], i["sentence"]) for i in items]
    show.table(("WHEN", "ASKED BY", "WHAT"), rows, "nothing of that kind")
