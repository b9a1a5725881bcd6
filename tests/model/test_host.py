"""Reading a machine from recorded trees: one with two sockets, threads and two cells; one that tells almost nothing."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from proto.networks import Bridge, Uplink, faults_of
from services.node.host import cgroup_tree, cpu, disks, memory, network
from services.node.host.boot_sector import boot_sector
from services.node.host.cgroup import Groups
from services.node.host.cgroup_tree import Base, Limits, settings
from services.node.host.identity import boot_id
from services.node.host.qemu import QemuUnusable, parse_version
from services.node.host.text import parse_list

MEMINFO = """MemTotal:       24684544 kB
MemFree:         1048576 kB
MemAvailable:    8388608 kB
SwapTotal:             0 kB
HugePages_Total:      16
Hugepagesize:       2048 kB
"""
CELL = "Node {n} MemTotal:  12342272 kB\nNode {n} MemFree:  524288 kB\nNode {n} FilePages: 307200 kB\nNode {n} Shmem: 102400 kB\n"
V1 = """24 1 0:20 / /proc rw,nosuid - proc proc rw
30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 24 8:1 / / rw,relatime - ext4 /dev/sda1 rw
34 33 8:2 / /srv/vm\\040disks rw,relatime - xfs /dev/sdb1 ro
"""
V1_OWN = "5:memory:/user/7\n4:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"


def plant(root: Path, files: dict[str, str]) -> Path:
    """A tree of files, as a machine showed them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """2 sockets x 2 cores x 2 threads, a cell per socket; this process may use half of it."""
    files = {
        "sys/devices/system/cpu/online": "0-7",
        "sys/devices/system/node/online": "0-1",
        "proc/meminfo": MEMINFO,
        "proc/self/status": "Name:\tx\nCpus_allowed_list:\t0,2-4",
        "proc/sys/kernel/random/boot_id": "6f1c2d3e-0000-4000-8000-000000000001",
        "sys/class/net/br0/bridge/stp_state": "0",
        "sys/class/net/eth0/address": "52:54:00:00:00:01",
    }
    for n in range(8):
        place = f"sys/devices/system/cpu/cpu{n}/topology"
        socket, core = n % 2, n // 2 % 2
        files |= {
            f"{place}/physical_package_id": str(socket),
            f"{place}/core_id": str(core),
            f"{place}/thread_siblings_list": f"{n % 4},{n % 4 + 4}",
        }
    for n in range(2):
        place = f"sys/devices/system/node/node{n}"
        files |= {
            f"{place}/cpulist": f"{n},{n + 2},{n + 4},{n + 6}",
            f"{place}/distance": "10 21" if n == 0 else "21 10",
            f"{place}/meminfo": CELL.format(n=n),
        }
    return plant(tmp_path, files)


def test_cpus_sockets_cores_and_siblings(big: Path) -> None:
    seen = cpu.topology(big)
    assert (len(seen.pcpus), seen.sockets, seen.cores) == (8, 2, 4)
    assert seen.pcpus[5] == cpu.Pcpu(number=5, socket=1, core=0, siblings=(1, 5))
    assert seen.usable == (0, 2, 3, 4)


def test_a_machine_that_tells_no_topology_has_a_core_per_cpu(tmp_path: Path) -> None:
    root = plant(tmp_path, {"sys/devices/system/cpu/online": "0-1"})
    plant(root, {"sys/devices/system/cpu/cpu0/topology/physical_package_id": "-1"})
    seen = cpu.topology(root)
    assert [(p.socket, p.core, p.siblings) for p in seen.pcpus] == [(0, 0, (0,)), (0, 1, (1,))]
    assert seen.usable == (0, 1)


def test_memory_and_cells(big: Path) -> None:
    assert memory.memory(big) == memory.Memory(24106, 8192, 0, 32)
    first, second = memory.cells(big)
    assert first == memory.Cell(0, (0, 2, 4, 6), 12053, 512, (10, 21), available_mib=712)
    assert second.distances == (21, 10)


def test_what_is_left_of_a_cell_is_told_by_the_pcpus_that_a_node_has_of_it(big: Path) -> None:
    assert memory.available_of(((2, 4), (3,)), big) == (712, 712)
    assert memory.available_of(((0, 1),), big) == (), "no cell has both"


def test_a_machine_without_numa_has_no_cells(tmp_path: Path) -> None:
    assert memory.cells(tmp_path) == () == memory.available_of(((0,),), tmp_path)


