"""What a newcomer does, with real guests: create, look inside, steer, break things, and lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import EmbeddedCluster

TINY = ("--vcpus", "1", "--memory", "128MiB", "--image", "tiny", "--wait")


def guest(cluster: EmbeddedCluster, vm: str, *argv: str) -> str:
    """What a program in the guest says; waits for a guest that is still booting."""
    return cluster.until(lambda: cluster.ctl("vm", "exec", vm, "--", *argv).strip(), f"{vm} to answer from inside")


def boot_id(cluster: EmbeddedCluster, vm: str) -> str:
    return guest(cluster, vm, "cat", "/proc/sys/kernel/random/boot_id")


def state(cluster: EmbeddedCluster, vm: str) -> str:
    return str(cluster.json("vm", "show", vm)["state"])


@pytest.fixture(scope="module")
def web(cluster: EmbeddedCluster) -> Iterator[str]:
    cluster.ctl("vm", "create", "web-1", *TINY)
    yield "web-1"
    cluster.ctl("vm", "stop", "web-1", "--force", "--wait")


@pytest.mark.timeout(300)
def test_a_newcomer_creates_a_vm_and_looks_inside(cluster: EmbeddedCluster, web: str) -> None:
    nodes = cluster.json("node", "ls")
    assert [n["name"] for n in nodes] == ["n1", "n2", "n3"]
    assert guest(cluster, web, "uname", "-r")[0].isdigit()
    shown = cluster.until(lambda: (s := cluster.json("vm", "show", web)) and s["addresses"] and s, "an address")
    assert shown["state"] == "running" and shown["node"] in ("n1", "n2", "n3")
    assert shown["pcpus"]


@pytest.mark.timeout(300)
def test_each_process_is_killed_in_turn_and_the_vm_does_not_notice(cluster: EmbeddedCluster, web: str) -> None:
    before = boot_id(cluster, web)
    for name in sorted(cluster.pids()):
        cluster.kill(name)
        vm = f"after-{name}"
        cluster.until(lambda vm=vm: cluster.ctl("vm", "create", vm, "--no-start") or True, f"a new command after {name} died")  # type: ignore[misc]
    assert boot_id(cluster, web) == before
    assert state(cluster, web) == "running"
    events = [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]
    assert [e["position"] for e in events] == list(range(1, len(events) + 1))
    defined = [e["stream"] for e in events if e["type"] == "vm_defined"]
    assert len(defined) == len(set(defined))


@pytest.mark.timeout(300)
def test_where_its_memory_lies_and_what_it_takes(cluster: EmbeddedCluster, web: str) -> None:
    guest(cluster, web, "uname")
    for pid, address in ((), "0xffffffff81000000"), (("--pid", "1"), "0x400000"):
        found = cluster.json("vm", "translate", web, "--gva", address, *pid)
        if os.geteuid() == 0:
            spaces = ["guest-virtual", "guest-physical", "host-virtual", "machine"]
            assert [step["space"] for step in found["steps"]] == spaces, found
            assert found["cell"] >= 0 and "resident" in found["state"]
    use = cluster.json("vm", "memory", web)
    assert use["nominal_mib"] == 128 and use["resident_kib"] > 64 * 1024
    node = cluster.json("vm", "show", web)["node"]
    memory = cluster.until(
        lambda: (m := cluster.json("node", "show", node)["memory"]) and m["pressure"] and m, "a beat"
    )
    assert {"host", "agent"} <= {area["name"] for area in memory["ledger"]["areas"]}
    assert web in memory["ledger"]["vms"] and web in [vm["vm"] for vm in memory["pressure"]["vms"]]
    events = [json.loads(line) for line in cluster.ctl("events", "--vm", web, "--json").splitlines()]
    drawn = [e["data"]["regions"] for e in events if e["type"] == "vm_regions_mapped"]
    assert drawn and drawn[0][0]["size_mib"] == 128


def group_of(pid: int) -> str:
    """Its group in the tree that divides memory, as its folder is named."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    own = {name: path for _, names, path in lines for name in names.split(",")}
    return Path(own.get("memory", own.get("", ""))).name


