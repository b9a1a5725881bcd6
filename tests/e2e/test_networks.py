"""Two VMs on two nodes in one network talk; one in another does not; and what a newcomer is told on the way."""

from __future__ import annotations

import pytest

from services.cluster import networks
from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import guest

TINY = ("--image", "tiny", "--memory", "160MiB", "--wait")


def address(cluster: EmbeddedCluster, vm: str, card: str, address: str) -> None:
    """Of scope link: the image's DHCP client clears global ones as long as nobody answers it."""
    line = f"ip link set {card} up && ip addr replace {address}/24 dev {card} scope link && echo done"
    assert guest(cluster, vm, "/bin/sh", "-c", line) == "done"


def pings(cluster: EmbeddedCluster, vm: str, address: str) -> bool:
    line = f"ping -c 1 -W 10 {address} >/dev/null && echo yes || echo no"
    return guest(cluster, vm, "/bin/sh", "-c", line) == "yes"


@pytest.mark.timeout(400)
def test_two_vms_on_two_nodes_talk_in_their_vlan(cluster: EmbeddedCluster) -> None:
    if networks.namespace(cluster.home, "n1") is None:
        pytest.skip("this user may not make network namespaces")
    code, said = cluster.refused("vm", "create", "lost", "--nic", "blue", *TINY)
    assert code == 1 and "there is no network named blue; there is only user" in said
    cluster.ctl("network", "create", "blue", "--bridge", "lan", "--vlan", "5", "--wait")
    cluster.ctl("network", "create", "red", "--bridge", "lan", "--vlan", "6", "--wait")
    code, said = cluster.refused("network", "create", "again", "--bridge", "lan", "--vlan", "6")
    assert code == 1 and "red is on bridge lan with VLAN 6 already" in said
    cluster.ctl("network", "create", "dmz", "--bridge", "dmz0", "--wait")
    assert cluster.json("network", "show", "blue")["nodes"] == ["n1", "n2", "n3"]
    code, said = cluster.refused("vm", "create", "far", "--nic", "dmz", *TINY)
    assert code == 1 and "no bridge dmz0, on which network dmz lies; it has lan" in said
    for number, network in enumerate(("blue", "blue", "red"), 1):
        cluster.ctl("vm", "create", f"net-{number}", "--nic", network, "--no-start", *TINY)
        cluster.ctl("vm", "start", f"net-{number}", "--node", f"n{min(number, 2)}", "--wait")
    for number in (1, 2, 3):
        address(cluster, f"net-{number}", "eth0", f"10.9.0.{number}")
    assert pings(cluster, "net-1", "10.9.0.2") and pings(cluster, "net-2", "10.9.0.1")
    assert not pings(cluster, "net-3", "10.9.0.2") and not pings(cluster, "net-3", "10.9.0.1")
    cluster.ctl("vm", "migrate", "net-1", "--to", "n3", "--wait")
    assert pings(cluster, "net-2", "10.9.0.1"), "it is found where it came to"
    code, said = cluster.refused("network", "delete", "blue")
    assert code == 1 and "net-1, net-2" in said
    code, said = cluster.refused("nic", "attach", "net-1", "--network", "green")
    assert code == 1 and "there are user, blue, dmz, red" in said
    cluster.ctl("nic", "attach", "net-1", "--network", "red", "--wait")
    address(cluster, "net-1", "eth1", "10.9.1.1")
    address(cluster, "net-3", "eth0", "10.9.1.3")
    assert pings(cluster, "net-3", "10.9.1.1"), "the second NIC is in the other network"
    assert "created: bridge lan, VLAN 5" in cluster.ctl("why", "network/blue")
    for number in (1, 2, 3):
        cluster.ctl("vm", "stop", f"net-{number}", "--force", "--wait")
        cluster.ctl("vm", "delete", f"net-{number}", "--wait")
    for vm in ("lost", "far"):
        if vm in [one["name"] for one in cluster.json("vm", "ls")]:
            cluster.ctl("vm", "delete", vm, "--wait")
    for network in ("blue", "red", "dmz"):
        cluster.ctl("network", "delete", network, "--wait")
    assert cluster.json("network", "ls") == []