def test_a_bridge_and_how_it_leads_out(tmp_path: Path) -> None:
    net = "sys/class/net"
    root = plant(
        tmp_path,
        {
            f"{net}/lan/bridge/stp_state": "0", f"{net}/lan/mtu": "9000",
            **{f"{net}/lan/brif/{port}/priority": "32" for port in ("bond0", "eth2", "eth3.7", "asv0", "to-other")},
            f"{net}/bond0/bonding/slaves": "eth1 eth0", f"{net}/bond0/carrier": "1", f"{net}/bond0/speed": "20000",
            f"{net}/eth0/bonding_slave/mii_status": "up", f"{net}/eth1/bonding_slave/mii_status": "going down",
            f"{net}/eth2/device/vendor": "0x8086", f"{net}/eth2/carrier": "0", f"{net}/eth2/speed": "-1",
            f"{net}/eth3.7/uevent": "DEVTYPE=vlan\nINTERFACE=eth3.7", f"{net}/eth3.7/carrier": "1",
            f"{net}/asv0/tun_flags": "0x1002", f"{net}/asv0/carrier": "1",
            f"{net}/to-other/iflink": "4", f"{net}/to-other/ifindex": "5", f"{net}/to-other/carrier": "1",
        },
    )  # fmt: skip
    (lan,) = network.bridges(root)
    assert lan == Bridge(
        name="lan", mtu=9000,
        uplinks=(
            Uplink(name="bond0", kind="bond", speed_mbps=20_000, members=(("eth0", True), ("eth1", False))),
            Uplink(name="eth2", carrier=False),
            Uplink(name="eth3.7", kind="vlan"),
            Uplink(name="to-other", kind="veth"),
        ),
    ), "taps of VMs are no ways out"
    assert faults_of(lan) == (
        "bond bond0 of bridge lan lost eth1; 1 of its members carry",
        "eth2, by which bridge lan leads out, has no carrier",
    )


def test_bridges_and_boot_id(big: Path) -> None:
    assert network.bridges(big) == (Bridge(name="br0"),)
    assert boot_id(big) == "6f1c2d3e-0000-4000-8000-000000000001"


def test_mounts_and_read_only_ones() -> None:
    seen = disks.parse_mounts(V1)
    inside = disks.mount_of(PurePosixPath("/srv/vm disks/a.qcow2"), seen)
    assert inside is not None
    assert (inside.at, inside.kind, inside.read_only) == ("/srv/vm disks", "xfs", True)
    outside = disks.mount_of(PurePosixPath("/srv/other"), seen)
    assert outside is not None
    assert (outside.at, outside.read_only) == ("/", False)


def test_groups_of_version_1_are_below_our_own(tmp_path: Path) -> None:
    plant(tmp_path, {"proc/self/mountinfo": V1, "proc/self/cgroup": V1_OWN})
    tree = tmp_path / "sys/fs/cgroup"
    assert cgroup_tree.bases(tmp_path) == (
        Base(1, tree / "cpu,cpuacct", ("cpu",)),
        Base(1, tree / "memory/user/7", ("memory",)),
    )


def test_groups_of_version_2_inside_a_container(tmp_path: Path) -> None:
    """A part of the tree is mounted: our path in the whole tree is not the path below the mount."""
    mount = "30 24 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate"
    plant(tmp_path, {"proc/self/mountinfo": mount, "proc/self/cgroup": "0::/docker/abc/svc"})
    plant(tmp_path, {"sys/fs/cgroup/svc/cgroup.controllers": "cpuset cpu io memory"})
    assert cgroup_tree.bases(tmp_path) == (Base(2, tmp_path / "sys/fs/cgroup/svc", ("cpu", "memory")),)


def test_a_machine_without_control_groups_enforces_nothing_and_says_so(tmp_path: Path) -> None:
    groups = Groups(tmp_path)
    assert groups.ability().not_enforced == ("cpu-weight", "cpu-limit", "memory-limit", "process-limit")
    assert groups.join("web-1", 1) == ""
    assert groups.remove("")
    assert groups.cpu_lack().endswith("none of this machine's control-group trees offers one to this process")


def test_a_tree_that_is_not_handed_down_is_named(tmp_path: Path) -> None:
    """As a service without delegation finds version 2: the controller is there, and groups below do not get it."""
    mount = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate"
    plant(tmp_path, {"proc/self/mountinfo": mount, "proc/self/cgroup": "0::/svc"})
    plant(tmp_path, {"sys/fs/cgroup/svc/cgroup.controllers": "cpu memory"})
    said = Groups(tmp_path).cpu_lack()
    assert said.endswith(f"{tmp_path}/sys/fs/cgroup/svc does not hand it down to groups below (version 2)"), said


@pytest.mark.parametrize(
    ("version", "controller", "expected"),
    [
        (2, "cpu", {"cpu.weight": "50", "cpu.max": "150000 100000"}),
        (1, "cpu", {"cpu.shares": "512", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"}),
        (2, "memory", {"memory.max": "536870912"}),
        (1, "memory", {"memory.limit_in_bytes": "536870912"}),
        (2, "pids", {}),
    ],
)
def test_settings_in_the_words_of_each_version(version: int, controller: str, expected: dict[str, str]) -> None:
    limits = Limits(cpu_weight=50, pcpus_max=1.5, memory_mib_max=512)
    assert settings(version, controller, limits) == expected


def test_lists_of_numbers() -> None:
    assert parse_list("0-3,8\n") == (0, 1, 2, 3, 8)
    assert parse_list("\n") == ()


def test_versions() -> None:
    assert parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2)") == "7.2.22"
    with pytest.raises(QemuUnusable, match="not QEMU"):
        parse_version("GNU bash")


def test_the_boot_sector_is_one() -> None:
    sector = boot_sector()
    assert (len(sector), sector[-2:]) == (512, b"\x55\xaa")
    # the jump into long mode lands on the code that says L
    assert sector[0x70:0x74] == bytes([0xB0, ord("L"), 0xE6, 0xE9])
