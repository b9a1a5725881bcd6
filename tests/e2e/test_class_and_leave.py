"""A running guest changes its class; a node leaves in good order; nothing of the cluster is left on this host. A cluster of its
own, for it is shorter by a node at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import EmbeddedCluster, embedded
from tests.e2e.test_journeys import TINY, guest


@pytest.fixture
def own() -> Iterator[EmbeddedCluster]:
    with embedded() as one:
        yield one


def groups_of(cluster: EmbeddedCluster, node: str) -> list[Path]:
    """All that the node's agent has made in the trees of control groups, its areas among them."""
    lines = (cluster.home / "nodes" / node / "groups").read_text().splitlines()
    return [folder for line in lines for folder in Path(line).parent.glob(f"{Path(line).name}*")]


@pytest.mark.timeout(300)
def test_a_class_changes_and_a_node_leaves(own: EmbeddedCluster) -> None:
    own.ctl("vm", "create", "web", *TINY, "--priority", "best-effort")
    boot = guest(own, "web", "cat", "/proc/sys/kernel/random/boot_id")
    group = own.json("vm", "memory", "web")["group"]
    own.ctl("vm", "set", "web", "--priority", "critical", "--wait")
    if group:
        assert group["area"] == "vms-best-effort"
        now = own.until(
            lambda: (g := own.json("vm", "memory", "web")["group"])["area"] == "vms-critical" and g, "the VM in its class's area"
        )
        assert now["swap_max_kib"] == 0 and now["max_kib"] == group["max_kib"]
    assert own.json("vm", "schedule", "web").get("faults", []) == []
    assert guest(own, "web", "cat", "/proc/sys/kernel/random/boot_id") == boot, "it ran on"

    node = own.json("vm", "show", "web")["node"]
    code, said = own.refused("node", "remove", node, "--wait")
    assert code != 0 and "web" in said
    other = next(n["name"] for n in own.json("node", "ls") if n["name"] != node)
    made = groups_of(own, other)
    own.ctl("node", "remove", other, "--wait")
    assert other not in [n["name"] for n in own.json("node", "ls")]
    assert [folder for folder in made if folder.exists()] == []
    left = [folder for name in ("n1", "n2", "n3") if name != other for folder in groups_of(own, name)]
    own.cluster("destroy", "--yes")
    assert [folder for folder in left if folder.exists()] == []
