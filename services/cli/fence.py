"""`asvctl ha fence`: what cuts a node's power."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import show, task
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Fence devices: what cuts a node's power, and says whether it is off.", no_args_is_help=True)

Node = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]
KINDS = ("redfish", "ipmi", "docker", "simulated")


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List fence devices, and whether what they say is believed."""
    found = client().items(path("ha", "fences"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (
            f["node"], f["kind"], f"{f['address']} {f.get('system') or ''}".rstrip(), f["state"], f.get("power"),
            show.when(f["tested_us"]) if f.get("tested_us") else "never", f.get("sentence"),
        )
        for f in found
    ]  # fmt: skip
    heads = ("NODE", "KIND", "ADDRESS", "STATE", "POWER", "TESTED", "WHY")
    show.table(heads, rows, "no fence devices yet: `asvctl ha fence set --help`")


@app.command("show")
def show_(node: Node, _json: AsJson = False) -> None:
    """Show a node's fence device, and how it stands."""
    f = client().get(path("ha", "fences", node))
    if wants_json():
        show.as_json(f)
        return
    tls = "not checked" if f.get("insecure") else "by certificates of its own" if f.get("own_ca") else ""
    show.facts([
        ("node", f["node"]),
        ("kind", f["kind"]),
        ("address", f["address"]),
        ("system", f.get("system")),
        ("user", f.get("user")),
        ("TLS", tls),
        ("cipher", f.get("cipher") or ""),
        ("a call takes", f"at most {f.get('call_s') or 0:g} s"),
        ("state", f["state"]),
        ("why", f.get("sentence")),
        ("what helps", f.get("remedy")),
        ("power", f.get("power")),
        ("machine", f.get("identity")),
        ("tested", show.when(f["tested_us"]) if f.get("tested_us") else "never"),
        ("attempts", f.get("attempt") or ""),
        ("the last one failed", f.get("failed")),
    ])  # fmt: skip


@app.command("set")
def set_(
    node: Node,
    kind: Annotated[str, typer.Option(help="redfish, ipmi, docker (or simulated, for simulated nodes).")],
    address: Annotated[str, typer.Option(help="https://BMC, BMC[:PORT] for ipmi, unix:///run/docker.sock for docker.")],
    system: Annotated[str, typer.Option(help="Which machine there: a Redfish system's id, a container's name.")] = "",
    user: Annotated[str, typer.Option(help="Who it is asked as.")] = "",
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Its password; - for stdin. Else it is asked for.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificates (PEM) to check its TLS by.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check its TLS, or do without.")] = False,
    cipher: Annotated[int, typer.Option(min=0, max=19, help="IPMI: the cipher suite, as 17; 0: as the BMC offers.")] = 0,
    call: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, max=30, help="How long one question may take.")] = 3.0,
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Give a node a fence device. It is tested at once, without switching anything."""
    if kind not in KINDS:
        raise typer.BadParameter(f"`{kind}` is none of {', '.join(KINDS)}")
    body: dict[str, Any] = {
        "kind": kind, "address": address, "system": system, "user": user, "insecure": insecure, "cipher": cipher, "call_s": call,
        "ca": _text(ca, "the certificates") if ca is not None else "", "password": _password(user, password_file),
    }  # fmt: skip
    api = client()
    task.finish(api, api.post(path("ha", "fences", node), body), f"fence device of {node}", waiting, timeout_s)


def _password(user: str, file: Path | None) -> str:
    """Never from the command line, where others could read it."""
    if file is not None:
        return (sys.stdin.read() if str(file) == "-" else _text(file, "the password")).rstrip("\r\n")
    if not user:
        return ""
    if not sys.stdin.isatty():
        raise typer.BadParameter("a user needs a password: give --password-file FILE, or - for stdin")
    return getpass.getpass(f"password of {user}: ")


def _text(file: Path, what: str) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise typer.BadParameter(f"{what} cannot be read from {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is no text, so it holds not {what}") from error


@app.command("test")
def test(node: Node, waiting: Wait = True, timeout_s: TimeoutS = 30.0, _json: AsJson = False) -> None:
    """Test a node's fence device now: nothing is switched."""
    api = client()
    task.finish(api, api.post(path("ha", "fences", node, "test")), f"test of {node}'s fence device", waiting, timeout_s)


@app.command("rm")
def rm(node: Node, waiting: Wait = False, timeout_s: TimeoutS = 30.0, _json: AsJson = False) -> None:
    """Take a node's fence device away."""
    api = client()
    task.finish(api, api.delete(path("ha", "fences", node)), f"fence device of {node}", waiting, timeout_s)


@app.command("off")
def off(
    node: Node,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: all that runs there ends at once.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for those who read the log.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 60.0,
    _json: AsJson = False,
) -> None:
    """Cut a node's power, hard. Once it is confirmed off, what it ran is started elsewhere."""
    if not yes:
        raise typer.BadParameter(f"this ends all that runs on {node} at once, as if its plug were pulled: say --yes")
    api = client()
    accepted = api.post(path("ha", "fences", node, "off"), {"reason": reason})
    task.finish(api, accepted, f"power of {node}", waiting, timeout_s)


@app.command("on")
def on(node: Node, waiting: Wait = False, timeout_s: TimeoutS = 60.0, _json: AsJson = False) -> None:
    """Switch a node on by its fence device."""
    api = client()
    task.finish(api, api.post(path("ha", "fences", node, "on")), f"power of {node}", waiting, timeout_s)
