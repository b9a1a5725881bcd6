"""A running guest moves between the nodes of an embedded cluster, and does not notice; whatever is killed meanwhile, one runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, boot_id, guest, state

COUNTER = "n=0; while :; do n=$((n+1)); echo $n > /run/counter; sleep 0.1; done"


@pytest.fixture(scope="module")
def mover(cluster: EmbeddedCluster) -> Iterator[str]:
    """A VM with a counter in its memory that never stops."""
    cluster.ctl("vm", "create", "mover", *TINY)
    boot_id(cluster, "mover")
    cluster.ctl("vm", "exec", "mover", "--", "sh", "-c", f"({COUNTER}) >/dev/null 2>&1 &")
    yield "mover"
    cluster.ctl("vm", "stop", "mover", "--force", "--wait")


def node(cluster: EmbeddedCluster, vm: str) -> str:
    return str(cluster.json("vm", "show", vm)["node"])


def other(cluster: EmbeddedCluster, vm: str) -> str:
    here = node(cluster, vm)
    return next(n for n in ("n1", "n2", "n3") if n != here)


def counted(cluster: EmbeddedCluster, vm: str) -> int:
    return int(guest(cluster, vm, "cat", "/run/counter"))


def processes(vm: str) -> int:
    """QEMU processes of this VM on this host."""
    found = subprocess.run(["pgrep", "-fc", f"guest={vm},"], capture_output=True, text=True, check=False)
    return int(found.stdout)


@pytest.mark.timeout(300)
def test_a_guest_moves_and_keeps_its_memory(cluster: EmbeddedCluster, mover: str) -> None:
    boot, before, to = boot_id(cluster, mover), counted(cluster, mover), other(cluster, mover)
    said = cluster.ctl("vm", "migrate", mover, "--node", to, "--wait")
    assert f"{mover} runs on {to}" in said and "downtime" in said
    shown = cluster.json("vm", "show", mover)
    assert (shown["node"], shown["state"], shown["migrating_to"]) == (to, "running", "")
    assert boot_id(cluster, mover) == boot
    after = counted(cluster, mover)
    assert after >= before
    cluster.until(lambda: counted(cluster, mover) > after, "the counter to go on")
    assert processes(mover) == 1
    cluster.ctl("vm", "migrate", mover, "--wait")
    assert boot_id(cluster, mover) == boot and node(cluster, mover) != to


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["the source's agent", "the target's agent", "the control plane"])
def test_whatever_is_killed_in_the_middle_one_guest_runs_on(cluster: EmbeddedCluster, mover: str, victim: str) -> None:
    boot, here, to = boot_id(cluster, mover), node(cluster, mover), other(cluster, mover)
    names = {"the source's agent": here, "the target's agent": to, "the control plane": "host"}
    before = counted(cluster, mover)
    pids = cluster.pids()
    name = next(n for n in pids if n == names[victim] or n.endswith(names[victim]))
    accepted = cluster.json("vm", "migrate", mover, "--node", to)
    os.kill(pids[name], signal.SIGKILL)
    task = cluster.until(
        lambda: (t := cluster.json("task", "show", accepted["task"])) and t["state"] != "running" and t, "its end"
    )
    assert task["state"] in ("done", "failed"), task
    cluster.until(lambda: cluster.json("vm", "show", mover)["migrating_to"] == "" or None, "both ends to be over")
    assert boot_id(cluster, mover) == boot and state(cluster, mover) == "running"
    assert counted(cluster, mover) >= before
    assert node(cluster, mover) == (to if task["state"] == "done" else here)
    cluster.until(lambda: processes(mover) == 1 or None, "one process")


@pytest.mark.timeout(120)
def test_what_cannot_move_is_refused(cluster: EmbeddedCluster, mover: str) -> None:
    cluster.ctl("vm", "create", "still", "--no-start")
    for words in (
        ("vm", "migrate", "still"),
        ("vm", "migrate", mover, "--node", "n9"),
        ("vm", "migrate", mover, "--cancel"),
        ("vm", "migrate", "no-such-vm"),
    ):
        code, said = cluster.refused(*words)
        assert code in (1, 2, 3), (words, code)
        assert len(said.strip()) > 20, (words, said)
    events = [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]
    assert not [e for e in events if e["type"] == "vm_stopped" and e["data"]["vm"] == mover]


@pytest.mark.timeout(300)
def test_a_node_is_drained_and_its_guests_do_not_notice(cluster: EmbeddedCluster, mover: str) -> None:
    boot, here = boot_id(cluster, mover), node(cluster, mover)
    cluster.ctl("vm", "create", "beside", *TINY)
    if node(cluster, "beside") != here:
        cluster.ctl("vm", "migrate", "beside", "--node", here, "--wait")
    plan = cluster.json("node", "drain", here, "--dry-run")
    assert {mover, "beside"} <= {move["vm"] for move in plan["moves"]} and not plan["unfit"]
    assert not cluster.json("node", "show", here)["cordoned"]
    said = cluster.ctl("node", "drain", here, "--wait")
    assert f"{here} is empty" in said
    shown = cluster.json("node", "show", here)
    assert shown["cordoned"] and not shown["vms"]
    assert boot_id(cluster, mover) == boot and node(cluster, mover) != here
    assert state(cluster, "beside") == "running"
    cluster.ctl("node", "uncordon", here, "--wait")
    cluster.ctl("vm", "stop", "beside", "--force", "--wait")


@pytest.mark.timeout(120)
def test_a_drain_without_a_place_to_go_is_refused_whole(cluster: EmbeddedCluster, mover: str) -> None:
    here = node(cluster, mover)
    others = [n for n in ("n1", "n2", "n3") if n != here]
    for name in others:
        cluster.ctl("node", "cordon", name, "--wait")
    try:
        code, said = cluster.refused("node", "drain", here)
        assert code == 1 and mover in said and "cordoned" in said and "--partial" in said
        assert not cluster.json("node", "show", here)["cordoned"]
    finally:
        for name in others:
            cluster.ctl("node", "uncordon", name, "--wait")
