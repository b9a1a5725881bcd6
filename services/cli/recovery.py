"""`asvctl recovery`: how far recoveries are, how they went, and how each VM is protected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import recovery_drill, recovery_wave, show, units
from services.cli.backup import progress
from services.cli.client import path
from services.cli.failure import USAGE, Failure
from services.cli.recovery_drill import drill_cells
from services.cli.session import AsJson, client, wants_json
from services.cli.spans import ms, span

app = typer.Typer(help="Recoveries of virtual machines from their backups.", no_args_is_help=True)
app.command("drill")(recovery_drill.drill)
app.command("drills")(recovery_drill.drills)
app.command("run")(recovery_wave.run)
app.command("waves")(recovery_wave.waves)
app.command("wave")(recovery_wave.wave)
app.command("cancel")(recovery_wave.cancel)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `ls` shows it: r1-7, or web-1.r1-7.")]


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List recoveries, the oldest first; the newest thousand are kept."""
    found = client().items(path("recoveries"))
    if wants_json():
        show.as_json(found)
        return
    heads = ("ID", "VM", "MADE OF", "BACKUP", "STATE", "ASKED", "RAN AFTER", "OWN AFTER", "LOST", "NODE")
    show.table(heads, [_row(one["recovery"], one.get("progress")) for one in found], "nothing was recovered yet")


def _row(one: dict[str, Any], far: dict[str, Any] | None) -> tuple[object, ...]:
    state = f"{one['state']} {far['percent']:g} %" if far else one["state"]
    return (
        one["id"], one["target"], one["source"], one["backup"], state, show.when(one["requested_us"]), ms(one.get("first_ms")),
        span(one.get("home_s")), span(one["rpo_s"]), one["node"],
    )  # fmt: skip


@app.command("show")
def show_one(id: Id, _json: AsJson = False) -> None:
    """Show a recovery: how far it is, when each step was done, and what was lost."""
    found = client().get(path("recoveries", id))
    if wants_json():
        show.as_json(found)
        return
    one = found["recovery"]
    lost = f"{span(one['rpo_s'])} (from {show.when(one['taken_us'])} to {show.when(one['lost_from_us'])})"
    show.facts([
        ("id", f"{one['source']}.{one['id']}"),
        ("vm", one["target"]),
        ("state", one["state"] + (f": {one['sentence']}" if one.get("sentence") else "")),
        ("progress", progress(found.get("progress"))),
        ("normal again", _forecast(one)),
        ("at risk", "; ".join(risk["sentence"] for risk in one["risks"])),
        ("grade", graded(one.get("grade"))),
        ("made of", f"{one['backup']} of {one['source']}"),
        ("lost", lost),
        ("node", one["node"]),
        ("asked for", f"{show.when(one['requested_us'])} by {one['actor']}"),
        ("with", "; ".join(_how(one))),
        *((word, _step(one, key)) for word, key in STEPS if one.get(key)),
        ("agent", f"answered after {ms(one['agent_ms'])}" if one.get("agent_ms") is not None else ""),
        ("starts", one["starts"] if one["starts"] > 1 else ""),
        ("task", one["task"]),
    ])  # fmt: skip
    if one["curve"]:
        show.table(CURVE, [_noted(point) for point in one["curve"]], "")


CURVE = ("AT", "HOME", "MIB/S", "WRITES", "TIMES NORMAL", "NORMAL AGAIN")
STEPS = (
    ("prepared", "prepared_us"), ("disks on the backup", "disks_us"), ("placed", "placed_us"), ("ran", "started_us"),
    ("its own", "independent_us"), ("over", "ended_us"),
)  # fmt: skip


def _step(one: dict[str, Any], key: str) -> str:
    after_s = (one[key] - one["requested_us"]) / 1e6
    return f"{show.when(one[key])} (after {ms(round(after_s * 1000))})"


