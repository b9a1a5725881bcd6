"""`asvctl backup key`: the keys by which backups are encrypted. They are made here, kept in a file of yours, and given to nodes
sealed, so that nothing in between can read them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from services.cli import show
from services.cli.client import Client, path
from services.cli.failure import REFUSED, USAGE, Failure
from services.cli.session import AsJson, client, wants_json

if TYPE_CHECKING:
    from libs.common.backup_key import BackupKey

app = typer.Typer(help="Keys by which backups are encrypted.", no_args_is_help=True)
TIMEOUT_S = 60.0
KEEP = "keep this file where it outlives the cluster: without the key a backup can never be read again"

Node = Annotated[list[str] | None, typer.Option("--node", metavar="NODE", help="Only that one; may be said several times.")]


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and dashes: main.")],
    file: Annotated[Path | None, typer.Option(help="Where it is kept; as nothing is said: here, NAME-….key.")] = None,
    node: Node = None,
    _json: AsJson = False,
) -> None:
    """Make a key, keep it in a file, and give it to all nodes."""
    from libs.common import backup_key

    try:
        key = backup_key.make(name)
    except ValueError as bad:
        raise Failure(USAGE, str(bad)) from None
    api = client()
    found = api.get(path("backup-keys"))
    if there := [one["id"] for one in found["items"] if one["id"].rpartition("-")[0] == name]:
        remedy = "take another name, or give that one to more nodes: asvctl backup key give FILE"
        raise Failure(REFUSED, f"there is a key {name} already: {', '.join(there)}", remedy)
    at = file or Path(f"{key.id}.key")
    try:
        backup_key.save(at, key)
    except OSError as error:
        raise Failure(REFUSED, f"the key cannot be kept in {at}: {error.strerror or error}; it was given to nobody") from error
    _give(api, found, key, node, at)


@app.command("give")
def give(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `new` made it.")], node: Node = None, _json: AsJson = False
) -> None:
    """Give a key that you have to nodes: to all, or to those that are named."""
    from libs.common import backup_key

    try:
        key = backup_key.load(file)
    except backup_key.BadBackupKey as bad:
        raise Failure(USAGE, str(bad)) from None
    api = client()
    _give(api, api.get(path("backup-keys")), key, node, file)


def _give(api: Client, found: dict[str, Any], key: BackupKey, only: list[str] | None, at: Path) -> None:
    from libs.common import backup_key

    seals = {one["node"]: one["seal"] for one in found["nodes"] if not only or one["node"] in only}
    if missing := sorted(set(only or ()) - seals.keys()):
        raise Failure(REFUSED, f"there is no node {missing[0]}", "see asvctl node ls")
    sealed, failed = {}, []
    for name, seal in sorted(seals.items()):
        try:
            sealed[name] = base64.b64encode(backup_key.seal(key, name, seal)).decode()
        except backup_key.BadBackupKey as bad:
            failed.append({"node": name, "error": str(bad)})
    told = api.post(path("backup-keys"), {"id": key.id, "sealed": sealed}, timeout_s=TIMEOUT_S) if sealed else {"items": []}
    _say({"id": key.id, "file": str(at), "items": [*told["items"], *failed]}, "has", str(at))


def _say(told: dict[str, Any], what: str, file: str = "") -> None:
    """Raises Failure where a node did not do it."""
    failed = [one for one in told["items"] if one["error"]]
    if wants_json():
        show.as_json(told)
    else:
        done = [one["node"] for one in told["items"] if not one["error"]]
        show.facts([("key", told["id"]), ("file", file), (what, ", ".join(done) or "no node")])
        if file:
            show.note(KEEP)
    if failed:
        remedy = f"once it is there: asvctl backup key give {file} --node {failed[0]['node']}" if file else "ask again"
        raise Failure(REFUSED, "; ".join(f"{one['node']}: {one['error']}" for one in failed), remedy)


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List the keys, which nodes have them, and how many backups need them."""
    found = client().get(path("backup-keys"))
    if wants_json():
        show.as_json(found)
        return
    all_nodes = [one["node"] for one in found["nodes"]]
    rows = [(one["id"], ", ".join(one["nodes"]), _lack(one, all_nodes), one["backups"]) for one in found["items"]]
    show.table(("ID", "NODES", "NOT ON", "BACKUPS"), rows, "there are no keys yet: asvctl backup key new main")


def _lack(one: dict[str, Any], nodes: list[str]) -> str:
    return ", ".join(sorted(set(nodes) - set(one["nodes"])))


@app.command("drop")
def drop(
    key: Annotated[str, typer.Argument(metavar="ID", help="As `ls` shows it.")],
    node: Annotated[str, typer.Option(metavar="NODE", help="Only that one forgets it.")] = "",
    lose: Annotated[str, typer.Option(metavar="ID", help="It is the last, and backups need it: name it again.")] = "",
    _json: AsJson = False,
) -> None:
    """Let nodes forget a key. Your file of it stays."""
    query = urlencode({word: value for word, value in (("node", node), ("lose", lose)) if value})
    _say(client().delete(path("backup-keys", key) + (f"?{query}" if query else "")), "forgotten by")
