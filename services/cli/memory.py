"""`asvctl memory`: what each node's memory is promised to, what may be set of it, and the proof over the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from libs.memory.areas import BY_NAME, SWAP
from libs.memory.promise import VMS
from services.cli import node_memory, policy_drain, show, task, units
from services.cli.client import Client, path
from services.cli.events import listed
from services.cli.failure import DENIED, NOT_FOUND, REFUSED, USAGE, Failure
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="The nodes' memory: promises, areas, reclaim.", no_args_is_help=True)

Node = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List the nodes' ledgers: both limits, and how short each node is."""
    found = client().items(path("memory"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            x["node"],
            units.part(x["reserved_mib"], x["room_mib"]),
            units.part(x["charged_mib"], x["room_mib"]),
            units.size(x["share_mib"]) if x.get("share_mib") else "",
            len(x.get("held") or ()),
            x.get("level") or "not heard",
            units.size((x.get("seen") or {}).get("available_mib")),
        )
        for x in found
    ]
    heads = ("NODE", "GUARANTEED", "NOMINAL BY RATIO", "FAILOVER SHARE", "VMS", "LEVEL", "AVAILABLE")
    show.table(heads, rows, "no node has said what memory it has")


@app.command("show")
def show_(name: Node, _json: AsJson = False) -> None:
    """Show what a node's memory is promised to: both limits, policy, and what each VM holds and was taken from."""
    found = _ledger(client(), name)
    if wants_json():
        show.as_json(found)
        return
    show.facts([*node_memory.promises(found), *_ladder(found)])
    rows = [
        (
            h["vm"],
            h["promise"].get("priority", "normal"),
            units.size(h["promise"]["nominal_mib"]),
            units.size(h["promise"]["reservation_mib"]),
            units.size(h["promise"].get("overhead_mib", 0)),
            ", ".join(f"{rung} {mib}" if rung in ("balloon", "swap") else rung for rung, mib in _taken(h)),
        )
        for h in found.get("held") or ()
    ]
    show.table(("VM", "CLASS", "NOMINAL", "RESERVED", "OVERHEAD", "TAKEN"), rows, "it holds no VM")


def _ledger(api: Client, name: str) -> dict[str, Any]:
    """Raises Failure."""
    found: dict[str, Any] | None = next((x for x in api.items(path("memory")) if x["node"] == name), None)
    if found is None:
        raise Failure(NOT_FOUND, f"there is no ledger of a node {name}", "name a node that `memory ls` shows")
    return found


def _taken(held: dict[str, Any]) -> Iterable[tuple[str, int]]:
    return (held.get("taken") or {}).items()


