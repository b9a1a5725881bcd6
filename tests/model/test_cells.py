"""What is left in each NUMA cell: by the plan, by what is on its way there, by what was measured."""

from __future__ import annotations

from msgspec.structs import replace

from services.compute.cells import Planned, Taken, left
from tests.model.test_nodes import CAN

TWO = replace(CAN, pcpus=16, cells=(tuple(range(8)), tuple(range(8, 16))), cells_mib=(3000, 1000))
FIRST, SECOND = Planned(TWO.cells[0]), Planned(TWO.cells[1])
VM = Taken(vcpus=2, memory_mib=400)


def cells(
    vms: dict[str, Taken] | None = None,
    planned: dict[str, Planned] | None = None,
    ratio: float = 8.0,
    measured: tuple[int, ...] = (),
) -> tuple[tuple[int, int], ...]:
    return left(TWO, 4000, ratio, vms or {}, planned or {}, measured)


def test_capacity_is_divided_by_the_cells_sizes() -> None:
    assert cells() == ((8, 3000), (8, 1000))
    assert left(replace(TWO, cells_mib=()), 4000, 8.0, {}, {}, ()) == ((8, 2000), (8, 2000))


def test_a_vm_counts_in_the_cell_of_its_plan() -> None:
    assert cells({"a": VM, "b": VM}, {"a": FIRST, "b": SECOND}) == ((8, 2600), (8, 600))
    assert cells({"a": VM}, {"a": Planned((*range(8), *range(8, 16)))}) == ((8, 2800), (8, 800)), "half of it in each"
    assert cells({}, {"gone": FIRST}) == ((8, 3000), (8, 1000)), "planned, but it has no part of the node any more"


def test_pcpus_of_one_vm_alone_are_nobody_elses() -> None:
    assert cells({"a": VM}, {"a": Planned((0, 1, 2, 3), exclusive=True)}) == ((4, 2600), (8, 1000))


def test_vcpus_are_left_up_to_the_ratio_and_to_a_pcpu_each() -> None:
    assert cells({"a": replace_vcpus(15)}, {"a": FIRST}, ratio=2.0)[0] == (1, 2600)
    assert cells({"a": replace_vcpus(16)}, {"a": FIRST}, ratio=2.0)[0] == (0, 2600)


def replace_vcpus(vcpus: int) -> Taken:
    return Taken(vcpus, VM.memory_mib)


def test_one_without_a_plan_counts_where_the_plan_would_put_it() -> None:
    assert cells({"a": VM, "b": VM}, {"a": FIRST}) == ((8, 2600), (8, 600)), "the emptier cell has the memory too"
    large = Taken(2, 1500)
    assert cells({"a": VM, "b": large}, {"a": FIRST}) == ((8, 1100), (8, 1000)), "only the first cell holds it"


def test_the_lower_of_promise_and_measurement_counts() -> None:
    assert cells(measured=(500, 900)) == ((8, 900), (8, 500))
    assert cells(measured=(9000, 9000)) == ((8, 3000), (8, 1000))
    assert cells(measured=(500,)) == ((8, 3000), (8, 1000)), "of other cells than these"


def test_nothing_is_said_of_one_cell_or_of_a_shared_host() -> None:
    assert left(CAN, 4000, 8.0, {}, {}, ()) == () == left(replace(TWO, share=3), 4000, 8.0, {}, {}, ())
