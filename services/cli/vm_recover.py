"""`asvctl vm recover`: a VM made anew from a backup, running at once."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from services.cli import show, task
from services.cli.backup import progress
from services.cli.client import Client, path
from services.cli.failure import REFUSED, UNREACHABLE, USAGE, Failure
from services.cli.moment import zoned
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json
from services.cli.spans import ms, span


def recover(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose backup; it may have been deleted.")],
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="The newest backup not after it: '2026-11-20 14:03', -2h, a position.")
    ] = "",
    backup: Annotated[str, typer.Option(metavar="ID", help="This one. Default: the newest; a damaged one is refused.")] = "",
    as_: Annotated[str, typer.Option("--as", metavar="NEW", help="Under another name, which is free.")] = "",
    node: Annotated[str, typer.Option(metavar="NODE", help="On this node or nowhere.")] = "",
    pool: Annotated[str, typer.Option(metavar="POOL", help="Where its disks are to lie. Default: where they lay.")] = "",
    no_start: Annotated[bool, typer.Option("--no-start", help="Only make it.")] = False,
    isolated: Annotated[bool, typer.Option("--isolated", help="None of its NICs has a link.")] = False,
    rate: Annotated[
        int, typer.Option(metavar="MIB/S", help="Copy the data of each disk no faster; 0: as the guest lets it.", min=0)
    ] = 0,
    lose: Annotated[str, typer.Option(metavar="NAME", help="The VM that is there and stopped: what it wrote since is lost.")] = "",
    waiting: Wait = False,
    home: Annotated[bool, typer.Option("--wait-independent", help="Wait until it stands on the backup no more.")] = False,
    timeout_s: TimeoutS = 3600.0,
    _json: AsJson = False,
) -> None:
    """Make a VM anew from a backup and start it; its data comes home while it runs. --wait: until it runs."""
    if home and no_start:
        raise Failure(USAGE, "what is not started does not come home by itself", "leave out --no-start, or --wait-independent")
    if at and backup:
        raise Failure(USAGE, "--at and --backup each say which backup", "give one of them, or none")
    body = {
        "at": zoned(at), "as": as_, "node": node, "pool": pool, "start": not no_start, "isolated": isolated,
        "lose": lose, "rate_mibps": rate,
    }  # fmt: skip
    api = client()
    accepted = api.post(path("vms", name, "recover"), body | ({"backup": backup} if backup else {}))
    id, target = str(accepted.get("recovery") or ""), as_ or name
    said = f"recover {target}" + (f" from {name}" if target != name else "") + (f" ({id})" if id else "")
    if not home:
        task.finish(api, accepted, said, waiting, timeout_s, lambda: _state(api, name, id))
        return
    began = time.monotonic()
    ended = task.wait(api, str(accepted["task"]), timeout_s, said, lambda: _state(api, name, id))
    one = until_home(api, ended["id"], f"{name}.{id}" if id else "", said, began + timeout_s)
    if wants_json():
        show.as_json(one)
    else:
        print(f"{target} stands on its own: {_figures(one)}")


def until_home(api: Client, id: str, key: str, what: str, end_s: float) -> dict[str, Any]:
    """The recovery of that task (key: `SOURCE.ID`, empty: not known yet), once it stands on no backup. Raises Failure: refused
    where it never will, unreachable when the time (time.monotonic) is over."""
    line = show.Progress(what)
    try:
        while True:
            found: dict[str, Any] = api.get(path("recoveries", key)) if key else _of_task(api, id)
            one: dict[str, Any]
            one, key = found["recovery"], f"{found['recovery']['source']}.{found['recovery']['id']}"
            if one["state"] == "independent":
                return one
            if one["state"] in ("refused", "gone", "waiting"):
                said = one["sentence"] or "it was deleted before it stood on its own"
                raise Failure(REFUSED, f"{what}: {one['state']}: {said}", "see asvctl recovery show", {"task": id})
            line.step(_far(one, found.get("progress")))
            if time.monotonic() > end_s:
                raise Failure(UNREACHABLE, f"{what}: not home in time; it is {one['state']}", "it goes on without you")
            time.sleep(task.POLL_S)
    finally:
        line.end()


def _of_task(api: Client, id: str) -> dict[str, Any]:
    """Its task is over, so that the views have it."""
    return next(found for found in reversed(api.items(path("recoveries"))) if found["recovery"]["task"] == id)


def _far(one: dict[str, Any], told: dict[str, Any] | None) -> str:
    """`copying: 40 % (400 of 1000 MiB), 120 MiB/s, to be done at …`."""
    far = progress(told)
    return str(one["state"]) + (f": {far}" if far else f": {one['sentence']}" if one.get("sentence") else "")


def _figures(one: dict[str, Any]) -> str:
    said = [f"it ran after {ms(one['first_ms'])}"] if one.get("first_ms") is not None else []
    said += [f"its agent answered after {ms(one['agent_ms'])}"] if one.get("agent_ms") is not None else []
    return ", ".join([*said, f"all was home after {span(one['home_s'])}"])


def _state(api: Client, source: str, id: str) -> str:
    """For the progress line."""
    if not id:
        return ""
    found: dict[str, Any] = api.get(path("recoveries", f"{source}.{id}"))
    far = progress(found.get("progress"))
    return f" [{found['recovery']['state']}{f': {far}' if far else ''}]"