def _ladder(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the ladder goes by."""
    if seen := found.get("seen") or {}:
        yield "level", f"{found['level']} ({seen['available_mib']} MiB available, minFree {found['min_free_mib']})"
        yield "predicted need", f"{seen.get('forecast_mib', 0)} MiB"


@app.command("share")
def share(
    name: Node,
    mib: Annotated[int, typer.Argument(metavar="MIB", help="MiB kept for VMs of nodes that fail.", min=0)],
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Keep memory of a node for failover: only failover restarts may use it."""
    api = client()
    accepted = api.post(path("nodes", name, "memory", "share"), {"share_mib": mib})
    task.finish(api, accepted, f"set the failover share of {name}", waiting, timeout_s)


@app.command("policy")
def policy(
    name: Node,
    ratio: Annotated[int, typer.Option(metavar="PERCENT", help="Nominal memory promised for each 100 MiB.")] = 150,
    per_class: Annotated[
        list[str] | None, typer.Option("--class", metavar="CLASS=PERCENT", help="Another ratio for a class of VMs.")
    ] = None,
    merge: Annotated[bool, typer.Option(help="Merge equal pages when memory is short.")] = False,
    swap: Annotated[bool, typer.Option(help="Swap best-effort VMs when memory is short.")] = True,
    drain: Annotated[bool, typer.Option("--drain", help="Only show which VMs would have to go first, and where to.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="With --drain: move them, then let the policy hold.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 600.0,
    _json: AsJson = False,
) -> None:
    """Say how far a node's memory is over-allocated; refused where it breaks what is promised, unless VMs are moved first."""
    if apply and not drain:
        raise Failure(USAGE, "--apply goes with --drain", f"memory policy {name} … --drain --apply")
    ratios = dict(map(_pair, per_class or ()))
    body: dict[str, Any] = {"ratio_pct": ratio, "class_ratio_pct": ratios, "merge": merge, "swap": swap}
    api = client()
    if drain and not apply:
        policy_drain.shown(name, api.post(path("nodes", name, "memory", "policy", "plan"), body))
        return
    body |= {"drain": True} if drain else {}
    accepted = api.post(path("nodes", name, "memory", "policy"), body)
    task.finish(api, accepted, f"set the memory policy of {name}", waiting, timeout_s)


@app.command("areas")
def areas(
    name: Node,
    sizes: Annotated[
        list[str] | None, typer.Argument(metavar="AREA=MIN[:MAX]", help="In MiB; others stay as they are.")
    ] = None,
    by_host: Annotated[bool, typer.Option("--by-host", help="All as follows from the host's memory.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Show how a node's memory is divided between its modules (host, control-plane, agent, storage, network), or set it and show
    it before and after; vms-CLASS=0:MAX bounds a class."""
    given = dict(map(_area, sizes or ()))
    api = client()
    ledger = _ledger(api, name)
    before = {area["name"]: area for area in ledger["areas"]}
    if not given and not by_host:
        _show_areas(ledger)
        return
    if given and by_host:
        raise Failure(USAGE, "--by-host takes no sizes with it", "give sizes, or --by-host alone")
    kept = [area for area in ledger["areas"] if area["name"] not in given and area["name"] != SWAP]
    rows = [] if by_host else [*kept, *given.values()]
    accepted = api.post(path("nodes", name, "memory", "areas"), {"areas": rows})
    task.finish(api, accepted, f"divide the memory of {name}", waiting, timeout_s)
    if not wants_json():
        after = {area["name"]: area for area in _ledger(api, name)["areas"]}
        names = [*before, *(other for other in after if other not in before)]
        limits = node_memory.limits
        changes = [(n, limits(before.get(n)), limits(after.get(n))) for n in names if before.get(n) != after.get(n)]
        show.table(("AREA", "BEFORE", "AFTER"), changes, "no area is another than before")


def _show_areas(ledger: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(ledger["areas"])
        return
    by = "set by hand" if ledger["areas_set"] else "as follows from the host's memory"
    rows = [
        (a["name"], node_memory.limits(a), BY_NAME[a["name"]].holds if a["name"] in BY_NAME else "VMs of that class")
        for a in ledger["areas"]
    ]
    show.table(("AREA", "LIMITS", "WHAT STANDS IN IT"), rows, "it has no areas")
    show.note(f"{ledger['node']}: {by}")


def _area(text: str) -> tuple[str, dict[str, Any]]:
    """A module with a max is slowed down at 3/4 of it, where that is above what it was promised. Raises Failure."""
    area, _, size = text.partition("=")
    least, _, most = size.partition(":")
    if not least.isdigit() or (most and not most.isdigit()):
        raise Failure(USAGE, f"{text} is not AREA=MIN[:MAX] in MiB", "for instance host=1024 agent=256:1024")
    min_mib, max_mib = int(least), int(most or 0)
    high_mib = max_mib * 3 // 4 if max_mib * 3 // 4 > min_mib and not area.startswith(VMS) else 0
    return area, {"name": area, "min_mib": min_mib, "high_mib": high_mib, "max_mib": max_mib}


def _pair(text: str) -> tuple[str, int]:
    word, _, pct = text.partition("=")
    if not pct.isdigit():
        raise Failure(USAGE, f"{text} is not CLASS=PERCENT", "for instance best-effort=200")
    return word, int(pct)


@app.command("prove")
def prove(_json: AsJson = False) -> None:
    """Check the whole log: what ledgers promised was there at every position, and no critical VM was ever reclaimed from."""
    from libs.memory.prove import Proof  # takes a moment to import, and no other command needs it
    from libs.memory.reading import event_of

    proof, last = Proof(), 0
    for row in listed(client(), 0):
        if row["position"] != last + 1:
            raise Failure(
                DENIED,
                f"position {last + 1} of the log is not shown to this token: nothing is proven by a part",
                "use a token for all projects",
            )
        last = row["position"]
        try:
            proof.look(last, event_of(row["type"], row.get("v", 1), row.get("data")))
        except (msgspec.ValidationError, KeyError) as error:
            raise Failure(REFUSED, f"position {last} cannot be read: {error}", "use an asvctl as new as the cluster") from error
    if wants_json():
        show.as_json(proof.told())
    else:
        show.facts(_verdict(proof.told()))
        for fault in proof.faults:
            print(show.clean(fault))
    if proof.faults:
        raise typer.Exit(REFUSED)


def _verdict(told: dict[str, Any]) -> list[tuple[str, object]]:
    """The proof in words; what is none of these words is shown under its own."""
    words = {
        "promises": "promises held",
        "denials": "promises denied",
        "critical_max": "critical VMs at most at once",
        "ladder_steps": "steps of the ladder",
        "wishes": "moves and pauses wished",
        "beyond": "positions beyond a limit, by loss or restore",
        "faults_count": "faults",
    }
    facts: list[tuple[str, object]] = [("verdict", "all of it holds" if told["holds"] else "it does not hold")]
    return facts + [(words.get(word, word), str(value)) for word, value in told.items() if word not in ("holds", "faults")]
