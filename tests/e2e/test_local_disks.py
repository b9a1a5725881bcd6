"""A guest with a disk in its node's own pool moves: the disk goes along while it writes, and is nowhere else afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, boot_id, guest
from tests.e2e.test_migration import node, other

MIB = 16
FILL = f"dd if=/dev/urandom of=/dev/vdb bs=1M count={MIB} conv=fsync 2>/dev/null"
SUM = f"echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vdb bs=1M count={MIB} 2>/dev/null | sha256sum"
AT = MIB * 2048
WRITER = f"""n=0; while [ ! -e /run/stop ]; do
  n=$((n+1)); echo $n | dd of=/dev/vdb bs=512 seek={AT} conv=fsync 2>/dev/null; echo $n > /run/n
done"""
"""a number behind all that, again and again, and in memory once it is on the disk"""
WRITTEN = f"""touch /run/stop; sleep 1; cat /run/n; echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/vdb bs=512 skip={AT} count=1 2>/dev/null | head -n 1"""


def files(cluster: EmbeddedCluster, of: str) -> list[str]:
    """Of that VM, in the nodes' own pools, with the node."""
    found = (cluster.home / "pools").glob(f"n?/disks/{of}-*")
    return sorted(f"{path.parts[-3]}/{path.name}" for path in found)


@pytest.mark.timeout(300)
def test_a_disk_of_one_node_goes_along(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "luggage", *TINY)
    boot, here, to = boot_id(cluster, "luggage"), node(cluster, "luggage"), other(cluster, "luggage")
    cluster.ctl("disk", "attach", "luggage", "--size", "64MiB", "--pool", "local", "--wait")
    cluster.until(lambda: guest(cluster, "luggage", "/bin/sh", "-c", "cat /sys/block/vdb/size") == str(64 * 2048), "vdb")
    sum = guest(cluster, "luggage", "/bin/sh", "-c", f"{FILL}; {SUM}")
    cluster.ctl("vm", "exec", "luggage", "--", "sh", "-c", f"({WRITER}) >/dev/null 2>&1 &")
    assert files(cluster, "luggage") == [f"{here}/luggage-disk1.qcow2"]

    plan = cluster.json("node", "drain", here, "--dry-run")
    assert [move["copy_mib"] for move in plan["moves"] if move["vm"] == "luggage"] == [64]
    assert "its disks go along, 64 MiB at most" in cluster.ctl("node", "drain", here, "--dry-run")

    cluster.ctl("vm", "migrate", "luggage", "--node", to, "--wait")
    assert (node(cluster, "luggage"), boot_id(cluster, "luggage")) == (to, boot)
    assert guest(cluster, "luggage", "/bin/sh", "-c", SUM) == sum
    said, written = map(int, guest(cluster, "luggage", "/bin/sh", "-c", WRITTEN).split())
    assert 0 < said <= written <= said + 1
    cluster.until(lambda: len(files(cluster, "luggage")) == 1, "the old file to be removed")
    (there,) = files(cluster, "luggage")
    assert there.startswith(f"{to}/luggage-disk1.") and there.endswith(".qcow2")
    moved = next(e for e in events(cluster) if e["type"] == "vm_migration_requested" and e["data"]["vm"] == "luggage")
    assert set(moved["data"]["way"]["copied"]) == {"local"} and moved["data"]["way"]["copy_mib"] == 64

    # at rest a disk stays where it is: so does its VM
    cluster.ctl("vm", "stop", "luggage", "--force", "--wait")
    code, no = cluster.refused("vm", "start", "luggage", "--node", here)
    assert code == 1 and "without a storage pool it needs" in no and here in no
    cluster.ctl("vm", "start", "luggage", "--wait")
    assert node(cluster, "luggage") == to
    boot_id(cluster, "luggage")
    assert guest(cluster, "luggage", "/bin/sh", "-c", SUM) == sum
    cluster.ctl("vm", "stop", "luggage", "--force", "--wait")
    cluster.ctl("vm", "delete", "luggage", "--wait")
    cluster.until(lambda: not files(cluster, "luggage"), "its files to be removed")


def events(cluster: EmbeddedCluster) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]
