"""Networks to try things in: each node of the embedded cluster gets a network namespace with a bridge `lan`, and a switch in
another namespace joins them by cables (veth). The host's own interfaces are not touched, and nothing leads out.

    n1: lan ─ up0 ══ n1 ┐
    n2: lan ─ up0 ══ n2 ┼ switch
    n3: lan ─ up0 ══ n3 ┘

Only root may make them. They stay while VMs run on without the control plane: `destroy` takes them away, and `down` where no VM
runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from services.cluster.layout import NODES

BRIDGE, UPLINK, SWITCH = "lan", "up0", "switch"
NAMESPACES = Path("/run/netns")
STEP_S_MAX = 20.0


def prefix(home: Path) -> str:
    """What the names of this cluster's namespaces begin with."""
    return f"asv-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}-"


def namespace(home: Path, node: str) -> Path | None:
    """That of a node, where it has one."""
    path = NAMESPACES / f"{prefix(home)}{node}"
    return path if path.exists() else None


def make(home: Path) -> str:
    """What is not there yet. Why there are none, in a few words; then nothing of it is left."""
    mark = prefix(home)
    if all((NAMESPACES / f"{mark}{name}").exists() for name in (*NODES, SWITCH)):
        return ""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "the program ip (iproute2) is not there"
    remove(home)
    try:
        for name in (*NODES, SWITCH):
            _ip("netns", "add", f"{mark}{name}")
        _in(mark, SWITCH, "link", "add", SWITCH, "type", "bridge")
        _in(mark, SWITCH, "link", "set", SWITCH, "up")
        for node in NODES:
            peer = ("peer", "name", UPLINK, "netns", f"{mark}{node}")
            _in(mark, SWITCH, "link", "add", node, "type", "veth", *peer)
            _in(mark, SWITCH, "link", "set", node, "master", SWITCH, "up")
            _in(mark, node, "link", "add", BRIDGE, "type", "bridge")
            _in(mark, node, "link", "set", UPLINK, "master", BRIDGE, "up")
            _in(mark, node, "link", "set", BRIDGE, "up")
    except (subprocess.SubprocessError, OSError) as error:
        remove(home)
        said = getattr(error, "stderr", b"") or b""
        return said.decode(errors="replace").strip() or str(error)
    return ""


def remove(home: Path) -> None:
    """All of this cluster's, with the interfaces in them."""
    for path in sorted(NAMESPACES.glob(f"{prefix(home)}*")):
        subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True, timeout=STEP_S_MAX)


def said(home: Path) -> str:
    """For a status page."""
    if namespace(home, NODES[0]) is None:
        return "none of its own (only root may make network namespaces)"
    return f"a bridge `{BRIDGE}` on each node, joined: asvctl network create NAME --bridge {BRIDGE}"


def _in(mark: str, name: str, *words: str) -> None:
    _ip("-n", f"{mark}{name}", *words)


def _ip(*words: str) -> None:
    """Raises CalledProcessError, TimeoutExpired, OSError."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=STEP_S_MAX)
