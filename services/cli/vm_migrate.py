"""`asvctl vm migrate`: a running VM goes to another node."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import task, units
from services.cli.client import path
from services.cli.failure import Failure
from services.cli.session import AsJson, TimeoutS, Wait, client
from services.cli.vm_show import migrating


def migrate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The VM's name.")],
    node: Annotated[str, typer.Option("--node", "--to", metavar="NODE", help="Only there; else where it fits best.")] = "",
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="How long its memory may take to be sent before it stays: 10m, 1h.")
    ] = "10m",
    cancel: Annotated[bool, typer.Option("--cancel", help="Let it stay where it is.")] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 900.0,
    _json: AsJson = False,
) -> None:
    """Move a running VM to another node; it runs meanwhile."""
    api = client()
    if cancel:
        accepted = api.post(path("vms", name, "migrate", "cancel"))
        task.finish(api, accepted, f"cancel the migration of {name}", waiting, timeout_s)
        return

    def more() -> str:
        try:
            vm = api.get(path("vms", name))
        except Failure:
            return ""
        return f" ({migrating(vm)})" if vm.get("sending") else ""

    accepted = api.post(path("vms", name, "migrate"), {"node": node, "deadline_s": units.seconds(deadline)})
    task.finish(api, accepted, f"migrate {name}", waiting, timeout_s, more)
