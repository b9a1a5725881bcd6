"""A guest that panics, and a QEMU that dies, are started again where they were, with evidence that can be looked at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest

BOOT = ("cat", "/proc/sys/kernel/random/boot_id")


def again(cluster: EmbeddedCluster, vm: str, before: dict[str, Any]) -> dict[str, Any]:
    """As it is once it runs as another generation."""

    def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = cluster.json("vm", "show", vm)
        return shown if shown["state"] == "running" and shown["generation"] > before["generation"] else None

    return cluster.until(look, f"{vm} to run again")


@pytest.mark.timeout(300)
def test_a_panic_is_a_verdict_with_a_picture_and_the_vm_runs_again_on_its_node(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    cluster.ctl("vm", "create", "frail", *TINY)
    boot, before = guest(cluster, "frail", *BOOT), cluster.json("vm", "show", "frail")
    with contextlib.suppress(AssertionError):  # its agent dies with it
        cluster.ctl("vm", "exec", "frail", "--timeout", "3s", "--", "/bin/sh", "-c", "echo c > /proc/sysrq-trigger")
    after = again(cluster, "frail", before)
    assert after["node"] == before["node"] and guest(cluster, "frail", *BOOT) != boot
    (verdict,) = cluster.json("ha", "verdicts", "--vm", "frail")
    assert (verdict["kind"], verdict["treated"], verdict["node"]) == ("panic", True, before["node"])
    cluster.ctl("ha", "verdicts", "--vm", "frail", "--picture", str(tmp_path / "screen.png"))
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
    lines = cluster.ctl("events", "--vm", "frail", "--json").splitlines()
    told = {event["type"]: event["at_us"] for event in map(json.loads, lines)}
    assert told["restart_wanted"] - told["vm_panicked"] <= 1_000_000
    assert "its guest was found dead" in cluster.ctl("why", "vm/frail")

    pid = int(cluster.json("vm", "schedule", "frail")["vcpus"][0]["thread"])
    os.kill(pid, signal.SIGSEGV)
    last = again(cluster, "frail", after)
    assert last["node"] == before["node"]
    verdict = cluster.json("ha", "verdicts", "--vm", "frail")[-1]
    assert (verdict["kind"], verdict["number"]) == ("died", 2) and "signal 11" in verdict["sentence"]
    cluster.ctl("vm", "stop", "frail", "--force", "--wait")
    cluster.ctl("vm", "delete", "frail", "--wait")