@pytest.mark.timeout(300)
def test_the_control_plane_stands_in_an_area_and_what_goes_mad_there_dies_alone(cluster: EmbeddedCluster, web: str) -> None:
    can = {n["name"]: n["capabilities"] for n in cluster.json("node", "ls")}
    if not (can["n1"].get("control_plane") and can["n1"]["memory_areas"]):
        pytest.skip("this host lets nobody make control groups for memory")
    pids, before = cluster.pids(), boot_id(cluster, web)
    for name, pid in pids.items():
        said = group_of(pid)
        assert said.endswith("-agent") and f"asv-{name}." in said if name in can else said.endswith("-control-plane"), (name, said)
    assert [name for name in can if can[name].get("control_plane")] == ["n1"], "counted once"
    out = cluster.ctl("memory", "areas", "n1", "control-plane=300:900", "--wait")
    assert "max 900 MiB" in out and "max 2 GiB" in out, out
    code, said = cluster.refused("memory", "areas", "n2", "control-plane=300:900")
    assert code == 1 and "no control plane runs on this host" in said

    def area() -> dict[str, Any]:
        rows: list[dict[str, Any]] = cluster.json("node", "show", "n1")["memory"]["pressure"]["areas"]
        return next(row for row in rows if row["name"] == "control-plane")

    cluster.until(lambda: area()["max_mib"] == 900, "the limit to be set")
    lines = Path(f"/proc/{pids['gateway']}/cgroup").read_text().splitlines()
    path = next(line.split(":", 2)[2] for line in lines if line.endswith("-control-plane"))
    (procs,) = (f for f in (Path(f"/sys/fs/cgroup/{t}{path}/cgroup.procs") for t in ("memory", "")) if f.exists())
    with subprocess.Popen(["/bin/sh", "-c", "read _; head -c 2G /dev/zero | tail -c 2G >/dev/null"], stdin=subprocess.PIPE) as mad:
        procs.write_text(str(mad.pid))
        mad.communicate(b"\n", timeout=120)
    assert mad.returncode != 0
    now = cluster.until(lambda: (a := area())["kills"] and a, "the kill to be told")
    assert now["kills"] >= 1 and now["peak_mib"] <= 900
    assert cluster.pids() == pids, "nobody else died"
    assert boot_id(cluster, web) == before and state(cluster, web) == "running"
    assert "max 2 GiB" in cluster.ctl("memory", "areas", "n1", "--by-host", "--wait")


@pytest.mark.timeout(300)
def test_a_guest_that_eats_its_area_dies_alone(cluster: EmbeddedCluster, web: str) -> None:
    """Its area is made small by command; then it fills its memory. Neighbour and agent go on, and the end is explained."""
    before = boot_id(cluster, web)
    nodes = [node["name"] for node in cluster.json("node", "ls")]
    if not cluster.json("node", "show", nodes[0])["capabilities"]["memory_areas"]:
        pytest.skip("this host lets nobody make control groups for memory")
    for node in nodes:
        cluster.ctl("memory", "areas", node, "host=512", "vms-best-effort=0:700", "--wait")
    words = ("--memory", "1GiB", "--image", "tiny", "--disk", "1GiB", "--priority", "best-effort", "--wait")
    cluster.ctl("vm", "create", "mad", *words)
    cluster.ctl("vm", "guard", "mad", "--mode", "off")  # else it is started again, and eats again
    guest(cluster, "mad", "uname")
    group = cluster.json("vm", "memory", "mad")["group"]
    assert group["area"] == "vms-best-effort"
    cluster.refused("vm", "exec", "mad", "--timeout", "30s", "--", "dd", "if=/dev/vdb", "of=/dev/null", "bs=1M")
    ended = cluster.until(lambda: (vm := cluster.json("vm", "show", "mad"))["state"] == "stopped" and vm, "its end")
    said = " ".join(reason["text"] for reason in ended["reasons"])
    assert "want of memory" in said and "vms-best-effort is 700 MiB" in said, said
    assert boot_id(cluster, web) == before and state(cluster, web) == "running"
    assert all(node["online"] for node in cluster.json("node", "ls"))
    cluster.ctl("vm", "delete", "mad", "--wait")
    for node in nodes:
        cluster.ctl("memory", "areas", node, "--wait")


