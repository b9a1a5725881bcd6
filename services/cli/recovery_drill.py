"""`asvctl recovery drill` and `drills`: whether a VM can be recovered, tried out in a VM beside it that has no network."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from services.cli import show, task
from services.cli.client import path
from services.cli.failure import USAGE, Failure
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json
from services.cli.spans import ms, span

SET_S = 30.0


def drill(
    vm: Annotated[str, typer.Argument(metavar="VM", help="Whose backup; it may have been deleted.")],
    backup: Annotated[str, typer.Option(metavar="ID", help="This one. Default: the newest that is sound.")] = "",
    check: Annotated[
        str | None, typer.Option(metavar="CMD", help="Has to exit with 0 inside, as `systemctl is-active nginx`. It is recorded.")
    ] = None,
    no_agent: Annotated[bool, typer.Option("--no-agent", help="The guest has none: that it runs on is enough.")] = False,
    within_s: Annotated[int, typer.Option("--within", metavar="SECONDS", help="It has to pass so soon.", min=10)] = 600,
    schedule: Annotated[str, typer.Option(metavar="CRON", help='Drill it by itself: "0 4 * * 0", in UTC.')] = "",
    none: Annotated[bool, typer.Option("--none", help="Drill it by itself no more.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Give up the one that goes on; what it made is removed.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Make a VM of a backup under another name and without a network, boot it, check it from inside, and remove it."""
    if sum((bool(schedule), none, cancel)) > 1 or (schedule and backup):
        said = "--schedule, --none and --cancel each say something else, and a schedule takes the newest backup"
        raise Failure(USAGE, said, "give one of them, and --backup with none")
    api = client()
    if cancel:
        task.finish(api, api.delete(path("vms", vm, "drill")), f"give the drill of {vm} up", True, SET_S)
        return
    if none:
        task.finish(api, api.delete(path("vms", vm, "drill-plan")), f"drill {vm} by itself no more", True, SET_S)
        return
    body: dict[str, Any] = {"check": words(check or ""), "timeout_s": within_s, "agent": not no_agent}
    if schedule:
        accepted = api.put(path("vms", vm, "drill-plan"), body | {"cron": schedule})
        task.finish(api, accepted, f"schedule the drills of {vm}", True, SET_S)
        return
    accepted = api.post(path("vms", vm, "drill"), body | ({"backup": backup} if backup else {}))
    task.finish(api, accepted, f"drill the recovery of {vm}", waiting, timeout_s)


def words(text: str) -> list[str]:
    """As a shell splits it, with nothing of a shell done to it. Raises Failure."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Failure(USAGE, f"the check {text!r} is no command: {error}", "close its quotes") from error


def drills(
    vm: Annotated[str, typer.Argument(metavar="[VM]", help="None: of all VMs.")] = "", _json: AsJson = False
) -> None:
    """List recovery drills, the oldest first, and when VMs are drilled by themselves."""
    found = client().get(path("drills"))
    items = [one for one in found["items"] if vm in ("", one["vm"])]
    plans = [one for one in found["plans"] if vm in ("", one["vm"])]
    if wants_json():
        show.as_json({"items": items, "plans": plans})
        return
    heads = ("VM", "ID", "RESULT", "BACKUP", "ASKED", "RAN AFTER", "AGENT AFTER", "TOOK", "RPO", "EXIT", "SAID")
    show.table(heads, [_row(one) for one in items], "there were no drills yet: asvctl recovery drill --help")
    for one in plans:
        show.note(f'{one["vm"]} is drilled at "{one["plan"]["cron"]}", next at {show.when(one["next_us"])}')


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    failed = f"{one['reason']}: {one['sentence']}" if one["reason"] else ""
    result = one["state"] + ("" if one["cleaned_us"] or not one["target"] else f" ({one['target']})")
    code = "" if one.get("exit_code") is None else one["exit_code"]
    return (
        one["vm"], one["id"], result, one["backup"], show.when(one["asked_us"]), ms(one.get("first_ms")), ms(one.get("agent_ms")),
        ms(one.get("took_ms")), span(one.get("rpo_s")), code, failed or one["last_line"],
    )  # fmt: skip


def drill_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Of a line of the report: the last drill; RTO: until its guest's agent answered, or else until it ran."""
    if not row.get("drill"):
        return "", "", "", f'planned: "{row["planned"]}"' if row.get("planned") else ""
    rto = row.get("drill_agent_ms") if row.get("drill_agent_ms") is not None else row.get("drill_first_ms")
    return f"{row['drilled']} {show.when(row['drill_us'])}", ms(rto), span(row.get("drill_rpo_s")), row.get("drill_said", "")
