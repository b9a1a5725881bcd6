"""`asvctl cluster set KEY=VALUE …`: what placement prefers, and how far CPUs may be over-allocated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, task
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

CLASSES = ("critical", "important", "normal", "best-effort")
RATIO_MIN, RATIO_MAX = 0.1, 64.0
_KEYS = (
    "placement=spread|pack, vcpus-per-pcpu=N, placement.CLASS=spread|pack|cluster, vcpus-per-pcpu.CLASS=N|none, "
    "vcpus-per-pcpu@NODE=N|cluster"
)

Changes = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help=f"{_KEYS}. None: show what is set.")]


def set_(changes: Changes = None, waiting: Wait = False, timeout_s: TimeoutS = 30.0, _json: AsJson = False) -> None:
    """Where new VMs go: to the emptiest nodes (spread) or the fullest (pack), and how many vCPUs may be promised per pCPU; for the
    cluster, for a class of VMs, or on one node. Of several limits the lowest holds."""
    api = client()
    if not changes:
        _show(api.get(path("cluster", "placement")))
        return
    accepted = api.post(path("cluster", "placement"), body_of(changes))
    task.finish(api, accepted, "placement", waiting, timeout_s)


def body_of(changes: list[str]) -> dict[str, Any]:
    """What the API wants. Raises typer.BadParameter with what would be right."""
    body: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"`{change}` is not KEY=VALUE; keys: {_KEYS}")
        name, dot, of = key.partition("." if "." in key.partition("@")[0] else "@")
        where: dict[str, Any]
        if not dot:
            where = body
        elif key[len(name)] == "." and of in CLASSES:
            where = body.setdefault("classes", {}).setdefault(of, {})
        elif key[len(name)] == "@" and of and name == "vcpus-per-pcpu":
            body.setdefault("nodes", {})[of] = 0 if value == "cluster" else _ratio(value, "cluster")
            continue
        else:
            raise typer.BadParameter(f"`{key}` cannot be set; keys: {_KEYS}; classes: {', '.join(CLASSES)}")
        match name:
            case "placement":
                where["weights"] = _weights(value, bool(dot))
            case "vcpus-per-pcpu" if dot:
                where["vcpus_per_pcpu"] = 0 if value == "none" else _ratio(value, "none")
            case "vcpus-per-pcpu":
                where["vcpus_per_pcpu"] = _ratio(value)
            case _:
                raise typer.BadParameter(f"`{key}` cannot be set; keys: {_KEYS}")
    return body


def _weights(value: str, of_class: bool) -> str:
    words = ("spread", "pack", *(("cluster",) if of_class else ()))
    if value not in words:
        raise typer.BadParameter(f"`{value}` is no placement; one of: {', '.join(words)}")
    return "" if value == "cluster" else value


def _ratio(value: str, other: str = "") -> float:
    try:
        ratio = float(value)
    except ValueError:
        ratio = -1.0
    if not RATIO_MIN <= ratio <= RATIO_MAX:
        word = f", or {other}" if other else ""
        raise typer.BadParameter(f"`{value}` is no ratio; a number from {RATIO_MIN:g} to {RATIO_MAX:g}{word}")
    return ratio


def _show(found: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(found)
        return
    facts = [
        ("placement", found.get("weights", "spread")),
        ("vcpus per pcpu", f"{found.get('vcpus_per_pcpu', 8.0):g}"),
    ]
    for priority, own in found.get("classes", {}).items():
        facts += [(f"placement of {priority}", own["weights"])] if own.get("weights") else []
        if ratio := own.get("vcpus_per_pcpu"):
            facts.append((f"vcpus per pcpu of {priority}", f"{ratio:g}"))
    facts += [(f"vcpus per pcpu on {node}", f"{ratio:g}") for node, ratio in found.get("nodes", {}).items()]
    show.facts(facts)
