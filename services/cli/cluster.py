"""`asvctl cluster` and `asvctl lab`: the whole. What concerns this machine's embedded cluster is handed to its own program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import balance, cluster_set, show, units
from services.cli.client import path
from services.cli.failure import USAGE, Failure
from services.cli.session import SESSION, AsJson, client, wants_json
from services.cli.where import find

app = typer.Typer(help="The cluster as a whole.", no_args_is_help=True)
lab = typer.Typer(help="Faults on an embedded cluster, to see what it does.", no_args_is_help=True)

CHECKOUT = Path(__file__).resolve().parents[2]
Node = Annotated[str, typer.Argument(metavar="NODE", help="An embedded node, for example n2.")]


def delegate(*words: str) -> None:
    """Runs `services.cluster` with these words, and ends with its exit code."""
    SESSION.of_now(f"asvctl {' '.join(words[:2])}")
    found = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(found)}
    done = subprocess.run([sys.executable, "-m", "services.cluster", *words], env=environ, check=False)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


@app.command("status")
def status(_json: AsJson = False) -> None:
    """Health of the services, the log's position, what is not enforced."""
    found = client().get(path("cluster"))
    if wants_json():
        show.as_json(found)
    else:
        show.facts((name.replace("_", " "), value if name == "not_enforced" else _plain(value)) for name, value in found.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "ok" in value:
        return _health(value) if value["ok"] else str(value.get("error") or "not ok")
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value)
    return str(value)


def _health(service: dict[str, Any]) -> str:
    """`ok`, and what is not as it is at rest."""
    status = service.get("status") or {}
    odd = [(service.get("behind", 0), "events behind"), (status.get("orders_unheard", 0), "orders unheard")]
    odd.append((status.get("bugs", 0), "bugs"))
    said = ", ".join(f"{n} {what}" for n, what in odd if isinstance(n, int) and n > 0)
    return f"ok ({said})" if said else "ok"


@app.command("finalize")
def finalize(
    protocol: Annotated[int, typer.Option("--protocol", min=0, help="0: the newest there is.")] = 0,
    _json: AsJson = False,
) -> None:
    """After an upgrade of all nodes and services: let them write what only the new release reads. There is no way back."""
    done = client().post(path("cluster", "finalize"), {"protocol": protocol})
    if wants_json():
        show.as_json(done)
    else:
        print("All speak that protocol already." if not done.get("position") else "The cluster is finalized.")


app.command("balance")(balance.balance)
app.command("set")(cluster_set.set_)


@app.command("destroy")
def destroy(yes: Annotated[bool, typer.Option("--yes", help="Yes: all VMs, disks and the log.")] = False) -> None:
    """Stop this machine's embedded cluster and remove its state for ever."""
    if not yes:
        raise Failure(
            USAGE, "this removes all VMs, their disks and the log for ever", "say `asvctl cluster destroy --yes`"
        )
    delegate("destroy", "--yes")


@lab.command("kill")
def kill(node: Node) -> None:
    """End a node's agent and its VMs at once, as a power cut would."""
    delegate("lab", "kill", node)


@lab.command("freeze")
def freeze(
    node: Node, all: Annotated[bool, typer.Option("--all", help="Its watchdog and its VMs, too, as on a suspended host.")] = False
) -> None:
    """Stop a node's agent without ending it; its VMs run on."""
    delegate("lab", "freeze", node, *(["--all"] if all else []))


@lab.command("stall")
def stall(
    node: Node, for_: Annotated[str, typer.Option("--for", metavar="TIME", help="After that it goes on by itself.")] = "8s"
) -> None:
    """Stop a node's agent, watchdog and VMs for a while, as a host that is given no time."""
    delegate("lab", "stall", node, "--for", str(units.seconds(for_)))


@lab.command("cut")
def cut(node: Node) -> None:
    """Cut a node off the network."""
    delegate("lab", "cut", node)


@lab.command("heal")
def heal(node: Node) -> None:
    """Undo what was done to a node."""
    delegate("lab", "heal", node)


def schema(_json: AsJson = False) -> None:
    """Where the API is described; with --json the OpenAPI document itself."""
    SESSION.of_now("asvctl schema")
    where = find(os.environ, SESSION.api, SESSION.token, token_needed=False)
    if wants_json():
        from services.cli.client import Client

        show.as_json(Client(where).get("/schema/openapi.json"))
    else:
        print(f"{where.api}/schema")
