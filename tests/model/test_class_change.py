"""A VM's class changes while it runs, in made-up trees of control groups of both versions: where its process goes, and what of its
limits goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node.host import cgroup_class, cgroup_memory
from services.node.host.cgroup import Groups
from services.node.host.cgroup_class import CannotChange, Group

MIB = 1 << 20
PID = 4711
NONE = str(2**63 - 4096)
MOUNT = {
    1: "33 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    2: "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw",
}
OWN = {1: "4:memory:/job", 2: "0::/job"}
JOB = {1: "sys/fs/cgroup/memory/job", 2: "sys/fs/cgroup/job"}


def plant(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def group(folder: Path, version: int, used_mib: int = 0) -> Path:
    """As the kernel makes one: without limits, and with the swappiness of the one above."""
    if version == 1:
        files = dict.fromkeys(("limit_in_bytes", "memsw.limit_in_bytes", "soft_limit_in_bytes"), NONE)
        files |= {"usage_in_bytes": str(used_mib * MIB), "swappiness": "60"}
        plant(folder, {"cgroup.procs": ""})
    else:
        files = dict.fromkeys(("high", "max", "swap.max"), "max") | {"current": str(used_mib * MIB)}
        plant(folder, {"cgroup.procs": "", "cpu.weight": "100", "cpu.max": "max 100000", "pids.max": "max"})
    return plant(folder, {f"memory.{name}": text for name, text in files.items()})


class Tree:
    """A node with a VM in the area of normal ones, which uses 300 MiB and may use 512; and room for it in two others."""

    def __init__(self, root: Path, version: int) -> None:
        self.version = version
        plant(root, {"proc/self/mountinfo": MOUNT[version], "proc/self/cgroup": OWN[version]})
        job = root / JOB[version]
        handed = {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids"}
        self.top = job / "asv-n1"
        for folder in (job, self.top):
            plant(folder, handed if version == 2 else {})
            group(folder, version)
        self.vm = {area: group(self.top / f"vms-{area}/web-1.0a", version) for area in ("normal", "critical", "best-effort")}
        for area in self.vm:
            plant(self.top / f"vms-{area}", {"cgroup.subtree_control": "cpu memory pids"})
            group(self.top / f"vms-{area}", version)
        self.groups = Groups(root, "asv-n1")
        group(self.vm["normal"], version, used_mib=300)
        (self.vm["normal"] / "cgroup.procs").write_text(str(PID))
        (self.vm["normal"] / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(512 * MIB))
        assert cgroup_memory.set_vm(self.handle, 0, 0) == []

    @property
    def handle(self) -> str:
        return f"/elsewhere/web-1\n{self.vm['normal']}"

    def change(self, area: str, before: Group | None = None) -> tuple[Group, list[str]]:
        wish = before or Group(self.handle)
        return cgroup_class.change(self.groups, wish, PID, f"vms-{area}", swapped=area == "best-effort")

    def read(self, area: str, name: str) -> str:
        return (self.vm[area] / name).read_text()


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return Tree(tmp_path, request.param)


def words(tree: Tree, area: str) -> tuple[str, str]:
    """(its limit, whether it may be swapped)"""
    return (
        (tree.read(area, "memory.limit_in_bytes"), tree.read(area, "memory.swappiness"))
        if tree.version == 1
        else (tree.read(area, "memory.max"), tree.read(area, "memory.swap.max"))
    )


def test_a_process_goes_to_its_new_class_with_its_limits_and_without_swap(tree: Tree) -> None:
    now, said = tree.change("critical")
    assert said == [] and now.handle == f"/elsewhere/web-1\n{tree.vm['critical']}", "other trees are as they were"
    assert tree.read("critical", "cgroup.procs") == str(PID)
    assert words(tree, "critical") == (str(512 * MIB), "0")
    assert not cgroup_class.differs(now.handle, "vms-critical") and tree.change("critical", now) == (now, [])


def test_what_it_held_stays_charged_where_it_was_and_is_kept_from_swap(tree: Tree) -> None:
    assert cgroup_class.charges_stay(tree.groups)
    tree.vm["normal"].joinpath("memory.swappiness" if tree.version == 1 else "memory.swap.max").write_text("60")
    now, said = tree.change("critical")
    assert said == [] and now.former == (str(tree.vm["normal"]),)
    assert cgroup_class.former_kib(now.former) == 300 << 10
    assert words(tree, "normal") == (str(512 * MIB), "0"), "pages of a critical VM lie there"
    assert now.all.splitlines() == [*now.handle.splitlines(), str(tree.vm["normal"])], "all that goes with it at its end"


def test_who_comes_back_finds_what_is_charged_there(tree: Tree) -> None:
    away, _ = tree.change("critical")
    back, said = tree.change("normal", away)
    assert said == [] and back == Group(tree.handle, (str(tree.vm["critical"]),))


def test_an_agent_that_died_before_it_wrote_that_down_does_it_again(tree: Tree) -> None:
    assert tree.change("critical") == tree.change("critical")


def test_a_class_that_may_be_swapped_is_so_only_as_far_as_was_ordered(tree: Tree) -> None:
    now, _ = tree.change("best-effort")
    assert words(tree, "best-effort")[1] == "0", "nothing was ordered"
    cgroup_memory.set_vm(now.handle, 400, 64)
    assert cgroup_class.follow(now.former, 64) == []
    assert words(tree, "normal")[1] == ("60" if tree.version == 1 else str(64 * MIB))
    critical, _ = tree.change("critical", now)
    assert {words(tree, area)[1] for area in tree.vm} == {"0"} and len(critical.former) == 2


def test_a_limit_that_does_not_hold_leaves_it_where_it_is(tree: Tree) -> None:
    name = "memory.limit_in_bytes" if tree.version == 1 else "memory.max"
    (tree.vm["critical"] / name).unlink()
    (tree.vm["critical"] / name).mkdir()
    with pytest.raises(CannotChange, match="no group can be made for it in area vms-critical"):
        tree.change("critical")
    assert tree.read("normal", "cgroup.procs") == str(PID) and tree.read("critical", "cgroup.procs") == ""


def test_a_process_that_is_not_let_in_is_told(tree: Tree) -> None:
    (tree.vm["critical"] / "cgroup.procs").unlink()
    (tree.vm["critical"] / "cgroup.procs").mkdir()
    with pytest.raises(CannotChange, match=f"process {PID} is not let into area vms-critical"):
        tree.change("critical")


def test_an_old_kernel_takes_the_charges_along(tmp_path: Path) -> None:
    tree = Tree(tmp_path, 1)
    for folder in (tree.top, tree.vm["critical"]):
        (folder / cgroup_class.MOVE_CHARGES).write_text("0")
    assert not cgroup_class.charges_stay(tree.groups)
    now, said = tree.change("critical")
    assert said == [] and tree.read("critical", cgroup_class.MOVE_CHARGES) == "3"
    # in a made-up tree a group's files keep its folder; the kernel would remove it
    assert now.former == (str(tree.vm["normal"]),)


@pytest.mark.parametrize("handle", ["", "/elsewhere/web-1"])
def test_where_memory_is_not_divided_nothing_is_changed(tree: Tree, handle: str) -> None:
    assert tree.change("critical", Group(handle)) == (Group(handle), [])
