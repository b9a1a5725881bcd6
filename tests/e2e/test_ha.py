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
ELSEWHERE_S_MAX = 20.0
STOPPED_S = 15.0
"""three leases"""
SUSPENDED_S = 20.0
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
    node, before = str(cluster.json("vm", "show", vm)["node"]), boot_id(cluster, vm)
    position, began = rig.position(), time.monotonic()
    cluster.ctl("lab", "kill", node)

    def elsewhere() -> bool:
        shown = cluster.json("vm", "show", vm)
        return bool(shown["state"] == "running" and shown["node"] != node)

    cluster.until(elsewhere, f"{vm} to run elsewhere")
    assert time.monotonic() - began < ELSEWHERE_S_MAX
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


def lost_since(rig: HaCluster, position: int) -> list[str]:
    return [
        f"{e['type']} {e['data']}" for e in rig.events(position) if e["type"] in ("node_lost", "vm_owed", "vm_stopped")
    ]
