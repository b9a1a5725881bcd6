"""`asvctl network`: what NICs are put into."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="Networks: a bridge of the nodes, and a VLAN on it.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NETWORK", help="The network's name, a DNS label.")]
Mtu = Annotated[int, typer.Option(min=0, max=9216, help="What guests are told, in bytes; 0: nothing, they take 1500.")]
Vlan = Annotated[int, typer.Option(min=0, max=4094, help="Its VLAN on the bridge; 0: untagged.")]
VMS_NAMED_MAX = 20


def _vlan(network: dict[str, Any]) -> object:
    return network.get("vlan") or "untagged"


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List networks. `user`, which isolates a VM, is always there and not listed."""
    found = client().items(path("networks"))
    if wants_json():
        show.as_json(found)
        return
    rows = [
        (n["name"], n["bridge"], _vlan(n), n.get("mtu") or "", "yes" if n.get("trusted") else "", ", ".join(n["nodes"]),
         len(n["vms"]), n.get("description"))
        for n in found
    ]  # fmt: skip
    heads = ("NAME", "BRIDGE", "VLAN", "MTU", "TRUSTED", "NODES", "VMS", "WHAT FOR")
    show.table(heads, rows, "no networks yet: `asvctl network create --help`")


@app.command("show")
def show_(name: Name, _json: AsJson = False) -> None:
    """Show one network: which nodes have it, why others have not, whose NICs are in it."""
    n = client().get(path("networks", name))
    if wants_json():
        show.as_json(n)
        return
    show.facts(
        [
            ("name", n["name"]),
            ("what for", n.get("description")),
            ("bridge", n["bridge"]),
            ("vlan", _vlan(n)),
            ("mtu", n.get("mtu") or "not told to guests"),
            ("guests may send as", "anyone (trusted)" if n.get("trusted") else "their own MAC address only"),
            ("nodes", ", ".join(n["nodes"]) or "none has it"),
            ("faults", [f"{node}: {said}" for node, all in sorted((n.get("faults") or {}).items()) for said in all]),
            ("without it", [f"{node}: {said}" for node, said in sorted((n.get("without") or {}).items())]),
            ("vms", _named(n["vms"])),
        ]
    )


def _named(vms: list[str]) -> str:
    more = len(vms) - VMS_NAMED_MAX
    return ", ".join(vms[:VMS_NAMED_MAX]) + (f" and {units.count(more, 'more')}" if more > 0 else "")


@app.command("create")
def create(
    name: Name,
    bridge: Annotated[str, typer.Option(help="The bridge on which it lies, of that name on each node.")],
    vlan: Vlan = 0,
    mtu: Mtu = 0,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Guests may use foreign MAC addresses (routers, nested virtualization).")
    ] = False,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Create a network on a bridge that nodes have; bridges are the host administrator's (`asvctl node show`)."""
    api = client()
    body = {"name": name, "bridge": bridge, "vlan": vlan, "mtu": mtu, "trusted": trusted, "description": description}
    task.finish(api, api.post(path("networks"), body), f"create network {name}", waiting, timeout_s)


@app.command("set")
def set_(
    name: Name,
    bridge: Annotated[str | None, typer.Option(help="Another bridge.")] = None,
    vlan: Annotated[int | None, typer.Option(min=0, max=4094, help="Another VLAN; 0: untagged.")] = None,
    mtu: Annotated[int | None, typer.Option(min=0, max=9216, help="Another MTU; 0: guests are told none.")] = None,
    trusted: Annotated[bool | None, typer.Option("--trusted/--not-trusted", help="As for create.")] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Change a network. VMs that run keep it as it was until their next start or move."""
    body = {"bridge": bridge, "vlan": vlan, "mtu": mtu, "trusted": trusted, "description": description}
    api = client()
    accepted = api.patch(path("networks", name), {key: value for key, value in body.items() if value is not None})
    task.finish(api, accepted, f"set network {name}", waiting, timeout_s)


@app.command("delete")
def delete(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 30.0, _json: AsJson = False) -> None:
    """Delete a network that no NIC is in."""
    api = client()
    task.finish(api, api.delete(path("networks", name)), f"delete network {name}", waiting, timeout_s)