@pytest.mark.timeout(300)
def test_what_it_is_worth_is_changed_while_it_runs_and_outlives_its_agent(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "busy", *TINY)
    guest(cluster, "busy", "sh", "-c", "while :; do :; done >/dev/null 2>&1 & echo begun")

    def fares() -> Any:
        return cluster.json("vm", "schedule", "busy")

    cluster.until(lambda: fares()["used_pct"] > 40, "a busy guest")
    cluster.ctl("vm", "set", "busy", "--cpu-cap", "25", "--priority", "important", "--wait")
    if (shown := fares())["weight"] == 0:
        pytest.skip("no control group for CPU time can be made here")

    def capped() -> bool:
        now = fares()
        return 20 <= now["used_pct"] <= 30 and (now["weight"], now["cap_pct"]) == (400, 25)

    cluster.until(capped, "a quarter of a pCPU")
    assert shown["plan"]["sentence"] and shown["vcpus"][0]["pcpus"]
    node = cluster.json("vm", "show", "busy")["node"]
    cluster.kill(node)
    cluster.until(lambda: fares()["plan"] and capped(), "the next agent to hold the plan")
    code, said = cluster.refused("vm", "set", "busy", "--pin", "4000")
    assert code == 1 and "pCPU 4000" in said
    cluster.ctl("vm", "set", "busy", "--memory-reserved", "100MiB", "--wait")
    ledger = cluster.json("memory", "show", node)
    held = next(each for each in ledger["held"] if each["vm"] == "busy")
    assert held["promise"]["reservation_mib"] == 100
    free = ledger["capacity_mib"] - ledger["reserved_mib"]
    cluster.ctl("memory", "share", node, str(free - 20), "--wait")
    code, said = cluster.refused("vm", "set", "busy", "--priority", "critical", "--wait")
    assert code == 1 and "does not hold it" in said
    assert cluster.json("vm", "show", "busy")["priority"] == "important"
    cluster.ctl("memory", "share", node, "0", "--wait")
    cluster.ctl("vm", "set", "busy", "--priority", "critical", "--wait")
    assert cluster.json("vm", "show", "busy")["priority"] == "critical"
    cluster.ctl("vm", "set", "busy", "--cpu-cap", "0", "--wait")
    cluster.until(lambda: fares()["used_pct"] > 40, "a busy guest without a cap")
    events = [json.loads(line) for line in cluster.ctl("events", "--json").splitlines()]
    assert {"plan_made", "plan_applied", "vm_allotted"} <= {e["type"] for e in events}
    cluster.ctl("vm", "stop", "busy", "--force", "--wait")


@pytest.mark.timeout(300)
def test_pause_resume_reset_stop_start_delete(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "life", *TINY)
    first = boot_id(cluster, "life")
    cluster.ctl("vm", "pause", "life", "--wait")
    assert state(cluster, "life") == "paused"
    cluster.ctl("vm", "resume", "life", "--wait")
    assert boot_id(cluster, "life") == first
    cluster.ctl("vm", "reset", "life", "--wait")
    cluster.until(lambda: boot_id(cluster, "life") != first, "a new boot of the guest")
    cluster.ctl("vm", "stop", "life", "--deadline", "30", "--wait")
    assert state(cluster, "life") == "stopped"
    cluster.ctl("vm", "start", "life", "--wait")
    cluster.ctl("vm", "stop", "life", "--force", "--wait")
    cluster.ctl("vm", "delete", "life", "--wait")
    code, said = cluster.refused("vm", "show", "life")
    assert code == 3 and "life" in said
    cluster.until(lambda: not list((cluster.home / "pools/default/disks").glob("life-*")), "its disks to be gone")


@pytest.mark.timeout(120)
def test_what_cannot_be_is_refused_with_what_would_be_right(cluster: EmbeddedCluster, web: str) -> None:
    for words in (
        ("vm", "create", web, *TINY),
        ("vm", "create", "Not_A_Label", *TINY),
        ("vm", "create", "huge", "--vcpus", "1", "--memory", "900GiB", "--image", "tiny"),
        ("vm", "create", "strange", "--image", "no-such-image"),
        ("vm", "delete", web),
        ("vm", "start", "no-such-vm"),
    ):
        code, said = cluster.refused(*words)
        assert code in (1, 2, 3), (words, code)
        assert len(said.strip()) > 20, (words, said)
    assert state(cluster, web) == "running"
