"""A pool runs full under a real guest: it stands still, is told of, outlives its agent, and goes on with every byte."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from services.cluster.layout import NODES
from tests.contract.small_pool import SmallPool, small_pool
from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, boot_id, guest
from tests.e2e.test_migration import node

SIZE_MIB = 48
MIB = 16
SUM = f"echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vdb bs=1M count={MIB} 2>/dev/null | sha256sum"
WRITE = "dd if=/run/data of=/dev/vdb bs=64k conv=fsync && echo whole > /run/done"


@pytest.fixture
def small() -> Iterator[tuple[EmbeddedCluster, dict[str, SmallPool]]]:
    """A cluster whose nodes' own pools are small file systems."""
    home = Path(tempfile.mkdtemp(prefix="asv full "))
    home.chmod(0o755)
    one = EmbeddedCluster(home)
    with ExitStack() as mounts:
        pools = {name: mounts.enter_context(small_pool(home / "pools" / name, SIZE_MIB)) for name in NODES}
        try:
            one.cluster("up")
            yield one, pools
        finally:
            one.cluster("destroy", "--yes")
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.timeout(300)
def test_a_guest_waits_for_room_and_loses_nothing(small: tuple[EmbeddedCluster, dict[str, SmallPool]]) -> None:
    cluster, pools = small
    cluster.ctl("vm", "create", "hog", *TINY)
    boot, here = boot_id(cluster, "hog"), node(cluster, "hog")
    cluster.ctl("disk", "attach", "hog", "--size", f"{SIZE_MIB}MiB", "--pool", "local", "--wait")
    cluster.until(lambda: guest(cluster, "hog", "/bin/sh", "-c", "ls /dev/vdb") == "/dev/vdb", "vdb")
    made = f"dd if=/dev/urandom of=/run/data bs=1M count={MIB} 2>/dev/null; sha256sum < /run/data"
    sum = guest(cluster, "hog", "/bin/sh", "-c", made)
    assert cluster.json("alerts") == []

    pools[here].fill(leave_kib=4 * 1024)
    cluster.ctl("vm", "exec", "hog", "--", "sh", "-c", f"({WRITE}) > /run/said 2>&1 &")
    cluster.until(lambda: state(cluster) == "out-of-space", "the guest to stand still")
    assert "out-of-space" in cluster.ctl("vm", "ls")
    shown = cluster.ctl("vm", "show", "hog")
    assert "12 MiB free in pool local (for disk1" in shown
    (alert,) = cluster.json("alerts")
    assert (alert["kind"], alert["object"]) == ("out-of-space", "vm/hog")
    assert "pool local has no room for what it writes to disk1" in alert["sentence"] and f"of {SIZE_MIB} MiB" in alert["sentence"]
    assert "stand still: pool local has no room" in cluster.ctl("why", "vm/hog")
    for words in (("vm", "resume", "hog"), ("vm", "migrate", "hog"), ("disk", "resize", "hog", "disk1", "128MiB")):
        code, no = cluster.refused(*words)
        assert code == 1 and "space" in no, (words, no)

    cluster.kill(here)
    assert state(cluster) == "out-of-space"
    pools[here].empty()
    cluster.until(lambda: state(cluster) == "running", "the guest to go on")
    cluster.until(lambda: guest(cluster, "hog", "/bin/sh", "-c", "cat /run/done") == "whole", "the write to be done")
    assert "rror" not in guest(cluster, "hog", "/bin/sh", "-c", "cat /run/said")
    assert guest(cluster, "hog", "/bin/sh", "-c", SUM) == sum
    assert boot_id(cluster, "hog") == boot
    assert cluster.json("alerts") == []
    assert "there was room again" in cluster.ctl("why", "vm/hog")
    cluster.ctl("vm", "stop", "hog", "--force", "--wait")


@pytest.mark.timeout(300)
def test_pools_are_told_of_and_hold_no_more_than_their_rules_say(small: tuple[EmbeddedCluster, dict[str, SmallPool]]) -> None:
    cluster, pools = small

    def told() -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = cluster.json("pool", "ls")
        return found if len(found) == 4 and all(pool["size_mib"] > 0 for pool in found) else None

    found = cluster.until(told, "all pools to be told of")
    assert [(p["name"], p["kind"], len(p["nodes"])) for p in found] == [("default", "shared", 3), *[("local", "local", 1)] * 3]
    assert {p["size_mib"] for p in found if p["name"] == "local"} == {SIZE_MIB}

    cluster.ctl("vm", "create", "saver", *TINY)
    boot_id(cluster, "saver")
    here = node(cluster, "saver")
    code, no = cluster.refused("pool", "set", "fast", "--over", "2")
    assert code == 1 and "there are default, local" in no
    cluster.ctl("pool", "set", "local", "--over", "1.5", "--keep-free", "25%", "--wait")
    cluster.ctl("disk", "attach", "saver", "--size", "40MiB", "--pool", "local", "--wait")
    code, no = cluster.refused("disk", "attach", "saver", "--size", "40MiB", "--pool", "local")
    assert code == 1 and f"{SIZE_MIB} MiB and disks of 40 MiB in it; 40 more make 80, and 72 are the most" in no
    code, no = cluster.refused("disk", "resize", "saver", "disk1", "80MiB")
    assert code == 1 and "and 72 are the most" in no and "at most 32 MiB more" in no
    pools[here].fill(leave_kib=8 * 1024)
    (alert,) = cluster.until(lambda: cluster.json("alerts") or None, "the alert about a pool that is nearly full")
    assert alert["kind"] == "pool-full" and "below 12 MiB (25 %)" in alert["sentence"] and here in alert["sentence"]
    code, no = cluster.refused("disk", "attach", "saver", "--size", "8MiB", "--pool", "local")
    assert code == 1 and "below 12 MiB (25 %) it takes no more" in no
    (one,) = (p for p in cluster.json("pool", "show", "local") if p["nodes"] == [here])
    assert (one["provisioned_mib"], one["ratio"], one["rules"]) == (40, 0.833, {"over": 1.5, "keep_free_pct": 25})
    assert [(d["vm"], d["disk"], d["size_mib"]) for d in one["disks"]] == [("saver", "disk1", 40)]
    assert 0 <= one["disks"][0]["used_mib"] < 40
    shown = cluster.ctl("pool", "show", one["id"])
    assert "at most 1.5 times its size" in shown and "saver-disk1.qcow2" in shown
    cluster.ctl("vm", "stop", "saver", "--force", "--wait")


def state(cluster: EmbeddedCluster) -> str:
    return str(cluster.json("vm", "show", "hog")["state"])
