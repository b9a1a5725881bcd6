"""A node is gone for good with its disks, and one order makes its guests anew from their backups: by class and by what comes after
what, no more begun from a pool than it is said to give, and the services are killed on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from proto.waves import HOME_S
from tests.e2e.conftest import EmbeddedCluster, embedded
from tests.e2e.test_journeys import guest, state

SMALL = ("web-1", "db-1", "mail-1")
BARE = "bare-1"
"""is stopped, and has no backup"""
CLASS = {"web-1": "critical", "mail-1": "important", "big-2": "best-effort"}
PIECE_MIB = 5
BIG_MIB = {"big-1": 470, "big-2": 450}
"""together more than a pool gives in HOME_S that gives 1 MiB/s"""
ORDER = ["db-1", "web-1", "mail-1", "big-1", "big-2"]
SUM = """echo 3 > /proc/sys/vm/drop_caches
(for at in 0 $(({mib} - 1)); do dd if=/dev/vdb bs=1M skip=$at count=1 2>/dev/null; done) | sha256sum"""
"""of what it holds at both ends: an emulated CPU takes its time for more"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    """Of its own: a node of it is lost."""
    with embedded() as one:
        yield one


@pytest.fixture(scope="module")
def written(cluster: EmbeddedCluster) -> dict[str, str]:
    """What each guest holds in its node's own pool. All run on n3, and are backed up into the pool that all share; but for one."""
    for vm in (BARE, *SMALL, *BIG_MIB):
        what = ("--memory", "128MiB", "--disk", "image=tiny", "--disk", f"{BIG_MIB.get(vm, 0) + 32}MiB,pool=local")
        cluster.ctl("vm", "create", vm, "--priority", CLASS.get(vm, "normal"), *what, "--no-start", "--wait")
        cluster.ctl("vm", "start", vm, "--node", "n3", "--wait")
        if vm == BARE:
            cluster.ctl("vm", "stop", vm, "--force", "--wait")
    cluster.ctl("vm", "guard", "web-1", "--after", "db-1")
    sums = {vm: fill(cluster, vm) for vm in (*SMALL, *BIG_MIB)}
    for vm in sums:
        cluster.ctl("backup", "create", vm, "--pool", "default", "--wait")
    return sums


def fill(cluster: EmbeddedCluster, vm: str) -> str:
    """A piece of noise again and again: an emulated CPU makes no more of it in this time, and nothing that asks waits so long."""
    mib = BIG_MIB.get(vm, PIECE_MIB)
    pieces = f"for n in $(seq {mib // PIECE_MIB}); do cat /run/piece; done >/dev/vdb; sync; touch /run/full"
    noise = f"dd if=/dev/urandom of=/run/piece bs=1M count={PIECE_MIB} 2>/dev/null"
    guest(cluster, vm, "/bin/sh", "-c", f"({noise}; {pieces}) </dev/null >/dev/null 2>&1 & echo begun")
    cluster.until(lambda: cluster.ctl("vm", "exec", vm, "--", "ls", "/run/full").strip(), f"{vm} to be full")
    return guest(cluster, vm, "/bin/sh", "-c", SUM.format(mib=mib))


def events(cluster: EmbeddedCluster) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]


def dry_run(cluster: EmbeddedCluster) -> dict[str, Any]:
    return dict(cluster.json("recovery", "run", "--node", "n3", "--dry-run"))


def wave(cluster: EmbeddedCluster) -> dict[str, Any]:
    return dict(cluster.json("recovery", "wave", "fire")["wave"])


