"""A pool runs full under a real guest: it stands still, is told of, outlives its agent, and goes on with every byte."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

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


def state(cluster: EmbeddedCluster) -> str:
    return str(cluster.json("vm", "show", "hog")["state"])
