"""What real services decided (commands, facts of agents, ticks, leases, a lost node, a service that was killed) is decided again by
the code that is here, and the event that took a VM down is found."""

from __future__ import annotations

import json

import pytest

from proto.services import SERVICES
from tests.chaos.rig import HaCluster
from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY

VM = "again-1"


@pytest.mark.timeout(300)
def test_a_day_of_a_cluster_is_decided_again(cluster: EmbeddedCluster) -> None:
    rig = HaCluster(home=cluster.home)
    begun = rig.position()
    cluster.ctl("vm", "create", VM, *TINY)
    cluster.ctl("cluster", "finalize")  # from here on events are written as this release has them
    cluster.ctl("vm", "set", VM, "--memory", "256MiB", "--wait")
    cluster.refused("vm", "set", VM, "--vcpus", "64")
    cluster.ctl("vm", "migrate", VM, "--wait")
    cluster.kill("host")
    node = str(cluster.json("vm", "show", VM)["node"])
    rig.power_off(node)

    def elsewhere() -> bool:
        shown = cluster.json("vm", "show", VM)
        return bool(shown["state"] == "running" and shown["node"] != node)

    cluster.until(elsewhere, f"{VM} to run elsewhere")
    cluster.ctl("lab", "heal", node)
    rig.returned()
    for service in SERVICES:
        found = cluster.json("replay", "--service", service)
        assert found["difference"] is None
        assert found["counts"]["unasked"] == 0 and found["counts"]["decided"] > 0 and found["answers"]
    broke = json.loads(ended(cluster, 1, "replay", "--bisect", "--from", str(begun + 1), "--condition", HELD, "--json"))["broke"]
    assert (broke["type"], broke["stream"]) == ("vm_stopped", f"vm-{VM}")
    assert broke["before"][f"vm-{VM}"]["node"] == node
    cluster.ctl("vm", "stop", VM, "--force", "--wait")
    cluster.ctl("vm", "delete", VM, "--wait")


HELD = f"vm-{VM}.state.kind in ['Running', 'Migrating', 'Arriving']"


def ended(cluster: EmbeddedCluster, code: int, *words: str) -> str:
    """What an `asvctl` says that ends with that code."""
    done = cluster.done(*words)
    assert done.returncode == code, f"{words} ended with {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout
