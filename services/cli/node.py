"""`asvctl node`: the machines of the cluster."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from services.cli import show, task, units
from services.cli.client import path
from services.cli.node_drain import drain
from services.cli.session import AsJson, TimeoutS, Wait, client, wants_json

app = typer.Typer(help="The nodes: hosts that run VMs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.")]


def _state(node: dict[str, Any]) -> str:
    words = ["online" if node.get("online") else "offline"]
    words += [node["standing"]] if node.get("standing") else []
    words += [word for word in ("cordoned", "leaving") if node.get(word)]
    return ", ".join(words)


def _health(node: dict[str, Any]) -> str:
    pct, reason = node.get("health_pct", 100), node.get("health_reason")
    return "" if pct == 100 else f"{pct} %{': ' + reason if reason else ''}"


def _memory(node: dict[str, Any]) -> str:
    return units.part(node.get("reserved_mib"), node.get("capacity_mib"))


@app.command("ls")
def ls(_json: AsJson = False) -> None:
    """List nodes with what is promised of their memory."""
    found = client().items(path("nodes"))
    if wants_json():
        show.as_json(found)
        return
    rows = []
    for node in found:
        can = node.get("capabilities") or {}
        vms = node.get("vms")
        count = len(vms) if isinstance(vms, list) else vms
        rows.append(
            (
                node.get("name"),
                _state(node),
                can.get("accelerator"),
                _pcpus(can),
                _memory(node),
                count,
                node.get("address"),
            )
        )
    show.table(
        ("NAME", "STATE", "ACCELERATOR", "PCPUS", "RESERVED MEMORY", "VMS", "ADDRESS"), rows, "no nodes have joined yet"
    )


def _pcpus(can: dict[str, Any]) -> str:
    """The host's, and how many nodes they serve where these are several."""
    share = can.get("share") or 1
    return f"{can.get('pcpus', '')}" + (f" for {share} nodes" if share > 1 else "")


@app.command("show")
def show_(name: Name, _json: AsJson = False) -> None:
    """Show one node: what it can do, what is not enforced on it, and how it fares now: areas, ledger, swap, pressure."""
    from services.cli.node_memory import print_now

    api = client()
    node, memory = api.get(path("nodes", name)), api.get(path("nodes", name, "memory"))
    if wants_json():
        show.as_json(node | {"memory": memory})
        return
    can = node.get("capabilities") or {}
    show.facts(
        [
            ("name", node.get("name")),
            ("state", _state(node)),
            ("why cordoned", node.get("cordon_reason")),
            ("health", _health(node)),
            ("address", node.get("address")),
            ("memory", _memory(node)),
            ("vms", ", ".join(node["vms"]) if isinstance(node.get("vms"), list) else node.get("vms")),
            ("driver", f"{can.get('driver', '')} {can.get('qemu_version', '')}".strip()),
            ("accelerator", can.get("accelerator")),
            ("cpu model", can.get("cpu_model")),
            ("pcpus", _pcpus(can)),
            ("vcpus", f"{node['vcpus']} of at most {node['vcpus_max']}" if node.get("vcpus_max", -1) >= 0 else ""),
            ("over-allocated", node.get("over_limit")),
            ("cells", "; ".join(",".join(map(str, cell)) for cell in can.get("cells") or ())),
            ("pools", ", ".join(can.get("pools") or ())),
            ("bridges", [_bridge(b) for b in can.get("bridges") or ()]),
            ("firmware", ", ".join(can.get("firmware") or ())),
            ("hot-plug", ", ".join(can.get("hotplug") or ())),
            ("not enforced", list(can.get("not_enforced") or ())),
            ("boot id", node.get("boot_id")),
        ]
    )
    print_now(memory)


def _bridge(bridge: dict[str, Any]) -> str:
    """`lan, MTU 1500, by bond0 (bond, carries; eth0, eth1 lost)`"""
    ways = []
    for up in bridge.get("uplinks") or ():
        words = [up.get("kind", "nic"), "carries" if up.get("carrier", True) else "no carrier"]
        words += [f"{up['speed_mbps']} Mb/s"] if up.get("speed_mbps") else []
        members = ", ".join(f"{name}{'' if carries else ' lost'}" for name, carries in up.get("members") or ())
        ways.append(f"{up['name']} ({', '.join(words)}{'; ' + members if members else ''})")
    return f"{bridge['name']}, MTU {bridge.get('mtu', 1500)}, " + (f"by {', '.join(ways)}" if ways else "leads nowhere")


app.command("drain")(drain)


@app.command("cordon")
def cordon(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for those who wonder later.")] = "",
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Place no new VMs there."""
    api = client()
    accepted = api.post(path("nodes", name, "cordon"), {"reason": reason} if reason else None)
    task.finish(api, accepted, f"cordon {name}", waiting, timeout_s)


@app.command("uncordon")
def uncordon(name: Name, waiting: Wait = False, timeout_s: TimeoutS = 30.0, _json: AsJson = False) -> None:
    """Place VMs there again."""
    api = client()
    task.finish(api, api.post(path("nodes", name, "uncordon")), f"uncordon {name}", waiting, timeout_s)


@app.command("remove")
def remove(
    name: Name,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Without its agent: what that made of its host stays there.")
    ] = False,
    waiting: Wait = False,
    timeout_s: TimeoutS = 30.0,
    _json: AsJson = False,
) -> None:
    """Take an empty node out of the cluster: its agent takes its swap and control groups away, and ends."""
    api = client()
    task.finish(api, api.delete(path("nodes", name, at_once=at_once)), f"remove {name}", waiting, timeout_s)
