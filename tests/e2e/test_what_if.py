"""What was foretold, against what comes: a real node is asked about, loses its power, and what became of its VMs is compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

import pytest

from libs.common.clock import SystemClock
from services.cluster.layout import NODES
from tests.chaos.rig import HaCluster
from tests.e2e.conftest import EmbeddedCluster, embedded
from tests.e2e.test_journeys import boot_id

VICTIM = NODES[1]
VMS = {
    "db-1": (NODES[0], "--apart", "db"),
    "db-2": (VICTIM, "--apart", "db"),
    "web-1": (VICTIM,),
    "web-2": (VICTIM,),
    "web-3": (NODES[2],),
    "web-4": (NODES[2],),
    "web-5": (NODES[2],),
}
"""Where each begins, and with which options. db-2 may not come to db-1; for the others there is more room on n1."""

BUSY_S = 0.3
"""what a machine that has other work adds: no process of the simulated world is ever late. By how much a start took longer than any
before it, as all three came at once, is allowed for beside that"""


@pytest.fixture(scope="module")
def journey() -> Iterator[tuple[EmbeddedCluster, HaCluster]]:
    with embedded() as one:
        yield one, HaCluster(home=one.home)


def begun(cluster: EmbeddedCluster, rig: HaCluster) -> None:
    """All of them run, and have nothing more to do."""
    for vm, (_, *options) in VMS.items():
        cluster.ctl("vm", "create", vm, "--vcpus", "1", "--memory", "128MiB", "--image", "tiny", "--no-start", *options)
    for vm, (node, *_) in VMS.items():
        cluster.ctl("vm", "start", vm, "--node", node)
    for vm in VMS:
        boot_id(cluster, vm)
    rig.wait_for(rig.leased, "each node to have its lease")
    assert {vm["name"]: vm["node"] for vm in cluster.json("vm", "ls")} == {vm: node for vm, (node, *_) in VMS.items()}


@pytest.mark.timeout(300)
def test_a_node_is_lost_as_it_was_foretold(journey: tuple[EmbeddedCluster, HaCluster]) -> None:
    cluster, rig = journey
    begun(cluster, rig)
    before = rig.position()
    words = ("what-if", "--kill", f"node/{VICTIM}")
    told = json.loads(cluster.ctl(*words, "--json"))
    assert rig.position() == before, "a question has written something"
    lost = {vm for vm, (node, *_) in VMS.items() if node == VICTIM}
    assert {start["vm"] for start in told["starts"]} == lost and not told["down"] and not told["fault"]

    when = datetime.fromtimestamp(SystemClock().now_us() / 1e6).astimezone().isoformat()
    rig.power_off(VICTIM)
    rig.wait_for(lambda: started(rig, before) >= lost, "its VMs to run elsewhere")

    after = ("--at", str(told["position"]), "--lived", when)
    said = cluster.ctl(*words, *after)
    print(said)
    both = json.loads(cluster.ctl(*words, *after, "--json"))
    assert both["foretold"] == told, "the same question about the same moment has another answer"
    real = both["lived"]
    assert {fate["vm"] for fate in real["fates"]} == lost
    assert real["placed"] == len(lost), said
    assert f"{len(lost)} of {len(lost)} VMs as foretold, {real['within']} of them within the time" in said
    band, lost_s = real["lost"][VICTIM]
    assert band["least_s"] <= lost_s <= band["most_s"] + BUSY_S, said
    slower_s = max(starts_s(rig, before)) - told["timings"]["start"]["most_ms"] / 1000
    assert real["worst_s"] <= BUSY_S + max(0.0, slower_s), said


def starts_s(rig: HaCluster, position: int) -> list[float]:
    """How long each start took since then, as it is learnt from a log."""
    events = rig.events(position)
    began = {e["data"]["vm"]: e["at_us"] for e in events if e["type"] == "vm_launch_requested"}
    return [(e["at_us"] - began[e["data"]["vm"]]) / 1e6 for e in events if e["type"] == "vm_started"]


def started(rig: HaCluster, position: int) -> set[str]:
    return {event["data"]["vm"] for event in rig.events(position) if event["type"] == "vm_started"}
