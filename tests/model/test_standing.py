"""Where an embedded cluster's own processes stand, in made-up trees of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

from services.cluster import groups
from services.cluster.standing import Standing, enter, memory_tree

HOME = Path("/var/lib/asv")
V1 = "33 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V2 = "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw"


def host(root: Path, mounts: str, own: str, base: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/self/cgroup").write_text(own)
    folder = root / base
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return folder


def test_in_version_1_agents_stand_where_they_stood_and_the_rest_beside(tmp_path: Path) -> None:
    base = host(tmp_path, V1, "4:memory:/job\n0::/", "sys/fs/cgroup/memory/job")
    found = enter(HOME, ("n1", "n2"), tmp_path)
    assert found.control_plane is not None and found.control_plane.parent == base
    assert (found.control_plane / "cgroup.procs").read_text() == str(os.getpid())
    assert set(found.agents.values()) == {base / "cgroup.procs"} and set(found.agents) == {"n1", "n2"}
    assert enter(HOME, ("n1", "n2"), tmp_path) == found, "the next supervisor finds it again"
    assert enter(Path("/other"), (), tmp_path).control_plane != found.control_plane, "another cluster has its own"


def test_in_version_2_each_agent_gets_a_group_that_it_can_divide(tmp_path: Path) -> None:
    base = host(tmp_path, V2, "0::/job", "sys/fs/cgroup/job", cgroup_controllers="cpu memory pids")
    found = enter(HOME, ("n1", "n2"), tmp_path)
    assert found.control_plane is not None and found.control_plane.parent == base
    assert {file.parent.parent for file in found.agents.values()} == {base}
    beside = {file.parent for file in (*found.agents.values(), *found.watchdogs.values())}
    assert len({found.control_plane, *beside}) == 5, "no agent shares its group with a watchdog"
    assert (base / "cgroup.subtree_control").read_text() == "+pids"


def test_where_it_cannot_be_it_stays_and_says_why(tmp_path: Path) -> None:
    assert "no tree" in enter(HOME, ("n1",), tmp_path / "bare").why
    base = host(tmp_path, V2, "0::/job", "sys/fs/cgroup/job", cgroup_controllers="memory")
    (base / "cgroup.subtree_control").mkdir()  # as the kernel refuses while other processes stand there
    found = enter(HOME, ("n1",), tmp_path)
    assert found == Standing(why=found.why) and "start it by a unit" in found.why
    assert (base / "cgroup.procs").read_text() == str(os.getpid()), "back to where it was"
    other = tmp_path / "other"
    host(other, V2, "0::/job", "sys/fs/cgroup/job", cgroup_controllers="cpu pids")
    assert memory_tree(other) is None, "a tree that divides no memory"


def test_in_a_container_a_part_of_the_tree_is_seen(tmp_path: Path) -> None:
    part = V1.replace(" / /sys", " /docker/abc /sys")
    host(tmp_path, part, "4:memory:/docker/abc", "sys/fs/cgroup/memory")
    assert memory_tree(tmp_path) == (1, tmp_path / "sys/fs/cgroup/memory")


def test_groups_of_the_control_plane_go_with_the_cluster(tmp_path: Path) -> None:
    tree = f"{tmp_path}/"
    top = tmp_path / "asv-12345678"
    for name in ("control-plane", "n1"):
        top.with_name(f"{top.name}-{name}").mkdir()
    listed = tmp_path / "groups"
    listed.write_text(f"{top}\n")
    before = groups.TREE
    groups.TREE = tree
    try:
        assert groups.remove([listed, tmp_path / "none"])
    finally:
        groups.TREE = before
    assert [path.name for path in tmp_path.iterdir()] == ["groups"]
