"""A running guest is backed up by itself, and what is kept no more goes, files and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libs.common.clock import SystemClock
from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest

CLOCK = SystemClock()


def taken(cluster: EmbeddedCluster) -> list[dict[str, Any]]:
    rows = [row["backup"] for row in cluster.json("backup", "ls", "timed")["items"]]
    return [row for row in rows if row["taken_us"] and row["state"] == "taken"]


def folders(cluster: EmbeddedCluster) -> list[str]:
    return sorted(path.name for path in Path(cluster.home).rglob("backups/timed/b*"))


def old(cluster: EmbeddedCluster, than: dict[str, Any]) -> list[str]:
    return [row["id"] for row in taken(cluster) if row["taken_us"] < than["taken_us"]]


def next_time(cluster: EmbeddedCluster) -> int:
    """It has come when this returns; minutes come within what is waited for at most."""
    due_us = int(cluster.json("backup", "schedule", "timed")["next_us"])
    cluster.until(lambda: CLOCK.now_us() > due_us, "the next minute")
    return due_us


@pytest.mark.timeout(400)
def test_a_guest_is_backed_up_each_minute_and_one_is_kept(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "timed", *TINY)
    guest(cluster, "timed", "echo", "up")  # its agent answers: file systems can be held still
    code, said = cluster.refused("backup", "schedule", "timed", "--cron", "0 25 * * *", "--pool", "default")
    assert code == 1 and "Bad hour" in said and '"0 2 * * *": every day' in said
    cluster.ctl("backup", "schedule", "timed", "--cron", "* * * * *", "--pool", "default", "--keep-last", "1", "--full-every", "2")
    due_us = next_time(cluster)
    first = cluster.until(lambda: next(iter(taken(cluster)), None), "the first backup")
    assert (first["plan"], first["kind"], first["consistency"]) == ("schedule", "full", "filesystem")
    assert first["taken_us"] >= due_us
    for _ in range(2):
        next_time(cluster)
    after = cluster.until(lambda: [row for row in taken(cluster) if row["kind"] == "full"][1:], "the next full backup")
    cluster.until(lambda: len(old(cluster, after[0])) < 2, "the increment that is kept no more to be gone")
    cluster.until(lambda: not old(cluster, after[0]), "the full one beneath it to be gone")
    assert first["id"] not in folders(cluster)
    cluster.ctl("backup", "schedule", "timed", "--none")
    assert cluster.json("backup", "schedule", "timed")["plan"] is None
    told = cluster.ctl("why", f"backup/timed/{first['id']}")
    assert "schedule" in told
