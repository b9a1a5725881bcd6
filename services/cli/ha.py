"""`asvctl ha`: whether nodes are alive, and what is done when one is not."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli import fence, show, task, units
from services.cli.client import path
from services.cli.session import SESSION, AsJson, client, wants_json
from services.cli.verdicts import verdicts

app = typer.Typer(help="High availability: nodes that die, and what follows.", no_args_is_help=True)
app.add_typer(fence.app, name="fence")
app.command("verdicts")(verdicts)

Reason = Annotated[str, typer.Option("--reason", help="Why, for those who wonder later.")]
TIMEOUT_S = 30.0


class Isolated(StrEnum):
    LEAVE = "leave"
    EVACUATE = "evacuate"


class Unlinked(StrEnum):
    ALARM = "alarm"
    MIGRATE = "migrate"


class Reserve(StrEnum):
    NODES = "nodes"
    PERCENT = "percent"
    NONE = "none"


@app.command("status")
def status(_json: AsJson = False) -> None:
    """How each node stands and when it was heard by which path, who grants leases, and by which rules."""
    found = client().get(path("ha"))
    if wants_json():
        show.as_json(found)
        return
    show.facts(_facts(found))
    rows = [_row(n, found["heard"]) for n in found["nodes"]]
    heads = ("NODE", "STANDING", "ASKED", "RECORD MOVED", "LEASE", "EPOCH", "FENCE", "REMARKS")
    show.table(heads, rows, "no nodes have joined yet")


def _row(n: dict[str, Any], heard: bool) -> tuple[object, ...]:
    ways = _ago(n.get("control_s")), _storage(n), _lease(n)
    return (n["name"], n["standing"], *ways, n.get("epoch"), n.get("fence"), _remarks(n, heard))


def _facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    rules = found["settings"]
    armed = "armed" if found["armed"] else f"disarmed: {found['reason']}"
    until = f", until {show.when(found['until_us'])}" if found.get("until_us") else ""
    held = f"{found['held']}; {found['remedy']}" if found.get("held") else ""
    grantor = f"{found['holder']}, term {found['term']}, since {show.when(found['term_us'])}" if found["term"] else "nobody yet"
    room = {
        "nodes": f"for the VMs of {units.count(rules['reserve_nodes'], 'lost node')}",
        "percent": f"{rules['reserve_pct']} % of all memory",
        "none": "none",
    }[rules["reserve"]]
    away = f"{'asked for after' if rules['isolated'] == 'evacuate' else 'left, told after'} {rules['isolated_s']:g} s"
    return [
        ("state", armed + until),
        ("held", held),
        ("grants leases", grantor),
        ("leases", "30 s (tolerant)" if rules["tolerant"] else "5 s"),
        ("reserve", room + _kept(found.get("reserve"))),
        ("owed", _owed(found.get("reserve"))),
        ("isolated", f"VMs of nodes that live and cannot be reached are {away}"),
        ("lost networks", "the node is drained" if rules["unlinked"] == "migrate" else "an alert"),
        ("bounds", f"{rules['lost_max']} nodes lost within {rules['window_s']:g} s, {rules['starts_max']} restarts at once"),
        ("attention", "" if found["heard"] else f"{_unheard()}: this is what the log says"),
    ]


def _unheard() -> str:
    return "who was heard when is not recorded" if SESSION.at else "ha does not answer"


def _kept(kept: dict[str, Any] | None) -> str:
    if not kept:
        return ""
    free = units.size(sum(kept["shares"].values()) or 0) if any(kept["shares"].values()) else "nothing"
    away = f", {', '.join(kept['away'])} being gone" if kept["away"] else ""
    covers = f"any {units.count(kept['covers'], 'node')} may be lost{away}" if kept["covers"] else f"no loss is covered{away}"
    return f": {free} is kept free, {kept['sentence'] or covers}"


def _owed(kept: dict[str, Any] | None) -> str:
    if not kept or not kept["owed"]:
        return ""
    nowhere = f", {kept['unplaced']} of them fit nowhere by now" if kept["unplaced"] else ""
    return f"{units.count(kept['owed'], 'VM')} to be started{nowhere} (asvctl vm show NAME)"


def _ago(seconds: float | None) -> str:
    return "" if seconds is None or seconds < 0 else f"{seconds:.1f} s ago"


def _storage(node: dict[str, Any]) -> str:
    """The latest of its pools."""
    return _ago(min(node["storage_s"].values())) if node.get("storage_s") else ""


def _lease(node: dict[str, Any]) -> str:
    own = (node.get("own") or "") if 0 <= node.get("watchdog_s", -1) < 5 else ""
    return f"{own}, {node['left_s']:.1f} s left" if own == "held" else own


def _remarks(node: dict[str, Any], heard: bool) -> str:
    said = [node["sentence"]] if node.get("sentence") else []
    said += list(node.get("faults") or ())
    said += ["its fence device proves nothing"] if node.get("fence") in ("untested", "failing", "doubted") else []
    said += ["no watchdog runs there"] if heard and not node.get("watched") and node["standing"] != "lost" else []
    said += ["it says that it is slow"] if node.get("slow") else []
    return "; ".join(said)


@app.command("set")
def set_(
    tolerant: Annotated[
        bool | None,
        typer.Option("--tolerant/--fast", help="Leases of 30 s, for networks and storage that hiccup together, or of 5 s."),
    ] = None,
    isolated: Annotated[
        Isolated | None, typer.Option(help="What is done with VMs of a node that lives and cannot be reached.")
    ] = None,
    isolated_s: Annotated[float | None, typer.Option("--isolated-after", metavar="SECONDS", help="And when.")] = None,
    reserve: Annotated[Reserve | None, typer.Option(help="How room is kept for lost nodes' VMs.")] = None,
    reserve_nodes: Annotated[int | None, typer.Option(help="For so many nodes.")] = None,
    reserve_pct: Annotated[int | None, typer.Option(help="So much of all memory.")] = None,
    lost_max: Annotated[int | None, typer.Option(help="More nodes than these are not declared lost without your word …")] = None,
    window_s: Annotated[float | None, typer.Option("--window", metavar="SECONDS", help="… within so long.")] = None,
    starts_max: Annotated[int | None, typer.Option(help="How many VMs are restarted at once.")] = None,
    relax_apart: Annotated[
        bool | None, typer.Option("--relax-apart/--keep-apart", help="May VMs that are to be apart restart together?")
    ] = None,
    unlinked: Annotated[
        Unlinked | None, typer.Option(help="What is done with VMs of a node whose bridge has lost its way out.")
    ] = None,
    _json: AsJson = False,
) -> None:
    """Set high availability; what is not said stays."""
    body = {
        "tolerant": tolerant, "isolated": isolated and isolated.value, "isolated_s": isolated_s,
        "reserve": reserve and reserve.value, "reserve_nodes": reserve_nodes, "reserve_pct": reserve_pct,
        "lost_max": lost_max, "window_s": window_s, "starts_max": starts_max, "relax_apart": relax_apart,
        "unlinked": unlinked and unlinked.value,
    }  # fmt: skip
    api = client()
    accepted = api.put(path("ha"), {name: value for name, value in body.items() if value is not None})
    task.finish(api, accepted, "ha set", True, TIMEOUT_S)


@app.command("disarm")
def disarm(
    reason: Reason,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="Armed again by itself, as after 1h.")] = "",
    _json: AsJson = False,
) -> None:
    """Declare nothing lost and restart nothing. Leases go on."""
    api = client()
    body = {"reason": reason} | ({"for_s": units.seconds(for_)} if for_ else {})
    task.finish(api, api.post(path("ha", "disarm"), body), "ha disarm", True, TIMEOUT_S)


@app.command("arm")
def arm(_json: AsJson = False) -> None:
    """Arm it again. Where too many nodes are silent, this is your word that they are down."""
    api = client()
    task.finish(api, api.post(path("ha", "arm")), "ha arm", True, TIMEOUT_S)


@app.command("confirm-off")
def confirm_off(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")], reason: Reason, _json: AsJson = False
) -> None:
    """Your word that a node is off: its VMs start elsewhere upon it. Look first."""
    api = client()
    accepted = api.post(path("nodes", node, "confirm-off"), {"reason": reason})
    task.finish(api, accepted, f"confirm-off {node}", True, TIMEOUT_S)
