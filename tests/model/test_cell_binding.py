"""The memory of VMs and NUMA cells: whose is bound by the plan, and how a cpuset is written, in made-up trees of both versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from proto.compute import Capabilities
from proto.plan import NodeCpus, VmNeeds
from services.compute.plan_policy import make
from services.compute.plan_views import cpus_of
from services.node.host import cgroup_cells
from services.node.host.cgroup_cells import NoCpuset, NotBound, bind, bound_to
from services.node.host.text import parse_list
from tests.model.test_plan_policy import BIG, planned, vm

CELLED = replace(BIG, cells_mib=(1000, 1000), numbers=(0, 2))
"""the kernel's cell 1 has no pCPUs"""


def sized(name: str, whole_mib: int, vcpus: int = 2, one_cell: bool = False) -> VmNeeds:
    return replace(vm(name, vcpus, one_cell=one_cell), memory_mib=whole_mib // 2, whole_mib=whole_mib)


# --- the plan ------------------------------------------------------------------------------------------------------------


def test_memory_is_bound_to_the_cell_of_the_vcpus_where_it_cannot_come_short() -> None:
    plan = planned(CELLED, sized("a", 600), sized("b", 600))
    assert {plan["a"].cells, plan["b"].cells} == {(0,), (2,)}
    for one in plan.values():
        assert one.cells == ((0,) if one.pcpus[0] < 16 else (2,))
        assert f"its memory is bound to cell {one.cells[0]}" in one.sentence and not one.fault


def test_a_cell_that_vms_may_outgrow_binds_nobody_and_says_why() -> None:
    plan = planned(CELLED, sized("a", 600), sized("b", 600), sized("c", 600, one_cell=True))
    pairs = [one for one in plan.values() if one.pcpus == plan["c"].pcpus]
    assert len(pairs) == 2 and all(one.cells == () for one in pairs)
    assert "VMs that may take of it can come to 1200 MiB, and 1000 are for VMs there" in plan["c"].sentence
    assert "cannot be bound" in plan["c"].fault, "it wished for one cell"
    assert [one.fault for one in plan.values()].count("") == 2


def test_who_spans_cells_counts_in_each_and_is_bound_to_none() -> None:
    plan = planned(CELLED, sized("wide", 500, vcpus=20), sized("a", 600), sized("b", 400))
    assert plan["wide"].cells == () and plan["a"].cells == () and plan["b"].cells != ()


@pytest.mark.parametrize(
    "cpus",
    [
        replace(CELLED, share=2), replace(CELLED, numbers=()), replace(CELLED, cells_mib=()),
        NodeCpus(cells=((0, 1, 2, 3),), cells_mib=(1000,), numbers=(0,)),
    ],
)  # fmt: skip
def test_what_is_not_known_or_not_ones_own_binds_nobody(cpus: NodeCpus) -> None:
    assert planned(cpus, sized("a", 10))["a"].cells == ()
    assert planned(CELLED, sized("a", 10), vm("old", 1))["a"].cells == (), "nobody knows what the other may take"


vms = st.lists(
    st.builds(sized, st.sampled_from([f"v{n}" for n in range(8)]), st.integers(1, 900), st.sampled_from([1, 2, 8, 20])),
    max_size=8,
    unique_by=lambda v: v.vm,
)


@settings(max_examples=200, deadline=None)
@given(vms)
def test_no_binding_can_fill_its_cell(found: Sequence[VmNeeds]) -> None:
    """Whoever may take memory of a bound cell, at their most, fits into it: the kernel has nobody to kill there."""
    plan = planned(CELLED, *found)
    for place, number in enumerate(CELLED.numbers):
        inside = [v for v in found if set(plan[v.vm].pcpus) & set(CELLED.cells[place])]
        if any(plan[v.vm].cells == (number,) for v in inside):
            assert sum(v.whole_mib for v in inside) <= CELLED.cells_mib[place]
    for v in found:
        one = plan[v.vm]
        assert not one.cells or set(one.pcpus) <= set(CELLED.cells[CELLED.numbers.index(one.cells[0])])


def test_the_kernels_numbers_come_with_the_cells_that_vms_may_use() -> None:
    can = Capabilities(
        accelerator="tcg", cpu_model="x", pcpus=4, memory_mib=1, qemu_version="", machine="", driver="",
        cells=((0, 1), (), (2, 3)), cell_numbers=(0, 1, 4),
    )  # fmt: skip
    assert cpus_of(can).numbers == (0, 4)
    assert cpus_of(replace(can, cell_numbers=())).numbers == (), "an older agent says none"


def test_the_same_inputs_bind_the_same() -> None:
    from proto.plan import PlanInputs

    both = (sized("a", 600), sized("b", 600))
    assert make(PlanInputs(cpus=CELLED, vms=both), {}) == make(PlanInputs(cpus=CELLED, vms=both[::-1]), {})


# --- the tree ------------------------------------------------------------------------------------------------------------

PID = 4711
MOUNTS = {
    1: "33 32 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n34 32 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
    2: "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw",
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


class Tree:
    """A host of cells 0 and 1; a VM's group in it, as it is born: version 1 knows nothing of it yet."""

    def __init__(self, root: Path, version: int) -> None:
        own = "3:cpuset:/job\n1:cpu:/job" if version == 1 else "0::/job"
        plant(root / "proc/self", {"mountinfo": MOUNTS[version], "cgroup": own})
        top = root / ("sys/fs/cgroup/cpuset/job" if version == 1 else "sys/fs/cgroup/job")
        if version == 1:
            plant(top, {"cpuset.cpus": "0-3", "cpuset.mems": "0-1"})
            for folder in ("asv-n1", "asv-n1/web-1.0a"):
                plant(top / folder, {"cpuset.cpus": "", "cpuset.mems": "", "cpuset.memory_migrate": "0", "cgroup.procs": ""})
            self.handle = str(root / "sys/fs/cgroup/cpu/job/asv-n1/web-1.0a")
            self.group = top / "asv-n1/web-1.0a"
        else:
            plant(top, {"cgroup.controllers": "cpuset memory", "cgroup.subtree_control": "memory"})
            for folder in ("asv-n1", "asv-n1/vms-normal"):
                plant(top / folder, {"cgroup.subtree_control": "memory", "cgroup.procs": ""})
            self.group = plant(top / "asv-n1/vms-normal/web-1.0a", {"cgroup.procs": str(PID), "cpuset.mems": ""})
            self.handle = str(self.group)
        self.top, self.version = top, version
        found = cgroup_cells.tree(root)
        assert found is not None and (found.version, found.folder) == (version, top)
        self.tree = found

    def bind(self, *cells: int, handle: str = "") -> str:
        return bind(self.tree, "asv-n1", handle or self.handle, PID, cells)

    def mems(self) -> tuple[int, ...]:
        return parse_list((self.group / "cpuset.mems").read_text())


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return Tree(tmp_path, request.param)


def test_a_vm_is_bound_moved_to_another_cell_and_let_go(tree: Tree) -> None:
    handle = tree.bind(0)
    assert tree.mems() == (0,) == bound_to(tree.tree, handle)
    assert (tree.group / "cgroup.procs").read_text().strip() == str(PID)
    assert handle.splitlines() == ([tree.handle, str(tree.group)] if tree.version == 1 else [tree.handle])
    assert tree.bind(1, handle=handle) == handle and tree.mems() == (1,)
    assert tree.bind(handle=handle) == handle
    assert tree.mems() == ((0, 1) if tree.version == 1 else ()), "all that the group above has"


def test_version_1_moves_what_lies_elsewhere_and_keeps_the_pcpus_of_the_group_above(tmp_path: Path) -> None:
    tree = Tree(tmp_path, 1)
    tree.bind(1)
    read = {name: (tree.group / f"cpuset.{name}").read_text() for name in ("cpus", "memory_migrate")}
    assert read == {"cpus": "0-3", "memory_migrate": "1"}
    assert (tree.group.parent / "cpuset.mems").read_text() == "0-1"


def test_version_2_hands_the_controller_down_to_the_vm(tmp_path: Path) -> None:
    tree = Tree(tmp_path, 2)
    (tree.group / "cpuset.mems").unlink()
    tree.bind(1)  # in a made-up tree the file comes with the word
    for folder in (tree.top, tree.top / "asv-n1", tree.top / "asv-n1/vms-normal"):
        assert (folder / "cgroup.subtree_control").read_text() == "+cpuset"


def test_who_was_never_bound_is_left_alone(tree: Tree) -> None:
    assert tree.bind() == tree.handle and tree.mems() == ()
    assert bind(None, "asv-n1", tree.handle, PID, ()) == tree.handle


def test_what_the_kernel_does_not_take_is_told(tree: Tree) -> None:
    (tree.group / "cpuset.mems").unlink()
    (tree.group / "cpuset.mems").mkdir()
    with pytest.raises(NotBound, match=r"its memory cannot be bound: Is a directory \(cpuset.mems\)"):
        tree.bind(0)


def test_without_a_tree_or_a_group_it_is_said(tree: Tree) -> None:
    with pytest.raises(NoCpuset, match="none of this machine's control-group trees offers one"):
        bind(None, "asv-n1", tree.handle, PID, (0,))
    with pytest.raises(NotBound, match="it has no control group"):
        bind(tree.tree, "asv-n1", "", PID, (0,))


def test_a_host_without_cpusets_has_no_such_tree(tmp_path: Path) -> None:
    plant(tmp_path / "proc/self", {"mountinfo": MOUNTS[2], "cgroup": "0::/job"})
    plant(tmp_path / "sys/fs/cgroup/job", {"cgroup.controllers": "memory"})
    assert cgroup_cells.tree(tmp_path) is None
