"""A guest is destroyed, and is back from its backup, with what that held; one that is damaged is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest

VM = "back-1"


def sh(cluster: EmbeddedCluster, script: str, vm: str = VM) -> str:
    """What it says last; it says when it is done."""
    waits = "until grep -q ' /data ' /proc/mounts; do sleep 0.1; done"
    return guest(cluster, vm, "/bin/sh", "-c", f"{waits}\n{script}\necho done").removesuffix("done").strip()


def backups(cluster: EmbeddedCluster) -> list[str]:
    return [one["backup"]["id"] for one in cluster.json("backup", "ls", VM)["items"]]


def home(cluster: EmbeddedCluster, vm: str = VM) -> None:
    def own() -> bool:
        mine = [one["recovery"] for one in cluster.json("recovery", "ls") if one["recovery"]["target"] == vm]
        return bool(mine[-1]["state"] == "independent")

    cluster.until(own, f"the data of {vm} to be home")


@pytest.mark.timeout(400)
def test_a_guest_is_back_as_it_was(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", VM, *TINY)
    sh(cluster, "echo one > /data/kept; sync")
    cluster.ctl("backup", "create", VM, "--pool", "default", "--require-freeze", "--wait")
    sh(cluster, "echo two >> /data/kept; sync")
    cluster.ctl("backup", "create", VM, "--pool", "default", "--wait")
    first, second = backups(cluster)
    shown = cluster.json("backup", "show", VM, second)["backup"]
    assert (shown["kind"], shown["parent"], shown["consistency"]) == ("incremental", first, "filesystem")
    sh(cluster, "echo three >> /data/kept; sync")

    code, said = cluster.refused("vm", "recover", VM)
    assert code == 1 and "stop" in said
    cluster.ctl("vm", "stop", VM, "--force", "--wait")
    code, said = cluster.refused("vm", "recover", VM)
    assert code == 1 and f"--lose {VM}" in said
    code, said = cluster.refused("vm", "recover", VM, "--at", "2020-01-01T00:00:00Z", "--as", "other")
    assert code == 1 and first in said, "the first one is named"
    cluster.ctl("vm", "recover", VM, "--lose", VM, "--rate", "2", "--no-start", "--wait")
    code, said = cluster.refused("backup", "delete", VM, first)
    assert code == 1 and VM in said, "held, as it stands on it"
    cluster.ctl("vm", "start", VM, "--wait")
    code, said = cluster.refused("vm", "migrate", VM)
    assert code == 1
    assert sh(cluster, "cat /data/kept") == "one\ntwo"
    home(cluster)

    cluster.ctl("vm", "recover", VM, "--backup", first, "--as", "other", "--isolated", "--wait")
    assert sh(cluster, "cat /data/kept", "other") == "one"
    home(cluster, "other")
    for vm in (VM, "other"):
        cluster.ctl("vm", "stop", vm, "--force", "--wait")
        cluster.ctl("vm", "delete", vm, "--wait")
    assert not [path for path in Path(cluster.home).rglob("disks/*") if path.name.startswith((f"{VM}-", "other-"))]
    assert backups(cluster) == [first, second], "they outlive their VM"


@pytest.mark.timeout(400)
def test_what_is_damaged_is_found_and_refused(cluster: EmbeddedCluster) -> None:
    """Of the VM that the last test deleted."""
    first, second = backups(cluster)
    (file,) = (path for path in Path(cluster.home).rglob(f"backups/{VM}/{second}/*.qcow2"))
    with file.open("r+b") as damaged:
        damaged.seek(file.stat().st_size // 2)
        byte = damaged.read(1)[0]
        damaged.seek(-1, 1)
        damaged.write(bytes([byte ^ 1]))
    code, said = cluster.refused("backup", "verify", VM, second, "--wait")
    assert code == 1 and second in said
    code, said = cluster.refused("vm", "recover", VM)
    assert code == 1 and "damaged" in said and first in said, "the newest sound one is named"
    assert [alert["kind"] for alert in cluster.json("alerts") if VM in alert["object"]] == ["backup-damaged"]
    cluster.ctl("vm", "recover", VM, "--backup", first, "--wait")
    assert sh(cluster, "cat /data/kept") == "one"
    home(cluster)
    cluster.ctl("backup", "delete", VM, second, "--wait")
    cluster.ctl("vm", "stop", VM, "--force", "--wait")
    cluster.ctl("vm", "delete", VM, "--wait")
