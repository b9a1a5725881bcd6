"""`asvctl vm recover`: a VM made anew from a backup, running at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import task
from services.cli.backup import progress
from services.cli.client import Client, path
from services.cli.failure import USAGE, Failure
from services.cli.moment import zoned
from services.cli.session import AsJson, TimeoutS, Wait, client


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
    timeout_s: TimeoutS = 300.0,
    _json: AsJson = False,
) -> None:
    """Make a VM anew from a backup and start it; its data comes home while it runs. --wait: until it runs."""
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
    task.finish(api, accepted, said, waiting, timeout_s, lambda: _state(api, name, id))


def _state(api: Client, source: str, id: str) -> str:
    """For the progress line."""
    if not id:
        return ""
    found: dict[str, Any] = api.get(path("recoveries", f"{source}.{id}"))
    far = progress(found.get("progress"))
    return f" [{found['recovery']['state']}{f': {far}' if far else ''}]"
