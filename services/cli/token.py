"""`asvctl token`: who may do what. A secret is shown once, on stdout, and kept nowhere here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, units
from services.cli.client import path
from services.cli.session import AsJson, client, wants_json

app = typer.Typer(help="Access tokens and join tokens.", no_args_is_help=True)

Expires = Annotated[str, typer.Option(metavar="TIME", help="Valid for 12h, 30d; 0: for ever.")]


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List tokens; never their secrets."""
    found = client().items(path("tokens"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            t.get("id"),
            t.get("name"),
            t.get("role"),
            ", ".join(t.get("projects") or ()),
            show.when(t.get("expires_us")) if t.get("expires_us") else "never",
            "revoked" if t.get("revoked") else "",
        )
        for t in found
    ]
    show.table(("ID", "NAME", "ROLE", "PROJECTS", "EXPIRES", "STATE"), rows, "no tokens")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    project: Annotated[list[str] | None, typer.Option(help="A project it sees; may be repeated. Default: all.")] = None,
    expires: Expires = "30d",
    _json: AsJson = False,
) -> None:
    """Make a token and show its secret, once."""
    body = {"name": name, "role": role, "projects": project or ["*"], "expires_s": units.seconds(expires)}
    _secret(client().post(path("tokens"), body), "keep it: it is not shown again")


@app.command("join")
def join(expires: Expires = "1h", _json: AsJson = False) -> None:
    """Make a one-time token by which a node's agent joins."""
    _secret(
        client().post(path("tokens", "join"), {"expires_s": units.seconds(expires)}), "one node can join with it, once"
    )


def _secret(made: dict[str, Any], remark: str) -> None:
    if wants_json():
        show.as_json(made)
        return
    print(made.get("token") or made.get("secret") or "")
    show.note(f"{made['id']}: {remark}" if made.get("id") else remark)


@app.command("revoke")
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `token ls` shows it.")], _json: AsJson = False
) -> None:
    """Make a token worthless."""
    answer = client().delete(path("tokens", id))
    if wants_json():
        show.as_json(answer)
    else:
        print(f"{id} is revoked")
