"""The networks of an embedded cluster's nodes: made, found again, and taken away without a trace."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cluster import apart, networks
from services.cluster.layout import NODES
from services.node.host import network
from services.node.host.netns import NetworkRoom


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    if why := networks.make(tmp_path):
        pytest.skip(f"no networks can be made here: {why}")
    yield tmp_path
    networks.remove(tmp_path)


def names() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_each_node_has_a_bridge_that_leads_out(home: Path) -> None:
    before = names()
    for node in NODES:
        path = networks.namespace(home, node)
        assert path is not None
        room = NetworkRoom(path)
        (lan,) = room.call(network.bridges)
        assert (lan.name, [(up.name, up.kind) for up in lan.uplinks]) == ("lan", [("up0", "veth")])
        assert names() == before, "another thread sees the host's own"
        room.close()
    assert networks.make(home) == "", "they are there"
    assert "lan" in networks.said(home)


def test_they_go_without_a_trace_and_the_hosts_own_stay(home: Path) -> None:
    before = names()
    networks.remove(home)
    assert networks.namespace(home, NODES[0]) is None and "none" in networks.said(home)
    listed = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout
    assert networks.prefix(home) not in listed and names() == before
    networks.remove(home)


def test_half_made_ones_are_made_anew(home: Path) -> None:
    subprocess.run(["ip", "netns", "del", f"{networks.prefix(home)}{NODES[1]}"], check=True)
    assert networks.make(home) == "" and networks.namespace(home, NODES[1]) is not None


def heard(home: Path, node: str, port: int, wait_s: float) -> bool:
    """Whether somebody in the node's namespace reaches the hub."""

    def dial() -> bool:
        try:
            socket.create_connection((apart.HUB, port), wait_s).close()
        except OSError:
            return False
        return True

    path = networks.namespace(home, node)
    room = NetworkRoom(path)
    try:
        return room.call(dial)
    finally:
        room.close()


def test_a_node_apart_reaches_the_hub_by_its_cable_until_that_is_pulled(home: Path) -> None:
    apart.make(home)
    apart.make(home)  # they are there
    with apart.listening(home, 4222) as hub:
        assert hub.getsockname() == (apart.HUB, 4222)
        assert heard(home, "n1", 4222, 2.0) and heard(home, "n2", 4222, 2.0)
        apart.plug(home, "n1", False)
        assert not heard(home, "n1", 4222, 0.2) and heard(home, "n2", 4222, 2.0)
        apart.plug(home, "n1", True)
        assert heard(home, "n1", 4222, 2.0)
    with pytest.raises(FileNotFoundError, match="namespace"):
        apart.listening(home / "another", 4222)