@pytest.mark.timeout(500)
def test_a_node_is_gone_and_all_that_it_ran_is_back_in_order(cluster: EmbeddedCluster, written: dict[str, str]) -> None:
    cluster.ctl("lab", "kill", "n3")
    shutil.rmtree(cluster.home / "pools" / "n3")
    cluster.until(lambda: any(a["kind"] == "vm-unknown" for a in cluster.json("alerts")), "n3 to be lost")
    plan = dry_run(cluster)
    left = {one["vm"]: one["sentence"] for one in plan["left"]}
    assert not plan["steps"] and left.pop(BARE) == "it has no backup"
    assert sorted(left) == sorted(ORDER) and all("asvctl ha confirm-off n3" in why for why in left.values()), left
    cluster.ctl("ha", "confirm-off", "n3", "--reason", "it burned")
    cluster.until(lambda: len(dry_run(cluster)["steps"]) == len(ORDER), "its VMs to have ended")

    words = ("recovery", "run", "--node", "n3", "--at-once", "2", "--bandwidth", "1", "--name", "fire")
    code, said = cluster.refused(*words)
    assert code == 1 and "--lose 5" in said
    cluster.ctl(*words, "--lose", "5")
    cluster.until(lambda: wave(cluster)["steps"][ORDER.index("big-1")]["state"] == "running", "the first large one to run")
    cluster.kill("host")
    assert [step["vm"] for step in wave(cluster)["steps"]] == ORDER
    ended = cluster.until(lambda: (w := wave(cluster)) and w["ended_us"] and w, "all to run")
    assert (ended["recovered"], ended["failed"], ended["unbegun"]) == (5, 0, 0)

    for vm, sum in written.items():
        assert state(cluster, vm) == "running" and cluster.json("vm", "show", vm)["node"] != "n3"
        assert guest(cluster, vm, "/bin/sh", "-c", SUM.format(mib=BIG_MIB.get(vm, PIECE_MIB))) == sum
    told = events(cluster)
    check_limits(told, {step["vm"]: step for step in ended["steps"]})
    check_figures(told, ended)
    cluster.until(lambda: {one["recovery"]["state"] for one in cluster.json("recovery", "ls")} == {"independent"}, "all to be home")
    cluster.until(lambda: all(agent_ms(cluster).values()), "the log to have that each guest's agent answered")
    assert all(agent_ms(cluster)[step["vm"]] >= step["first_ms"] for step in ended["steps"])


def agent_ms(cluster: EmbeddedCluster) -> dict[str, int]:
    return {one["recovery"]["target"]: one["recovery"].get("agent_ms") or 0 for one in cluster.json("recovery", "ls")}


def check_limits(told: list[dict[str, Any]], steps: dict[str, dict[str, Any]]) -> None:
    """At each beginning: who it comes after runs; who stands before it has begun or waits for another; two at once at most; and no
    more from the pool than it gives in time."""
    begun, runs, home = set[str](), set[str](), set[str]()
    for event in told:
        vm = event["data"].get("vm", "")
        match event["type"]:
            case "wave_step_begun":
                assert vm not in begun, "each is asked for once"
                passed = [one for one in ORDER[: ORDER.index(vm)] if one not in begun]
                assert all(not set(steps[one]["after"]) <= runs for one in passed), f"{vm} began before {passed}"
                begun.add(vm)
                assert set(steps[vm]["after"]) <= runs, f"{vm} began before what it comes after"
                assert len(begun - runs) <= 2, f"{begun - runs} begin at once"
                assert sum(steps[one]["mib"] for one in begun - home) <= HOME_S, f"too much from the pool: {begun - home}"
            case "wave_step_done":
                runs.add(vm)
            case "disks_home":
                home.add(vm)
    assert steps["web-1"]["after"] == ["db-1"] and runs == set(ORDER)
    assert sum(step["mib"] for step in steps.values()) > HOME_S, "the bound was met with"


def check_figures(told: list[dict[str, Any]], ended: dict[str, Any]) -> None:
    """What the wave tells is what the log has of the VMs themselves."""
    asked = {e["data"]["target"]: e["at_us"] for e in told if e["type"] == "recovery_requested"}
    ran: dict[str, int] = {}
    for event in told:
        vm = event["data"].get("vm", "")
        if event["type"] == "vm_started" and event["at_us"] > asked.get(vm, event["at_us"]):
            ran.setdefault(vm, event["at_us"])
    firsts = {vm: (ran[vm] - asked[vm]) // 1000 for vm in ORDER}
    assert {step["vm"]: step["first_ms"] for step in ended["steps"]} == firsts
    assert (ended["first_ms_p50"], ended["first_ms_max"]) == (sorted(firsts.values())[2], max(firsts.values()))
    assert ended["took_s"] == pytest.approx((max(ran.values()) - ended["asked_us"]) / 1e6, abs=0.002)
