"""Whether a guest can be recovered is tried out beside it while it runs, also over a death of the services; nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest


def drills(cluster: EmbeddedCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.json("recovery", "drills", "drilled")["items"]
    return found


def vms(cluster: EmbeddedCluster) -> list[str]:
    return [one["name"] for one in cluster.json("vm", "ls") if one["name"].startswith("drill")]


def files(cluster: EmbeddedCluster) -> list[str]:
    return sorted(path.name for path in Path(cluster.home).rglob("disks/drill-*"))


def clean(cluster: EmbeddedCluster) -> bool:
    """Nothing is left of any drill, and no backup is held. Raises AssertionError with what is."""
    assert vms(cluster) == ["drilled"]
    assert files(cluster) == []
    assert [one["backup"]["held_by"] for one in cluster.json("backup", "ls", "drilled")["items"]] == [[]]
    assert all(one["cleaned_us"] for one in drills(cluster))
    return True


@pytest.mark.timeout(400)
def test_a_backup_is_booted_and_checked_from_inside(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "drilled", *TINY)
    cluster.until(lambda: guest(cluster, "drilled", "sh", "-c", "grep -c ' /data ' /proc/mounts || true") == "1", "its disk")
    guest(cluster, "drilled", "sh", "-c", "echo precious > /data/kept; sync; echo done")
    cluster.ctl("backup", "create", "drilled", "--pool", "default", "--wait")
    guest(cluster, "drilled", "sh", "-c", "echo later > /data/kept; sync; echo done")

    check = "sh -c 'until grep -q \" /data \" /proc/mounts; do sleep 0.2; done; echo of the backup:; cat /data/kept'"
    cluster.ctl("recovery", "drill", "drilled", "--check", check, "--within", "120", "--wait")
    (one,) = drills(cluster)
    assert (one["state"], one["exit_code"], one["last_line"]) == ("passed", 0, "precious")
    assert 0 < one["first_ms"] <= one["agent_ms"] <= one["took_ms"] and one["rpo_s"] > 0
    cluster.until(lambda: clean(cluster), "what the drill made to be gone")
    assert guest(cluster, "drilled", "cat", "/data/kept") == "later", "the guest itself went on"
    (row,) = [row for row in cluster.json("recovery", "report")["items"] if row["vm"] == "drilled"]
    assert (row["drilled"], row["drill_agent_ms"], row["grade"]) == ("passed", one["agent_ms"], "untried")

    cluster.ctl("recovery", "drill", "drilled", "--check", "sh -c 'echo broken; exit 3'", "--within", "120")
    cluster.until(lambda: drills(cluster)[-1]["state"] in ("booting", "checking", "failed"), "the second drill to be under way")
    cluster.kill("host")
    failed = cluster.until(lambda: next((d for d in drills(cluster)[1:] if d["state"] == "failed"), None), "its result")
    assert (failed["reason"], failed["exit_code"], failed["last_line"]) == ("check", 3, "broken")
    cluster.until(lambda: clean(cluster), "what the second made to be gone")
    (alert,) = [alert for alert in cluster.json("alerts") if alert["object"] == "vm/drilled"]
    assert alert["kind"] == "drill-failed" and "exited with 3" in alert["sentence"]
    told = cluster.ctl("why", f"backup/drilled/{one['backup']}")
    assert "the drill" in told and "exited with 3" in told

    cluster.ctl("backup", "verify", "drilled", one["backup"], "--boot", "--wait")
    assert drills(cluster)[-1]["state"] == "passed" and not cluster.json("alerts")
    cluster.until(lambda: clean(cluster), "what the third made to be gone")
    cluster.ctl("vm", "stop", "drilled", "--force", "--wait")
