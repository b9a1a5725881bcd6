"""A guest grows while it runs: seen from inside, and still so after a move and a restart."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest

INSIDE = ("/bin/sh", "-c", "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo; cat /proc/sys/kernel/random/boot_id")


def inside(cluster: EmbeddedCluster, vm: str) -> tuple[int, int, str]:
    """vCPUs, MiB, and the boot that sees them."""
    vcpus, mib, boot = guest(cluster, vm, *INSIDE).split()
    return int(vcpus), int(mib), boot


@pytest.mark.timeout(300)
def test_a_guest_grows_and_shrinks_and_keeps_its_size(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "grow", *TINY)
    vcpus, mib, boot = inside(cluster, "grow")
    assert vcpus == 1
    cluster.ctl("vm", "set", "grow", "--vcpus", "2", "--memory", "384MiB", "--wait")
    more, larger, same = inside(cluster, "grow")
    assert (more, same) == (2, boot) and larger > mib + 200
    shown = cluster.json("vm", "show", "grow")
    assert (shown["vcpus"], shown["memory_mib"]) == (2, 384)
    ledger = cluster.json("memory", "show", shown["node"])
    assert next(h for h in ledger["held"] if h["vm"] == "grow")["promise"]["nominal_mib"] == 384
    code, said = cluster.refused("vm", "set", "grow", "--vcpus", "64")
    assert code == 1 and "needs a restart" in said
    other = next(n["name"] for n in cluster.json("node", "ls") if n["name"] != shown["node"])
    cluster.ctl("vm", "migrate", "grow", "--to", other, "--wait")
    assert inside(cluster, "grow") == (2, larger, boot)
    cluster.ctl("vm", "set", "grow", "--vcpus", "1", "--memory", "256MiB", "--wait")
    fewer, smaller, same = inside(cluster, "grow")
    assert (fewer, same) == (1, boot) and smaller < larger - 100
    cluster.ctl("vm", "stop", "grow", "--force", "--wait")
    cluster.ctl("vm", "set", "grow", "--vcpus", "2", "--wait")
    cluster.ctl("vm", "start", "grow", "--wait")
    again, _, other_boot = inside(cluster, "grow")
    assert again == 2 and other_boot != boot
    told = [json.loads(line)["type"] for line in cluster.ctl("events", "--json").splitlines()]
    assert told.count("vm_resized") == 2 and "vm_reshaped" in told
    sizes = cluster.json("vm", "history", "grow", "--size")
    assert [each["type"] for each in sizes].count("vm_resize_requested") == 2
    assert {each["asked_by"] for each in sizes} == {"user:admin"}
    cluster.ctl("vm", "stop", "grow", "--force", "--wait")
    cluster.ctl("vm", "delete", "grow", "--wait")
