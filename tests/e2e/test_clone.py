"""A VM is cloned while it runs: the same definition, its data, an identity of its own."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest


def written(cluster: EmbeddedCluster, vm: str) -> str:
    return guest(cluster, vm, "sh", "-c", "head -c6 /dev/vdb | tr -d '\\0'")


@pytest.mark.timeout(300)
def test_a_running_vm_is_cloned_with_its_data_and_an_identity_of_its_own(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "first", *TINY, "--disk", "32MiB,iops=900", "--vcpus-max", "3", "--wait")
    guest(cluster, "first", "sh", "-c", "printf before | dd of=/dev/vdb conv=fsync 2>/dev/null; echo done")
    code, said = cluster.refused("vm", "clone", "first", "first")
    assert code == 1 and "another name" in said
    cluster.ctl("vm", "clone", "first", "second")
    guest(cluster, "first", "sh", "-c", "printf after_ | dd of=/dev/vdb conv=fsync 2>/dev/null; echo done")
    cluster.until(lambda: written(cluster, "second") == "before", "the clone runs and has what was written")
    one, two = cluster.json("vm", "show", "first"), cluster.json("vm", "show", "second")
    assert (two["vcpus"], two["vcpus_max"], two["memory_mib"]) == (one["vcpus"], 3, one["memory_mib"])
    assert two["disks"][1]["limits"] == one["disks"][1]["limits"] and two["uuid"] != one["uuid"]
    macs = {nic["mac"] for vm in (one, two) for nic in vm["nics"]}
    serials = {disk["serial"] for vm in (one, two) for disk in vm["disks"]}
    assert (len(macs), len(serials)) == (2, 4)
    cluster.until(lambda: cluster.json("snapshot", "ls", "first") == [], "the snapshot that was taken for it is merged away")
    assert written(cluster, "first") == "after_"
    for vm in ("second", "first"):
        cluster.ctl("vm", "stop", vm, "--force", "--wait")
    cluster.ctl("vm", "clone", "first", "third", "--no-start")
    assert cluster.json("vm", "show", "third")["state"] == "stopped"
    for vm in ("third", "second", "first"):
        cluster.ctl("vm", "delete", vm, "--wait")
    for image in ("third-disk0", "third-disk1", "second-disk0", "second-disk1"):
        cluster.ctl("image", "delete", image, "--wait")
