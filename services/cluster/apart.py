"""Nodes apart (`up --apart`, root only): each node's processes live in its network namespace (networks.py), and reach bus and API
by a cable of their own, which `lab cut` pulls: nothing is reset, nothing is answered, as where a switch died.

    n1: ctl0 10.193.0.1 ══ ctl-n1 ┐
    n2: ctl0 10.193.0.2 ══ ctl-n2 ┼ control 10.193.0.254, in the switch's namespace: there the supervisor listens for both
    n3: ctl0 10.193.0.3 ══ ctl-n3 ┘
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.cluster.layout import NODES
from services.cluster.networks import STEP_S_MAX, SWITCH, namespace

CABLE, CONTROL = "ctl0", "control"
HUB = "10.193.0.254"


def address(node: str) -> str:
    return f"10.193.0.{NODES.index(node) + 1}"


def make(home: Path) -> None:
    """The cables, where they are not there yet; the namespaces are. Raises subprocess.SubprocessError, OSError."""
    switch = _name(home, SWITCH)
    if not _there(switch, CONTROL):
        _ip("-n", switch, "link", "add", CONTROL, "type", "bridge")
        _ip("-n", switch, "address", "add", f"{HUB}/24", "dev", CONTROL)
        _ip("-n", switch, "link", "set", CONTROL, "up")
        _ip("-n", switch, "link", "set", "lo", "up")
    for node in NODES:
        inside, port = _name(home, node), f"ctl-{node}"
        if not _there(inside, CABLE):
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", CABLE, "netns", inside)
            _ip("-n", switch, "link", "set", port, "master", CONTROL, "up")
            _ip("-n", inside, "address", "add", f"{address(node)}/24", "dev", CABLE)
            _ip("-n", inside, "link", "set", "lo", "up")
        plug(home, node, True)


def plug(home: Path, node: str, plugged: bool) -> None:
    """A node's cable. Raises subprocess.SubprocessError, OSError."""
    _ip("-n", _name(home, node), "link", "set", CABLE, "up" if plugged else "down")


def listening(home: Path, port: int) -> socket.socket:
    """A socket that hears the nodes. Raises OSError."""
    inside = namespace(home, SWITCH)
    if inside is None:
        raise FileNotFoundError(f"the cluster in {home} has no namespace of its switch")
    with ThreadPoolExecutor(1, "switch") as thread:  # that thread alone goes there, and ends
        return thread.submit(_listening, inside, port).result()


def _listening(inside: Path, port: int) -> socket.socket:
    enter(inside)
    heard = socket.create_server((HUB, port), backlog=64)
    heard.setblocking(False)
    return heard


def enter(inside: Path) -> None:
    """This thread lives in that network namespace from now on. Raises OSError."""
    with inside.open("rb") as file:
        os.setns(file.fileno(), os.CLONE_NEWNET)


class Cable:
    """A node's, as a line that can be cut (cut.py)."""

    def __init__(self, home: Path, node: str) -> None:
        self._home, self._node = home, node

    async def heal(self) -> None:
        await asyncio.to_thread(plug, self._home, self._node, True)

    async def cut(self) -> None:
        await asyncio.to_thread(plug, self._home, self._node, False)


def _name(home: Path, node: str) -> str:
    path = namespace(home, node)
    if path is None:
        raise FileNotFoundError(f"{node} has no network namespace")
    return path.name


def _there(inside: str, interface: str) -> bool:
    found = subprocess.run(["ip", "-n", inside, "link", "show", interface], check=False, capture_output=True, timeout=STEP_S_MAX)
    return found.returncode == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=STEP_S_MAX)
