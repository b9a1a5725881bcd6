"""Faults on an embedded cluster, played by `asvctl lab`: what is lost is said, what is not is still there."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, boot_id, state


def online(cluster: EmbeddedCluster, node: str) -> bool:
    return bool(next(n for n in cluster.json("node", "ls") if n["name"] == node)["online"])


@pytest.mark.timeout(300)
def test_a_node_that_is_cut_off_frozen_or_loses_power(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "lab", *TINY)
    before = boot_id(cluster, "lab")
    node = str(cluster.json("vm", "show", "lab")["node"])
    for fault in ("cut", "freeze"):
        cluster.ctl("lab", fault, node)
        cluster.until(lambda: not online(cluster, node), f"{node} to be offline after {fault}")
        cluster.ctl("lab", "heal", node)
        cluster.until(lambda: online(cluster, node), f"{node} to be online after {fault}")
        assert boot_id(cluster, "lab") == before
    cluster.ctl("lab", "kill", node)
    cluster.until(lambda: not online(cluster, node), f"{node} to be offline without power")
    cluster.ctl("lab", "heal", node)
    cluster.until(lambda: online(cluster, node), f"{node} to be online again")
    cluster.until(lambda: state(cluster, "lab") == "running" and boot_id(cluster, "lab") != before, "the VM to run anew")
    cluster.ctl("vm", "stop", "lab", "--force", "--wait")


@pytest.mark.timeout(120)
def test_what_is_said_to_a_guest_is_written_nowhere(cluster: EmbeddedCluster) -> None:
    """The log's own files, JetStream's, every process's log: all are searched for the word."""
    marker = "Very" + "SecretWord4711"
    cluster.ctl("vm", "create", "quiet", *TINY)
    said = cluster.until(lambda: cluster.ctl("vm", "exec", "quiet", "--", "echo", marker), "the guest to answer")
    assert said.strip() == marker
    for folder in ("postgres", "nats", "logs", "run", "nodes"):
        found = subprocess.run(
            ["grep", "-rlaF", "--exclude=console*", marker, str(cluster.home / folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.stdout == "", f"it is in {found.stdout}"
    assert marker not in cluster.ctl("events", "--json")
    cluster.ctl("vm", "stop", "quiet", "--force", "--wait")
