"""A node with a fence device before it (sushy-tools' Redfish emulator): wrong credentials are told when it is set, a device that
lies is not believed, and a node that is dead is cut, lost by that proof, and its VM runs elsewhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.fence_rigs import PASSWORD, USER
from tests.contract.redfish_rig import UUID, RedfishRig
from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY
from tests.e2e.test_past import flat


@pytest.fixture
def bmc(tmp_path: Path) -> Iterator[RedfishRig]:
    rig = RedfishRig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def long_leases(cluster: EmbeddedCluster) -> Iterator[None]:
    """So that on a busy machine, too, the device is before the lease."""
    cluster.ctl("ha", "set", "--tolerant")
    yield
    cluster.ctl("ha", "set", "--fast")


def events(cluster: EmbeddedCluster, stream: str, kind: str) -> list[dict[str, Any]]:
    lines = cluster.ctl("events", "--json").splitlines()
    found = [json.loads(line) for line in lines if kind in line]
    return [one["data"] for one in found if (one["stream"], one["type"]) == (stream, kind)]


def set_device(cluster: EmbeddedCluster, bmc: RedfishRig, node: str, password: str) -> tuple[str, ...]:
    file = bmc.folder / "password"
    file.write_text(password)
    at = ("--address", f"https://127.0.0.1:{bmc.port}", "--system", UUID, "--user", USER, "--ca", str(bmc.cert), "--call", "10")
    return ("ha", "fence", "set", node, "--kind", "redfish", *at, "--password-file", str(file), "--wait")


def standing(cluster: EmbeddedCluster, node: str) -> str:
    return str(next(n["standing"] for n in cluster.json("ha", "status")["nodes"] if n["name"] == node))


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("long_leases")
def test_a_node_is_cut_by_its_device(cluster: EmbeddedCluster, bmc: RedfishRig) -> None:
    cluster.ctl("vm", "create", "cut", *TINY)
    node = str(cluster.json("vm", "show", "cut")["node"])

    code, said = cluster.refused(*set_device(cluster, bmc, node, "guessed"))
    assert code == 1 and "does not take the user" in said
    assert any(a["kind"] == "fence-device" and a["object"] == f"node/{node}" for a in cluster.json("alerts"))
    assert cluster.refused("ha", "fence", "off", node, "--yes")[0] == 1, "it proves nothing"

    cluster.ctl(*set_device(cluster, bmc, node, PASSWORD))
    assert not any(a["kind"] == "fence-device" for a in cluster.json("alerts"))
    assert cluster.json("ha", "fence", "show", node)["state"] == "ready"

    # The emulator's machine is none of ours: it says off, and the node goes on.
    cluster.ctl("ha", "fence", "off", node, "--yes")
    failed = cluster.until(lambda: events(cluster, f"fence-{node}", "fence_failed"), "the device not to be believed")
    assert "showed itself" in failed[0]["sentence"]
    cluster.ctl("ha", "fence", "rm", node)
    code, said = cluster.refused(*set_device(cluster, bmc, node, PASSWORD))
    assert code == 1 and "it lies" in said
    assert cluster.json("vm", "show", "cut")["node"] == node and not events(cluster, f"lease-{node}", "node_lost")

    bmc.reset()
    cluster.ctl("ha", "fence", "test", node)
    cluster.ctl("lab", "kill", node)
    cluster.until(lambda: cluster.json("vm", "show", "cut")["node"] != node, "the VM to be placed elsewhere")
    cluster.until(lambda: cluster.json("vm", "show", "cut")["state"] == "running", "it to run there")
    assert not bmc.truth()
    (lost,) = events(cluster, f"lease-{node}", "node_lost")
    assert lost["proof"]["kind"] == "fence" and "redfish" in lost["proof"]["device"]
    assert cluster.json("ha", "fence", "show", node)["state"] == "off"
    story = cluster.json("why", "vm/cut")["stories"][-1]
    steps = {step["type"]: step for step in flat(story["steps"])}
    assert all("power off" in line for line in steps["fence_confirmed"]["evidence"][-2:]), "each reading of the power"
    assert steps["node_lost"]["cause"] == steps["fence_confirmed"]["position"]
    assert steps["node_lost"]["evidence"][0].startswith("device redfish https://")
    assert steps["vm_start_requested"]["rejected"][0]["filter"] == "lost"
    assert f"the power of {node} is off" in cluster.ctl("why", "vm/cut")

    cluster.ctl("ha", "fence", "on", node, "--wait")
    assert bmc.truth()
    cluster.ctl("lab", "heal", node)
    cluster.until(lambda: standing(cluster, node) == "trusted", f"{node} to be back with a lease of its next epoch")
    cluster.ctl("ha", "fence", "rm", node)
    cluster.ctl("vm", "stop", "cut", "--force", "--wait")
    cluster.ctl("vm", "delete", "cut", "--wait")

    for folder in ("postgres", "nats", "logs", "run"):
        grep = ["grep", "-rlaF", PASSWORD, str(cluster.home / folder)]
        assert subprocess.run(grep, capture_output=True, text=True, check=False).stdout == "", f"the password lies in {folder}"