def _forecast(one: dict[str, Any]) -> str:
    """`11:42 (forecast made 11:31)`, and what it was corrected to."""
    if not (curve := one["curve"]):
        return ""
    first, last = curve[0], curve[-1]
    said = f"{show.when(first['forecast_us'])} (forecast made {show.when(first['at_us'])})"
    if len(curve) > 1:
        said += f"; corrected {show.when(last['at_us'])}: {show.when(last['forecast_us'])}"
    return said + (f"; it was at {show.when(one['independent_us'])}" if one["independent_us"] else "")


def graded(grade: dict[str, Any] | None) -> str:
    """`met: ran after 1.2 s, its own after 4 min 2 s, 12 s later than forecast, writes 1.4 times normal at worst`."""
    if grade is None:
        return ""
    said = [f"ran after {ms(grade['first_ms'])}"] if grade["first_ms"] else []
    said += [f"its own after {span(grade['home_s'])}"]
    said += [late(grade.get("off_s", 0.0))] if grade.get("forecast_us") else []
    said += [f"writes {grade['worst_times']:g} times normal at worst"] if grade["worst_times"] else []
    return f"{'met' if grade['met'] else 'late'}: {', '.join(said)}"


def late(off_s: float) -> str:
    return f"{span(abs(off_s))} {'later' if off_s > 0 else 'sooner'} than forecast"


def _noted(point: dict[str, Any]) -> tuple[object, ...]:
    writes = f"{point['write_us']} us" if point["write_us"] else ""
    times = f"{point['times']:g}" if point["times"] else ""
    return (
        show.when(point["at_us"]), f"{point['percent']:g} %", f"{point['mibps']:g}", writes, times, show.when(point["forecast_us"]),
    )  # fmt: skip


def _how(one: dict[str, Any]) -> list[str]:
    said = [f"only on {one['wished']}"] if one.get("wished") else []
    said += [f"disks in pool {one['pool']}"] if one.get("pool") else []
    said += ["no network"] if one.get("isolated") else []
    said += [f"for the drill {one['drill']}"] if one.get("drill") else []
    said += ["not to be started"] if not one.get("start") else []
    return said + ([f"what {one['lose']} had was given up"] if one.get("lose") else [])


@app.command("report")
def report(
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="A page that can be printed.", dir_okay=False)] = None,
    _json: AsJson = False,
) -> None:
    """How each VM is protected: what would be lost now, and how its last recovery went against what is promised."""
    found = client().get(path("recoveries", "report"))
    if html is not None:
        from services.cli.recovery_page import page

        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise Failure(USAGE, f"{html} cannot be written: {error.strerror}", "name a file in a folder that is there") from error
        show.note(f"{html}: {units.count(len(found['items']), 'VM')}")
        if not wants_json():
            return
    if wants_json():
        show.as_json(found)
        return
    show.table(HEADS, [cells(row) for row in found["items"]], "there is no VM")


HEADS = (
    "VM", "NEWEST BACKUP", "WOULD LOSE", "LAST RECOVERY", "WHEN", "RAN AFTER", "AGENT AFTER", "OWN AFTER", "LOST", "SLOWEST",
    "GRADE", "WHY", "LAST DRILL", "RTO", "RPO", "DRILL SAID",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A line of the report, as the table and the page have it."""
    name = row["vm"] + ("" if row["exists"] else " (deleted)")
    newest = f"{row['newest']} {show.when(row['newest_us'])}" if row["newest"] else ""
    as_ = f" as {row['target']}" if row["target"] not in ("", row["vm"]) else ""
    last = f"{row['recovery']}{as_} ({row['kind']}, {row['state']})" if row["recovery"] else ""
    when = show.when(row["requested_us"]) if row["requested_us"] else ""
    return (
        name, newest, span(row.get("exposed_s")), last, when, ms(row.get("first_ms")), ms(row.get("agent_ms")),
        span(row.get("home_s")), span(row.get("rpo_s")), f"{row['worst_times']:g} times normal" if row.get("worst_times") else "",
        row["grade"],
        "; ".join(filter(None, (row["said"], late(row["off_s"]) if row.get("off_s") is not None else ""))),
        *drill_cells(row),
    )  # fmt: skip
