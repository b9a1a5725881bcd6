"""A guest's disks as they were: taken under a writer, kept over a move and an agent's death, gone back to, merged away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest

SUMS = "sync; sha256sum /data/kept /dev/vdb | cut -c1-64"


def sh(cluster: EmbeddedCluster, script: str) -> str:
    """What it says last; it says when it is done."""
    return guest(cluster, "snap", "/bin/sh", "-c", f"{script}\necho done").removesuffix("done").strip()


def mounted(cluster: EmbeddedCluster) -> None:
    cluster.until(lambda: sh(cluster, "grep -c ' /data ' /proc/mounts || true") == "1", "the guest's disk to be mounted")


def names(cluster: EmbeddedCluster) -> list[str]:
    return [one["name"] for one in cluster.json("snapshot", "ls", "snap")]


def files(cluster: EmbeddedCluster) -> list[str]:
    """Of the VM's disks, in whichever pool."""
    found = {path.name for path in Path(cluster.home).rglob("disks/snap-*")}
    return sorted(found)


@pytest.mark.timeout(400)
def test_a_vm_goes_back_to_what_it_was(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "snap", *TINY)
    cluster.ctl("disk", "attach", "snap", "--size", "32MiB", "--wait")
    mounted(cluster)
    sh(cluster, "head -c 2000000 /dev/urandom > /data/kept; head -c 1000000 /dev/urandom | dd of=/dev/vdb conv=fsync 2>/dev/null")
    old = sh(cluster, SUMS)
    cluster.ctl("snapshot", "take", "snap", "s1", "--require-freeze", "--description", "before all", "--wait")
    one = cluster.json("snapshot", "show", "snap", "s1")
    assert (one["state"], one["consistency"], one["description"]) == ("taken", "filesystem", "before all")
    assert one["frozen_ms"] > 0 and [disk["name"] for disk in one["disks"]] == ["disk0", "disk1"]
    sh(cluster, "touch /run/writes; (while test -e /run/writes; do head -c 9999 /dev/urandom >> /data/log; done) >/dev/null 2>&1 &")
    cluster.ctl("snapshot", "take", "snap", "s2", "--wait")
    code, said = cluster.refused("snapshot", "take", "snap", "s2")
    assert code == 1 and "another name" in said
    sh(cluster, "rm /run/writes; head -c 2000000 /dev/urandom > /data/kept")
    sh(cluster, "head -c 900000 /dev/urandom | dd of=/dev/vdb conv=fsync 2>/dev/null")
    new = sh(cluster, SUMS)
    node = cluster.json("vm", "show", "snap")["node"]
    other = next(n["name"] for n in cluster.json("node", "ls") if n["name"] != node)
    cluster.ctl("vm", "migrate", "snap", "--to", other, "--wait")
    assert sh(cluster, SUMS) == new
    cluster.ctl("snapshot", "take", "snap", "s3", "--no-freeze", "--wait")
    assert names(cluster) == ["s1", "s2", "s3"]
    assert cluster.json("snapshot", "show", "snap", "s3")["consistency"] == "crash"
    cluster.ctl("snapshot", "delete", "snap", "s2")
    cluster.kill(other)
    cluster.until(lambda: names(cluster) == ["s1", "s3"], "s2 to be merged by the next agent")
    assert sh(cluster, SUMS) == new
    code, said = cluster.refused("snapshot", "revert", "snap", "s1")
    assert code == 1 and "stop it first" in said
    cluster.ctl("vm", "stop", "snap", "--force", "--wait")
    code, said = cluster.refused("snapshot", "revert", "snap", "s1")
    assert code == 1 and "--lose snap --lose s3" in said
    cluster.ctl("snapshot", "revert", "snap", "s1", "--lose", "snap", "--lose", "s3", "--wait")
    assert names(cluster) == ["s1"]
    cluster.ctl("vm", "start", "snap", "--wait")
    mounted(cluster)
    assert sh(cluster, SUMS) == old
    cluster.until(lambda: len(files(cluster)) == 4, "what was thrown away to be removed")
    cluster.ctl("vm", "stop", "snap", "--force", "--wait")
    cluster.ctl("snapshot", "delete", "snap", "s1", "--wait")
    cluster.until(lambda: len(files(cluster)) == 2, "the layers to be removed")
    cluster.ctl("snapshot", "take", "snap", "rest", "--wait")
    assert cluster.json("snapshot", "show", "snap", "rest")["consistency"] == "stopped"
    cluster.ctl("vm", "start", "snap", "--wait")
    mounted(cluster)
    assert sh(cluster, SUMS) == old
    told = [each["type"] for each in cluster.json("vm", "history", "snap")]
    assert told.count("snapshot_taken") == 4 and told.count("snapshot_deleted") == 2
    cluster.ctl("vm", "stop", "snap", "--force", "--wait")
    cluster.ctl("vm", "delete", "snap", "--wait")
    assert files(cluster) == []
