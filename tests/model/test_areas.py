"""Memory areas in made-up trees of control groups, of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from proto.compute import GoneCause
from proto.memory import Area
from proto.node import AreaNow
from services.node.drivers import MachineChanged
from services.node.drivers.qemu.ends import explained
from services.node.host import areas, cgroup_memory
from services.node.host.cgroup import Groups
from services.node.host.cgroup_tree import Limits

MIB = 1 << 20
CLASSES = tuple(Area(name=f"vms-{c}", max_mib=1000) for c in ("critical", "important", "normal", "best-effort"))


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def v1(folder: Path, used_mib: int = 0) -> Path:
    """A group as the kernel would make it."""
    names = ("memory.limit_in_bytes", "memory.soft_limit_in_bytes")
    plant(folder, {name: str(2**63 - 4096) for name in names})
    plant(folder, {"memory.usage_in_bytes": str(used_mib * MIB), "memory.max_usage_in_bytes": str(used_mib * MIB)})
    plant(folder, {"memory.swappiness": "60", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0"})
    return folder


def v2(folder: Path) -> Path:
    plant(folder, {f"memory.{name}": "0" for name in ("min", "low", "current", "peak")})
    plant(folder, {f"memory.{name}": "max" for name in ("high", "max", "swap.max")})
    return folder


def test_limits_in_the_words_of_version_2(tmp_path: Path) -> None:
    group = v2(tmp_path / "g")
    area = Area(name="x", min_mib=1, low_mib=2, high_mib=3, max_mib=4)
    assert cgroup_memory.set_limits(group, area) == []
    read = {name: (group / f"memory.{name}").read_text() for name in ("min", "low", "high", "max")}
    assert read == {"min": str(MIB), "low": str(2 * MIB), "high": str(3 * MIB), "max": str(4 * MIB)}
    assert cgroup_memory.set_limits(group, Area(name="x")) == []
    assert (group / "memory.max").read_text() == "max" and (group / "memory.min").read_text() == "0"


@pytest.mark.parametrize(
    ("area", "soft_mib"),
    [
        (Area(name="x", min_mib=1, low_mib=2, high_mib=3, max_mib=4), 2),
        (Area(name="x", min_mib=1, max_mib=4), 1),
        (Area(name="x", high_mib=3, max_mib=4), 3),
    ],
)
def test_limits_in_the_words_of_version_1(tmp_path: Path, area: Area, soft_mib: int) -> None:
    group = v1(tmp_path / "g")
    assert cgroup_memory.set_limits(group, area) == []
    assert (group / "memory.soft_limit_in_bytes").read_text() == str(soft_mib * MIB)
    assert (group / "memory.limit_in_bytes").read_text() == str(4 * MIB)


def test_a_limit_that_does_not_hold_is_told(tmp_path: Path) -> None:
    group = v2(tmp_path / "g")
    (group / "memory.high").unlink()
    (group / "memory.high").mkdir()
    faults = cgroup_memory.set_limits(group, Area(name="x", high_mib=300))
    assert len(faults) == 1 and faults[0].startswith("memory.high does not take 300 MiB")


def test_a_vms_own_limits(tmp_path: Path) -> None:
    new, old = v2(tmp_path / "new"), v1(tmp_path / "old")
    assert cgroup_memory.set_vm(str(new), 512, 0) == []
    assert ((new / "memory.high").read_text(), (new / "memory.swap.max").read_text()) == (str(512 * MIB), "0")
    assert cgroup_memory.set_vm(str(old), 0, 0) == []
    assert (old / "memory.swappiness").read_text() == "0", "it is not swapped unless ordered"
    assert cgroup_memory.set_vm(str(old), 512, 64) == []
    assert (old / "memory.swappiness").read_text() == "60"
    assert cgroup_memory.set_vm("", 0, 0) == [] and cgroup_memory.set_vm("", 1, 0) != []


def test_vms_together_hold_what_there_is_for_them() -> None:
    modules = (Area(name="host", min_mib=500), Area(name="agent", min_mib=7, max_mib=5000))
    promised = (Area(name="vms-normal", min_mib=30, low_mib=40, max_mib=900), *CLASSES[:1])
    assert areas.for_vms((*modules, *promised)) == Area(name="", min_mib=30, low_mib=40, max_mib=1000)
    assert areas.for_vms((*CLASSES, Area(name="vms-extra"))).max_mib == 0, "one without a limit may take all"
    assert areas.for_vms(modules) == Area(name="")


def test_in_version_2_only_groups_of_groups_hand_controllers_down(tmp_path: Path) -> None:
    """One that does can hold no process: the agent could not stand in its own."""
    mount = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw"
    plant(tmp_path, {"proc/self/mountinfo": mount, "proc/self/cgroup": "0::/job"})
    job = tmp_path / "sys/fs/cgroup/job"
    plant(job, {"cgroup.controllers": "memory", "cgroup.subtree_control": "memory"})
    plant(job, {"asv-n1/cgroup.subtree_control": "memory"})
    groups = Groups(tmp_path, "asv-n1")
    for area in ("agent", "vms-normal"):
        assert groups.area(area) is not None
    assert (job / "asv-n1/vms-normal/cgroup.subtree_control").exists()
    assert not (job / "asv-n1-agent/cgroup.subtree_control").exists()
    assert areas.shelter(groups) and (job / "asv-n1-agent/cgroup.procs").exists()


def test_promises_hold_only_below_promises(tmp_path: Path) -> None:
    plant(tmp_path, {"slice/memory.min": "0", "slice/agent/memory.min": "0"})
    assert not cgroup_memory.promised(tmp_path / "slice/agent")
    plant(tmp_path, {"slice/agent/memory.min": "4096"})
    assert not cgroup_memory.promised(tmp_path / "slice/agent")
    plant(tmp_path, {"slice/memory.min": "8192"})
    assert cgroup_memory.promised(tmp_path / "slice/agent") and cgroup_memory.promised(tmp_path)


def test_areas_are_made_below_the_nodes_group(tmp_path: Path) -> None:
    mount = "33 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    plant(tmp_path, {"proc/self/mountinfo": mount, "proc/self/cgroup": "4:memory:/job"})
    top = v1(tmp_path / "sys/fs/cgroup/memory/job/asv-n1")
    for area in CLASSES:
        v1(top / area.name)
    groups = Groups(tmp_path, "asv-n1")
    beside = {name: v1(tmp_path / f"sys/fs/cgroup/memory/job/asv-n1-{name}") for name in ("agent", "storage", "network")}
    (beside["storage"] / "memory.limit_in_bytes").write_text("4096")
    control = v1(tmp_path / "elsewhere")
    given = (Area(name="host", min_mib=9), Area(name="agent", max_mib=70), Area(name="control-plane", max_mib=80), *CLASSES)
    assert areas.apply(groups, given, control) == []
    assert sorted(p.name for p in top.iterdir() if p.is_dir()) == sorted(a.name for a in CLASSES)
    assert (beside["agent"] / "memory.limit_in_bytes").read_text() == str(70 * MIB)
    assert (beside["storage"] / "memory.limit_in_bytes").read_text() == "-1", "a module that is not named any more is let go"
    assert (control / "memory.limit_in_bytes").read_text() == str(80 * MIB)
    swappiness = {a.name: (top / a.name / "memory.swappiness").read_text() for a in CLASSES}
    assert {name for name, word in swappiness.items() if word != "0"} == {"vms-best-effort"}
    assert (control / "memory.swappiness").read_text() == (beside["agent"] / "memory.swappiness").read_text() == "0"
    assert (top / "vms-normal/memory.limit_in_bytes").read_text() == str(1000 * MIB)
    assert (top / "memory.limit_in_bytes").read_text() == str(1000 * MIB)
    handle = groups.make("web-1.12", Limits(), "vms-normal")
    assert Path(handle) == top / "vms-normal/web-1.12"
    v1(Path(handle))
    assert cgroup_memory.area_name(handle) == "vms-normal"


def test_a_host_without_groups_says_so(tmp_path: Path) -> None:
    assert areas.apply(Groups(tmp_path), CLASSES) == ["areas: this host lets us make no control groups for memory"]
    assert areas.apply(Groups(tmp_path), ()) == []
    assert not areas.shelter(Groups(tmp_path)) and areas.now(Groups(tmp_path)) == ()


def test_who_was_killed_for_want_of_memory_is_told_why(tmp_path: Path) -> None:
    area = v1(tmp_path / "vms-normal", 300)
    group = v1(area / "mad.12", 290)
    cgroup_memory.set_limits(area, Area(name="vms-normal", max_mib=300))
    gone = MachineChanged("mad", 1, "gone", GoneCause.UNKNOWN, "QEMU ended by signal 9")
    groups = Groups(tmp_path)
    assert explained(gone, groups, str(group)) == gone
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1")
    told = explained(gone, groups, str(group))
    assert told.cause is GoneCause.CRASHED
    assert "want of memory" in told.sentence and "290 MiB" in told.sentence and "vms-normal is 300 MiB" in told.sentence
    ordered = MachineChanged("mad", 1, "gone", GoneCause.ORDERED)
    assert explained(ordered, groups, str(group)) == ordered


def test_in_version_2_only_best_effort_vms_may_be_swapped(tmp_path: Path) -> None:
    group = v2(tmp_path / "g")
    assert cgroup_memory.set_limits(group, Area(name="vms-critical")) == []
    assert (group / "memory.swap.max").read_text() == "0"
    assert cgroup_memory.set_limits(group, Area(name="vms-best-effort"), swapped=True) == []
    assert (group / "memory.swap.max").read_text() == "max", "each VM's own group says how much"


def test_how_an_area_fares(tmp_path: Path) -> None:
    new, old = v2(tmp_path / "new"), v1(tmp_path / "old", 300)
    plant(new, {
        "memory.current": str(50 * MIB), "memory.max": str(70 * MIB), "memory.events": "low 0\nhigh 3\nmax 9\noom 1\noom_kill 2",
        "memory.pressure": "some avg10=1.50 avg60=0 avg300=0 total=1\nfull avg10=0.50 avg60=0 avg300=0 total=1",
    })  # fmt: skip
    plant(old, {"memory.failcnt": "7", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1"})
    assert cgroup_memory.area_now("x", new, True) == AreaNow("x", 50, 0, 70, True, 9, 2, 1.5, 0.5)
    assert cgroup_memory.area_now("x", old, False) == AreaNow("x", 300, 300, 0, False, 7, 1, -1.0, -1.0)
