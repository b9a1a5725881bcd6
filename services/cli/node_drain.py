"""`asvctl node drain`: a node is emptied; first it is looked whether and where its VMs fit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json


def drain(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show where each VM would go.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", "--force", help="Move those that fit, also when others fit nowhere.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for those who wonder later.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Cordon a node and migrate its VMs away, two at once; refused where one fits nowhere else."""
    api = client()
    if dry_run:
        plan = api.get(path("nodes", name, "drain"))
        if wants_json():
            show.as_json(plan)
        else:
            _table(plan)
        return
    accepted = api.post(path("nodes", name, "drain"), {"partial": partial, "reason": reason})
    task.finish(api, accepted, f"drain {name}", waiting, timeout_s)


def _along(copy_mib: int) -> str:
    return f"its disks go along, {units.size(copy_mib)} at most" if copy_mib else ""


def _table(plan: dict[str, Any]) -> None:
    rows = [(m["vm"], m["to"], _along(m.get("copy_mib", 0))) for m in plan.get("moves") or ()]
    rows += [(u["vm"], "nowhere", f"{u['sentence']}; {u.get('remedy', '')}") for u in plan.get("unfit") or ()]
    rows += [(vm, "?", "it is starting or stopping, and is waited for") for vm in plan.get("waits") or ()]
    show.table(("VM", "TO", "WHY"), rows, "no VMs are there")
