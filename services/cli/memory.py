"""`asvctl memory`: what each node's memory is promised to, what may be set of it, and the proof over the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.events import listed
from services.cli.failure import DENIED, NOT_FOUND, REFUSED, USAGE, Failure
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="The nodes' memory: promises, areas, reclaim.", no_args_is_help=True)

Node = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]


def _of(mib: int, room: int) -> str:
    return f"{units.size(mib)} of {units.size(room)}"


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
            _of(x["reserved_mib"], x["room_mib"]),
            _of(x["charged_mib"], x["room_mib"]),
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
    """Show one node's ledger: its areas, policy, pressure, and what each VM holds and was taken from."""
    found = next((x for x in client().items(path("memory")) if x["node"] == name), None)
    if found is None:
        raise Failure(NOT_FOUND, f"there is no ledger of a node {name}", "name a node that `memory ls` shows")
    if wants_json():
        show.as_json(found)
        return
    show.facts(list(_facts(found)))
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


def _taken(held: dict[str, Any]) -> Iterable[tuple[str, int]]:
    return (held.get("taken") or {}).items()


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    policy, seen = found.get("policy") or {}, found.get("seen") or {}
    yield "physical", units.size(found["physical_mib"])
    yield "areas", ", ".join(f"{a['name']} {units.size(a.get('min_mib', 0))}" for a in found["areas"])
    yield "failover share", units.size(found["share_mib"])
    yield "guaranteed", _of(found["reserved_mib"], found["room_mib"])
    yield "nominal by ratio", _of(found["charged_mib"], found["room_mib"])
    per_class = policy.get("class_ratio_pct") or {}
    ratios = [f"{policy.get('ratio_pct', 150)} %", *(f"{name} {pct} %" for name, pct in per_class.items())]
    yield "ratio", f"{', '.join(ratios)}, critical 100 %"
    yield "swap", units.size(found["swap_mib"]) if policy.get("swap", True) else "not allowed"
    yield "merging", "allowed" if policy.get("merge") else "off"
    if seen:
        yield "level", f"{found['level']} ({seen['available_mib']} MiB available, minFree {found['min_free_mib']})"
        some, full = seen.get("psi_some", -1.0), seen.get("psi_full", -1.0)
        yield "pressure", f"some {some:g} %, full {full:g} %" if some >= 0 else "not known"
        yield "predicted need", f"{seen.get('forecast_mib', 0)} MiB"
    yield "not applied", "; ".join(found.get("faults") or ())


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
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Say how far a node's memory is over-allocated; refused where it breaks what is promised."""
    ratios = dict(map(_pair, per_class or ()))
    body = {"ratio_pct": ratio, "class_ratio_pct": ratios, "merge": merge, "swap": swap}
    api = client()
    accepted = api.post(path("nodes", name, "memory", "policy"), body)
    task.finish(api, accepted, f"set the memory policy of {name}", waiting, timeout_s)


@app.command("areas")
def areas(
    name: Node,
    sizes: Annotated[
        list[str] | None, typer.Argument(metavar="AREA=MIN[:MAX]", help="In MiB; none: as follows from the host.")
    ] = None,
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Divide a node's memory between its modules (host, control, storage, network); vms-CLASS=0:MAX bounds a class."""
    rows = []
    for text in sizes or ():
        area, _, size = text.partition("=")
        least, _, most = size.partition(":")
        if not least.isdigit() or (most and not most.isdigit()):
            raise Failure(USAGE, f"{text} is not AREA=MIN[:MAX] in MiB", "for instance host=1024 control=512:2048")
        rows.append({"name": area, "min_mib": int(least), "max_mib": int(most or 0)})
    api = client()
    accepted = api.post(path("nodes", name, "memory", "areas"), {"areas": rows})
    task.finish(api, accepted, f"divide the memory of {name}", waiting, timeout_s)


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
        show.facts([(word.replace("_", " "), value) for word, value in proof.told().items() if word != "faults"])
        for fault in proof.faults:
            print(show.clean(fault))
    if proof.faults:
        raise typer.Exit(REFUSED)
