"""A guest grows while it runs: seen from inside, and still so after a move and a restart."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import EmbeddedCluster
from tests.e2e.test_journeys import TINY, guest

INSIDE = ("/bin/sh", "-c", "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo; cat /proc/sys/kernel/random/boot_id")


def inside(cluster: EmbeddedCluster, vm: str) -> tuple[int, int, str]:
    """vCPUs, MiB, and the boot that sees them."""
    vcpus, mib, boot = guest(cluster, vm, *INSIDE).split()
    return int(vcpus), int(mib), boot


@pytest.mark.timeout(300)
def test_a_guest_grows_and_shrinks_and_keeps_its_size(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "grow", *TINY)
    vcpus, mib, boot = inside(cluster, "grow")
    assert vcpus == 1
    cluster.ctl("vm", "set", "grow", "--vcpus", "2", "--memory", "384MiB", "--wait")
    more, larger, same = inside(cluster, "grow")
    assert (more, same) == (2, boot) and larger > mib + 200
    shown = cluster.json("vm", "show", "grow")
    assert (shown["vcpus"], shown["memory_mib"]) == (2, 384)
    ledger = cluster.json("memory", "show", shown["node"])
    assert next(h for h in ledger["held"] if h["vm"] == "grow")["promise"]["nominal_mib"] == 384
    code, said = cluster.refused("vm", "set", "grow", "--vcpus", "64")
    assert code == 1 and "needs a restart" in said
    other = next(n["name"] for n in cluster.json("node", "ls") if n["name"] != shown["node"])
    cluster.ctl("vm", "migrate", "grow", "--to", other, "--wait")
    assert inside(cluster, "grow") == (2, larger, boot)
    cluster.ctl("vm", "set", "grow", "--vcpus", "1", "--memory", "256MiB", "--wait")
    fewer, smaller, same = inside(cluster, "grow")
    assert (fewer, same) == (1, boot) and smaller < larger - 100
    cluster.ctl("vm", "stop", "grow", "--force", "--wait")
    cluster.ctl("vm", "set", "grow", "--vcpus", "2", "--wait")
    cluster.ctl("vm", "start", "grow", "--wait")
    again, _, other_boot = inside(cluster, "grow")
    assert again == 2 and other_boot != boot
    told = [each["type"] for each in cluster.json("vm", "history", "grow")]
    assert told.count("vm_resized") == 2 and "vm_reshaped" in told
    sizes = cluster.json("vm", "history", "grow", "--size")
    assert [each["type"] for each in sizes].count("vm_resize_requested") == 2
    assert {each["asked_by"] for each in sizes} == {"user:admin"}
    cluster.ctl("vm", "stop", "grow", "--force", "--wait")
    cluster.ctl("vm", "delete", "grow", "--wait")


def looks(cluster: EmbeddedCluster, script: str, expected: str) -> None:
    """Inside `grow`, within the usual wait."""
    cluster.until(lambda: guest(cluster, "plug", "/bin/sh", "-c", script) == expected, f"{script}: {expected}")


def writes(cluster: EmbeddedCluster, disk: str) -> int:
    """Of `plug`, as its I/O view counts them."""
    (seen,) = (d for d in cluster.json("vm", "io", "plug")["devices"] if d["name"] == disk)
    (write,) = (r for r in seen["requests"] if r["kind"] == "write")
    return int(write["total"])


@pytest.mark.timeout(300)
def test_disks_and_nics_come_and_go_while_it_runs(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "plug", *TINY)
    boot = guest(cluster, "plug", "cat", "/proc/sys/kernel/random/boot_id")
    cluster.ctl("disk", "attach", "plug", "--size", "64MiB", "--mibps", "2", "--wait")
    looks(cluster, "cat /sys/block/vdb/size", str(64 * 2048))
    assert guest(cluster, "plug", "/bin/sh", "-c", "echo kept | dd of=/dev/vdb conv=fsync 2>/dev/null; head -c4 /dev/vdb") == "kept"
    disks = {d["name"]: d for d in cluster.json("disk", "ls", "plug")}
    assert disks["disk1"]["size_mib"] == 64 and disks["disk1"]["limits"]["mibps"] == 2
    cluster.ctl("disk", "resize", "plug", "disk1", "96MiB", "--wait")
    looks(cluster, "cat /sys/block/vdb/size", str(96 * 2048))
    code, said = cluster.refused("disk", "resize", "plug", "disk1", "32MiB")
    assert code == 1 and "96" in said
    code, said = cluster.refused("disk", "detach", "plug", "disk0")
    assert code == 1 and "boot" in said
    written = "dd if=/dev/zero of=/dev/vdb bs=64k seek=1 count=16 oflag=direct 2>/dev/null && echo written"
    before = writes(cluster, "disk1")
    assert guest(cluster, "plug", "/bin/sh", "-c", written) == "written"
    assert writes(cluster, "disk1") == before + 16
    told = {each["type"]: each["asked_by"] for each in cluster.json("vm", "history", "plug")}
    assert {told[type] for type in ("devices_changed", "device_attached", "disk_resized")} == {"user:admin"}
    cluster.ctl("nic", "attach", "plug", "--wait")
    mac = cluster.json("nic", "ls", "plug")[1]["mac"]
    looks(cluster, "cat /sys/class/net/eth1/address", mac)
    cluster.ctl("nic", "set", "plug", "nic1", "--link", "down", "--wait")
    looks(cluster, "ip link set eth1 up; cat /sys/class/net/eth1/carrier", "0")
    node = cluster.json("vm", "show", "plug")["node"]
    other = next(n["name"] for n in cluster.json("node", "ls") if n["name"] != node)
    cluster.ctl("vm", "migrate", "plug", "--to", other, "--wait")
    looks(cluster, "head -c4 /dev/vdb; ls /sys/class/net | grep -c eth", "kept2")
    cluster.kill(other)
    cluster.ctl("nic", "detach", "plug", "nic1", "--wait")
    looks(cluster, "ls /sys/class/net | grep -c eth", "1")
    cluster.ctl("disk", "detach", "plug", "disk1", "--wait")
    looks(cluster, "ls /sys/block | grep -c vdb || true", "0")
    assert "detached, its file left" in cluster.ctl("disk", "ls", "plug")
    cluster.ctl("disk", "attach", "plug", "--again", "disk1", "--wait")
    looks(cluster, "head -c4 /dev/vdb", "kept")
    code, said = cluster.refused("disk", "attach", "plug", "--again", "disk1")
    assert code == 1 and "is attached" in said
    cluster.ctl("disk", "detach", "plug", "disk1", "--delete", "--wait")
    looks(cluster, "ls /sys/block | grep -c vdb || true", "0")
    assert guest(cluster, "plug", "cat", "/proc/sys/kernel/random/boot_id") == boot
    cluster.ctl("vm", "stop", "plug", "--force", "--wait")
    cluster.ctl("disk", "attach", "plug", "--size", "32MiB", "--bus", "nvme", "--wait")
    cluster.ctl("vm", "start", "plug", "--wait")
    looks(cluster, "cat /sys/block/nvme0n1/size", str(32 * 2048))
    cluster.ctl("vm", "stop", "plug", "--force", "--wait")
    cluster.ctl("vm", "delete", "plug", "--wait")


@pytest.mark.timeout(300)
def test_a_guest_grows_by_modules_and_says_what_it_cost(cluster: EmbeddedCluster) -> None:
    cluster.ctl("vm", "create", "board", *TINY, "--memory-by", "dimm", "--disk", "32MiB,bus=nvme,iops=500")
    _, mib, boot = inside(cluster, "board")
    code, said = cluster.refused("vm", "set", "board", "--memory", "300MiB")
    assert code == 1 and "384 MiB" in said
    cluster.ctl("vm", "set", "board", "--memory", "384MiB", "--wait")
    _, larger, same = inside(cluster, "board")
    assert larger > mib + 100 and same == boot
    shown = cluster.json("vm", "show", "board")
    assert (shown["memory_by"], shown["hardware"]["dimms_mib"]) == ("dimm", [256])
    assert "are reserved" in cluster.ctl("vm", "history", "board")
    assert guest(cluster, "board", "cat", "/sys/block/nvme0n1/size") == str(32 * 2048)
    other = next(n["name"] for n in cluster.json("node", "ls") if n["name"] != shown["node"])
    code, said = cluster.refused("vm", "migrate", "board", "--to", other)
    assert code == 1 and "nvme" in said
    cluster.ctl("disk", "detach", "board", "disk1", "--delete", "--wait")
    cluster.ctl("vm", "migrate", "board", "--to", other, "--wait")
    cluster.ctl("vm", "set", "board", "--memory", "128MiB", "--wait")
    _, smaller, same = inside(cluster, "board")
    assert smaller < larger - 100 and same == boot
    cluster.ctl("vm", "stop", "board", "--force", "--wait")
    cluster.ctl("vm", "delete", "board", "--wait")
