"""`asvctl cluster balance`: how evenly the cluster is used, and which moves would make it more even."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, client, wants_json


class Mode(StrEnum):
    ADVISE = "advise"
    AUTO = "auto"


def balance(
    apply: Annotated[bool, typer.Option("--apply", help="Move the first batch now.")] = False,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help="advise: nothing moves by itself; auto: by the rules of docs/balance.md."),
    ] = None,
    waiting: Annotated[bool, typer.Option("--wait", help="With --apply: until the moves have ended.")] = False,
    timeout_s: TimeoutS = 1200.0,
    _json: AsJson = False,
) -> None:
    """How evenly the cluster is used, and which moves would be worth it, each with its reason and its expected gain."""
    api = client()
    if mode is not None:
        task.finish(api, api.post(path("cluster", "balance"), {"mode": mode.value}), "balance", True, timeout_s)
    if apply:
        accepted = api.post(path("cluster", "balance", "apply"))
        task.finish(api, accepted, "balance", waiting, timeout_s)
    if mode is None and not apply:
        _show(api.get(path("cluster", "balance")))


def _show(found: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(found)
        return
    show.facts(_facts(found))
    rows = [
        (m["batch"] + 1, m["vm"], m["origin"], m["target"], f"{m['gain']:.3f}", m["reason"]) for m in found["moves"]
    ]
    show.table(("BATCH", "VM", "FROM", "TO", "GAIN", "REASON"), rows, "no move would be worth it")
    for stay in found.get("stays", []):
        print(f"group {stay['group']} ({', '.join(stay['vms'])}) stays: {stay['reason']}")


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    uneven = found["score"] > found["threshold"]
    said = [
        (
            "score",
            f"{found['score']:.3f} ({'uneven' if uneven else 'even enough'}: the threshold is {found['threshold']:g})",
        ),
        ("mode", f"{found['mode']}{f', {n} moves under way' if (n := found['moving']) else ''}"),
        ("made of", _terms(found["terms"])),
        ("nodes", f"{found['nodes']} with {units.count(found['vms'], 'VM')}; of {found['demand_known']} the CPU demand is known"),
    ]
    if found["moves"] or found["not_shown"]:
        hidden = f", {found['not_shown']} of them of other projects" if found["not_shown"] else ""
        count = len(found["moves"]) + found["not_shown"]
        said.append(
            ("after all moves", f"{found['planned']:.3f} ({units.count(count, 'move')}{hidden}): {_terms(found['planned_terms'])}")
        )
    return said


def _terms(terms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in terms.items())
