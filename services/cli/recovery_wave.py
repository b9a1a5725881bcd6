"""`asvctl recovery run`, `waves`, `wave`, `cancel`: many VMs recovered from their backups by one order."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import Client, path
from services.cli.failure import USAGE, Failure
from services.cli.moment import zoned
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json
from services.cli.spans import ms, span

Name = Annotated[str, typer.Argument(metavar="WAVE", help="As `waves` shows it.")]
TIME = "Each from its newest backup not after it: '2026-11-20 14:03', -2h, a position."
LOSE = "VMs that are there, whose disks' content is given up: how many they are, or each by name."
MIBPS = "What each pool of backups gives: no more is begun from it than it gives in 15 minutes. 0: no limit."


def run(
    vms: Annotated[list[str] | None, typer.Argument(metavar="[VM]...", help="These, also where they are well or deleted.")] = None,
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="Those that ran there last, and are not well.")] = "",
    all_: Annotated[bool, typer.Option("--all", help="All VMs that are not well.")] = False,
    at: Annotated[str, typer.Option("--at", metavar="TIME", help=TIME)] = "",
    after: Annotated[list[str] | None, typer.Option("--after", metavar="A:B", help="A begins once B runs.")] = None,
    lose: Annotated[list[str] | None, typer.Option("--lose", metavar="COUNT|NAME", help=LOSE)] = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=64, help="How many are begun and do not run yet.")] = 4,
    copying: Annotated[int, typer.Option("--copying", min=0, max=1024, help="Whose data is to come home; 0: no limit.")] = 16,
    mibps: Annotated[int, typer.Option("--bandwidth", metavar="MIBPS", min=0, max=100_000, help=MIBPS)] = 0,
    name: Annotated[str, typer.Option("--name", metavar="WAVE", help="Default: one is made of the time.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the order, and who is left out, with why.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Recover many VMs: by class and by what comes after what, so many at once. --wait: until all run."""
    body = {
        "name": name, "node": node, "all": all_, "vms": vms or [], "at": zoned(at), "after": [_after(one) for one in after or ()],
        "at_once": at_once, "copying_max": copying, "bandwidth_mibps": mibps, **_lose(lose or []),
    }  # fmt: skip
    if not (node or all_ or vms):
        raise Failure(USAGE, "nobody is named", "say --node NODE, --all, or name VMs")
    api = client()
    if dry_run:
        _plan(api.post(path("waves", "plan"), body))
        return
    accepted = api.post(path("waves"), body)
    wave = str(accepted.get("wave") or "")
    task.finish(api, accepted, f"recover many ({wave})", waiting, timeout_s, lambda: _state(api, wave))


def _after(text: str) -> dict[str, str]:
    vm, colon, first = text.partition(":")
    if not (vm and colon and first):
        said = f"--after {text} does not say what comes after what"
        raise Failure(USAGE, said, "write --after web:db where web begins once db runs")
    return {"vm": vm, "first": first}


def _lose(said: list[str]) -> dict[str, Any]:
    """One number is how many; all else are names."""
    if len(said) == 1 and said[0].isascii() and said[0].isdigit():
        return {"lose_count": int(said[0])}
    return {"lose": said}


def _state(api: Client, wave: str) -> str:
    """For the progress line."""
    if not wave:
        return ""
    found = api.get(path("waves", wave))
    return f" [{_far(found['wave'])}{_forecast(found)}]"


def _far(wave: dict[str, Any]) -> str:
    runs = sum(step["state"] == "running" for step in wave["steps"])
    failed = sum(step["state"] == "failed" for step in wave["steps"])
    return f"{runs} of {len(wave['steps'])} run" + (f", {failed} failed" if failed else "")


def _forecast(found: dict[str, Any]) -> str:
    when = found.get("forecast")
    return f", all {show.when(when['run_us'])} at the earliest" if when else ""


def _plan(plan: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(plan)
        return
    rows = [(step["place"], step["vm"], step["backup"], units.size(step["mib"]), step["reason"]) for step in plan["steps"]]
    rows += [("-", one["vm"], "", "", one["sentence"]) for one in plan["left"]]
    rows += [("-", f"{plan['left_more']} more", "", "", "left out")] if plan["left_more"] else []
    show.table(("PLACE", "VM", "BACKUP", "DATA", "WHY"), rows, "there is no such VM")
    if plan["refused"]:
        show.note(f"it would be refused: {show.clean(plan['refused'])}; {show.clean(plan['remedy'])}")


def waves(_json: AsJson = False) -> None:
    """List waves of recoveries, the oldest first; the newest hundred are kept."""
    found = client().items(path("waves"))
    if wants_json():
        show.as_json(found)
        return
    heads = ("WAVE", "STATE", "ASKED", "VMS", "RUN", "FAILED", "FIRST (MEDIAN)", "ALL AFTER", "FORECAST")
    show.table(heads, [_row(one) for one in found], "no wave was ordered yet")


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    wave, when = found["wave"], found.get("forecast")
    many = [step["state"] for step in wave["steps"]]
    over = bool(wave["ended_us"])
    return (
        wave["name"], wave["state"], show.when(wave["asked_us"]), len(many), many.count("running"), many.count("failed"),
        ms(wave["first_ms_p50"]) if over else "", span(wave["took_s"]) if over else "", show.when(when["run_us"]) if when else "",
    )  # fmt: skip


def wave(name: Name, _json: AsJson = False) -> None:
    """Show a wave: each VM in its order, how far it is, and who was left out."""
    found = client().get(path("waves", name))
    if wants_json():
        show.as_json(found)
        return
    one = found["wave"]
    over = f"; median {ms(one['first_ms_p50'])}, at most {ms(one['first_ms_max'])}, all after {span(one['took_s'])}"
    show.facts([
        ("wave", one["name"]), ("state", one["state"]), ("asked for", f"{show.when(one['asked_us'])} by {one['actor']}"),
        ("limits", f"{one['at_once']} at once, {one['copying_max'] or 'any number'} coming home" + _mibps(one)),
        ("far", _far(one) + (over if one["ended_us"] else _forecast(found))), ("task", one["task"]),
    ])  # fmt: skip
    rows = [
        (step["place"], step["vm"], step["state"], step["backup"], ms(step["first_ms"]), step["sentence"] or step["reason"])
        for step in one["steps"]
    ]
    rows += [("-", left["vm"], "left out", "", "", left["sentence"]) for left in one["left"]]
    rows += [("-", f"{one['left_more']} more", "left out", "", "", "")] if one["left_more"] else []
    show.table(("PLACE", "VM", "STATE", "BACKUP", "RAN AFTER", "WHY"), rows, "")


def _mibps(wave: dict[str, Any]) -> str:
    return f", {wave['bandwidth_mibps']} MiB/s from each pool" if wave["bandwidth_mibps"] else ""


def cancel(name: Name, _json: AsJson = False) -> None:
    """Begin no more recoveries of a wave; what has begun goes on."""
    api = client()
    task.finish(api, api.post(path("waves", name, "cancel")), f"cancel {name}", False, 0.0)
