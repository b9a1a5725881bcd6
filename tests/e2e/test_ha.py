"""A node is lost, and its VM is back elsewhere in seconds; what stops centrally, or a suspended laptop, takes no VM down."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from services.cluster.record import load
from tests.chaos.rig import HaCluster
from tests.chaos.sampler import Sampler
from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, boot_id, state

VM = "ha-1"
STOPPED_S = 15.0
"""three leases"""
SUSPENDED_S = 20.0
STEPS = (
    *("node_suspected", "node_lost", "vm_stopped", "vm_owed"),
    *("restart_wanted", "vm_start_requested", "vm_started", "vm_recovered"),
)  # fmt: skip
HITCHES = ("node_isolated", "node_trusted", "vm_restart_denied", "vm_unplaced", "vm_start_failed", "vm_in_hand", "guard_ended")
"""what makes a failover take longer than its steps do"""
STORY = ("lease-", "is proven", "lease is spent on every path", "removed by the filter lost", "saw generation 2 running")


@pytest.fixture(scope="module")
def vm(cluster: EmbeddedCluster) -> Iterator[str]:
    cluster.ctl("vm", "create", VM, *TINY)
    yield VM
    cluster.ctl("vm", "stop", VM, "--force", "--wait")
    cluster.ctl("vm", "delete", VM, "--wait")


@pytest.fixture
def rig(cluster: EmbeddedCluster) -> HaCluster:
    return HaCluster(home=cluster.home)


@pytest.mark.timeout(300)
def test_a_node_loses_its_power_and_its_vm_is_back_elsewhere(cluster: EmbeddedCluster, rig: HaCluster, vm: str) -> None:
    """Each step once, at the first try. How many seconds that takes is a figure of tests/bench/ha.py, with its bar: on a busy
    machine each `asvctl` that is asked here takes as long as the failover."""
    node, before = str(cluster.json("vm", "show", vm)["node"]), boot_id(cluster, vm)
    position = rig.position()
    rig.power_off(node)

    def elsewhere() -> bool:
        shown = cluster.json("vm", "show", vm)
        return bool(shown["state"] == "running" and shown["node"] != node)

    cluster.until(elsewhere, f"{vm} to run elsewhere")
    cluster.until(lambda: STEPS[-1] in steps(rig, position, node), "its guard to hear of it")
    assert steps(rig, position, node) == list(STEPS)
    assert boot_id(cluster, vm) != before
    said = cluster.ctl("why", f"vm/{vm}")
    assert [word for word in STORY if word not in said] == [], said
    cluster.ctl("lab", "heal", node)
    rig.returned()
    assert state(cluster, vm) == "running"
    kinds = [e["type"] for e in rig.events(position) if e["data"].get("node") == node]
    assert kinds.index("node_lost") < kinds.index("node_returned")


@pytest.mark.timeout(300)
def test_everything_central_stops_and_no_vm_notices(cluster: EmbeddedCluster, rig: HaCluster, vm: str) -> None:
    before, position = boot_id(cluster, vm), rig.position()
    with Sampler(cluster.home) as sampler, rig.without_central():
        time.sleep(STOPPED_S)  # how long it is away is what is tried
        assert len(sampler.ask(lambda watch: watch.now(vm))) == 1
    cluster.until(lambda: all(n["online"] for n in cluster.json("node", "ls")), "all to be well again")
    assert boot_id(cluster, vm) == before
    assert lost_since(rig, position) == []


@pytest.mark.timeout(300)
def test_a_laptop_is_suspended_and_no_vm_is_lost(cluster: EmbeddedCluster, rig: HaCluster, vm: str) -> None:
    before, position = boot_id(cluster, vm), rig.position()
    supervisor = load(rig.layout.record).supervisor
    assert supervisor is not None
    with rig.held([supervisor, *rig.central(), *rig.marks().values(), *rig.guests()]):
        time.sleep(SUSPENDED_S)  # how long its lid is shut is what is tried
    cluster.until(lambda: all(n["online"] for n in cluster.json("node", "ls")), "all to be well again")
    assert boot_id(cluster, vm) == before
    assert state(cluster, vm) == "running"
    assert lost_since(rig, position) == []


def steps(rig: HaCluster, position: int, node: str) -> list[str]:
    """Of the failover of that node and its VM, one after the other. A suspicion is told again where more is known of it."""
    of_it = [e["type"] for e in rig.events(position) if e["data"].get("node") == node or e["data"].get("vm") == VM]
    told = [kind for kind in of_it if kind in STEPS + HITCHES]
    return [kind for n, kind in enumerate(told) if n == 0 or kind != "node_suspected" or told[n - 1] != kind]


def lost_since(rig: HaCluster, position: int) -> list[str]:
    return [
        f"{e['type']} {e['data']}" for e in rig.events(position) if e["type"] in ("node_lost", "vm_owed", "vm_stopped")
    ]
