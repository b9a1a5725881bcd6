"""`asvctl backup schedule`: when a VM is backed up by itself, when its backups are read again, which are kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from services.cli import show, task
from services.cli.client import path
from services.cli.failure import USAGE, Failure
from services.cli.session import AsJson, client, wants_json

TIMEOUT_S = 30.0
NEVER = "never"


class Freeze(StrEnum):
    AUTO = "auto"
    NO = "no"
    REQUIRE = "require"


Count = int | None


def schedule(
    vm: Annotated[str, typer.Argument(metavar="VM", help="The VM's name.")],
    cron: Annotated[
        str | None, typer.Option(metavar="TIMES", help='Minute, hour, day, month, weekday, in UTC: "0 2 * * *".')
    ] = None,
    pool: Annotated[str | None, typer.Option(metavar="POOL", help="Where they are to lie.")] = None,
    keep_last: Annotated[Count, typer.Option(min=0, help="Keep the newest so many.")] = None,
    keep_daily: Annotated[Count, typer.Option(min=0, help="Keep one of each of so many days …")] = None,
    keep_weekly: Annotated[Count, typer.Option(min=0, help="… weeks …")] = None,
    keep_monthly: Annotated[Count, typer.Option(min=0, help="… and months. Nothing said: all are kept.")] = None,
    verify: Annotated[str | None, typer.Option(metavar="TIMES", help="Read them all again then; `never`.")] = None,
    full_every: Annotated[Count, typer.Option(min=1, help="Of so many in a row one is full.")] = None,
    freeze: Annotated[Freeze | None, typer.Option(help="Whether the guest is to hold its file systems still.")] = None,
    rate: Annotated[Count, typer.Option(metavar="MIB/S", min=0, help="Read its disks no faster; 0: no limit.")] = None,
    compress: Annotated[bool | None, typer.Option("--compress/--no-compress", help="By zstd.")] = None,
    encrypt: Annotated[bool | None, typer.Option("--encrypt/--no-encrypt", help="By the key that there is, or …")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="… by this one: a name or an id.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Back it up by itself no more; what was taken stays.")] = False,
    _json: AsJson = False,
) -> None:
    """Set when a VM is backed up by itself, or show it where nothing is said. What is not said stays."""
    asked: dict[str, Any] = {
        "cron": cron, "pool": pool, "keep_last": keep_last, "keep_daily": keep_daily, "keep_weekly": keep_weekly,
        "keep_monthly": keep_monthly, "verify": "" if verify == NEVER else verify, "full_every": full_every,
        "freeze": freeze and freeze.value, "rate_mibps": rate, "compress": compress,
        "encrypt": True if key else encrypt, "key": "" if encrypt is False else key,
    }  # fmt: skip
    said = {field: value for field, value in asked.items() if value is not None}
    if none and said:
        raise Failure(USAGE, "--none says that there is to be no schedule, other options how it is to be", "give one or the other")
    api, where = client(), path("vms", vm, "backup-plan")
    if none:
        task.finish(api, api.delete(where), f"back {vm} up by itself no more", True, TIMEOUT_S)
        return
    found = api.get(where)
    if not said:
        _show(found)
        return
    body = {**(found.get("plan") or {}), **said}
    if missing := [option for option in ("cron", "pool") if not body.get(option)]:
        options = " and ".join(f"--{option}" for option in missing)
        remedy = 'for instance: --cron "0 2 * * *" --pool POOL'
        raise Failure(USAGE, f"{vm} has no schedule yet, and a new one needs {options}", remedy)
    task.finish(api, api.put(where, body), f"schedule the backups of {vm}", True, TIMEOUT_S)


def _show(found: dict[str, Any]) -> None:
    if wants_json():
        show.as_json(found)
        return
    show.facts([("vm", found["vm"]), *facts(found)])


def facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    """As GET /v1/vms/VM/backup-plan has it."""
    plan = found.get("plan")
    if not plan:
        return [("schedule", "none; asvctl backup schedule --help")]
    kept = [f"{plan[f'keep_{what}']} {what}" for what in ("last", "daily", "weekly", "monthly") if plan.get(f"keep_{what}")]
    how = [f"freeze {plan['freeze']}"] if plan.get("freeze", "auto") != "auto" else []
    how += [f"at most {plan['rate_mibps']} MiB/s"] if plan.get("rate_mibps") else []
    how += ["zstd"] if plan.get("compress") else []
    how += [f"encrypted{f' by {plan['key']}' if plan.get('key') else ''}"] if plan.get("encrypt") or plan.get("key") else []
    verify = plan.get("verify")
    return [
        ("taken at", f"{plan['cron']} (UTC)" + ("" if found["exists"] else "; the VM is not there")),
        ("next", show.when(found["next_us"]) if found.get("next_us") else ""),
        ("into pool", plan.get("pool", "default")),
        ("how", ", ".join(how)),
        ("full", f"one of {plan['full_every']}" if plan.get("full_every") else ""),
        ("kept", ", ".join(kept) or "all"),
        ("verified at", (f"{verify} (UTC)" + (f", next {show.when(found['verify_us'])}" if found.get("verify_us") else ""))
         if verify else NEVER),
        ("last was due", show.when(found["last_us"]) if found.get("last_us") else ""),
        ("put off", put_off(found.get("put_off"))),
        ("waiting", found.get("waiting") or ""),
    ]  # fmt: skip


def put_off(one: dict[str, Any] | None) -> str:
    if not one:
        return ""
    what = "deleting what is kept no more" if one["chore"] == "delete" else f"what was due at {show.when(one['due_us'])}"
    return f"{what} failed {one['failures']} times, again at {show.when(one['until_us'])}: {one['sentence']}"


def line(found: dict[str, Any] | None) -> str:
    """Below a list of backups: `web-1 is backed up at 0 2 * * * (UTC), next …`; empty: there is no schedule."""
    if not found or not found.get("plan"):
        return ""
    coming = f", next {show.when(found['next_us'])}" if found.get("next_us") else ""
    failed = f"; {put_off(found['put_off'])}" if found.get("put_off") else ""
    waits = f"; waiting: {found['waiting']}" if found.get("waiting") else ""
    return f"{found['vm']}: backed up at {found['plan']['cron']} (UTC){coming}{failed}{waits}"
