"""A node whose VMs really run short of memory: the ladder takes from those that can spare it, critical ones lose nothing, nobody
is killed, and all of it is given back. Real guests, a node of 2.25 GiB."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import boot_id, guest

NODE = "n2"
MEMORY_MIB = 2304
GREEDY = ("--image", "tiny", "--memory", "1GiB", "--disk", "1GiB", "--wait")
READ = """
(echo $$ >/tmp/reader; exec 3</dev/vdb
 while dd bs=1M count=4 of=/dev/null <&3 2>&1 | grep -q "4+0 records in"; do sleep 0.1; done
 exec sleep 1000) >/dev/null 2>&1 &
echo begun
"""
"""fills the guest's page cache with a disk of 1 GiB: memory that it can do without, as long as somebody has the disk open"""
FORGET = "killall sleep; echo forgotten"


@pytest.fixture(scope="module")
def short() -> Iterator[EmbeddedCluster]:
    home = Path(tempfile.mkdtemp(prefix="asv short "))
    home.chmod(0o755)
    one = EmbeddedCluster(home)
    try:
        one.cluster("up", "--memory-mib", str(MEMORY_MIB))
        yield one
    finally:
        one.cluster("destroy", "--yes")
        shutil.rmtree(home, ignore_errors=True)


def ledger(cluster: EmbeddedCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.json("memory", "show", NODE)
    return found


def taken(cluster: EmbeddedCluster) -> dict[str, dict[str, int]]:
    """What is taken from each VM of the node."""
    return {held["vm"]: held.get("taken") or {} for held in ledger(cluster)["held"]}


def events(cluster: EmbeddedCluster, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]
    return [event["data"] for event in found if event["type"] == kind]


def until_read(cluster: EmbeddedCluster, vm: str) -> None:
    """The reader sleeps at the end of the disk."""
    script = "test $(cat /proc/diskstats | awk '$3 == \"vdb\" {print $6}') -ge 2097152 && echo done || echo reading"
    cluster.until(lambda: guest(cluster, vm, "/bin/sh", "-c", script) == "done", f"{vm} to have read all")


@pytest.mark.timeout(420)
def test_a_short_node_takes_from_who_can_spare_it_and_gives_it_back(short: EmbeddedCluster) -> None:
    assert short.json("node", "show", NODE)["capabilities"]["memory_mib"] == MEMORY_MIB
    for node in ("n1", "n3"):
        short.ctl("node", "cordon", node, "--wait")
    short.ctl("vm", "create", "db", "--image", "tiny", "--memory", "256MiB", "--priority", "critical", "--wait")
    short.ctl("vm", "create", "lazy", *GREEDY)
    short.ctl("vm", "create", "batch", *GREEDY, "--priority", "best-effort")
    boots = {vm: boot_id(short, vm) for vm in ("db", "lazy", "batch")}
    for vm in ("lazy", "batch"):
        assert guest(short, vm, "/bin/sh", "-c", READ) == "begun"

    def ballooned() -> dict[str, dict[str, int]] | None:
        now = taken(short)
        return now if any("balloon" in rungs for rungs in now.values()) else None

    now = short.until(ballooned, "memory to be taken back")
    assert not now["db"], "critical"
    for vm in ("lazy", "batch"):  # all of the disk, one after the other, through what is left to it
        until_read(short, vm)
    short.until(lambda: ledger(short)["level"] == "ample", "the node to have memory again")
    for step in [step for climbed in events(short, "ladder_climbed") for step in climbed["steps"]]:
        assert step["vm"] != "db"
        if step["rung"] == "balloon":
            assert step["to_mib"] >= {"lazy": 512, "batch": 256}[step["vm"]], "never below what is reserved"
    assert {vm: boot_id(short, vm) for vm in boots} == boots

    for vm in ("lazy", "batch"):
        guest(short, vm, "/bin/sh", "-c", FORGET)
    short.until(lambda: not any(taken(short).values()), "all of it to be given back")
    assert events(short, "ladder_descended")
    assert short.json("memory", "prove")["holds"]
