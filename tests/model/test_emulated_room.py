"""Whether QEMU has room for another emulated vCPU, by what it says of its translated code. Figures of QEMU 7.2, where the plug was
seen to end it from 15 of 16 regions on (31 of 32), and never before."""

from __future__ import annotations

import pytest

from services.node.drivers.qemu.fit_emulated import free_regions

SAID = """Translation buffer state:
gen code size       {code}/{capacity}
TB count            111226
"""
CAPACITY_2, CAPACITY_4 = 67026944, 66945024
"""of a buffer of 64 MiB, for at most 2 and 4 vCPUs"""


def free(code: int, capacity: int, vcpus_max: int, plugged: int = 1) -> int | None:
    return free_regions(SAID.format(code=code, capacity=capacity), vcpus_max, plugged)


@pytest.mark.parametrize(
    ("code", "capacity", "vcpus_max"),
    [(63086771, CAPACITY_2, 2), (63250291, CAPACITY_2, 2), (64914739, CAPACITY_4, 4), (65470323, CAPACITY_4, 4)],
)
def test_where_the_plug_ended_it_there_is_no_room(code: int, capacity: int, vcpus_max: int) -> None:
    assert free(code, capacity, vcpus_max) == 0


@pytest.mark.parametrize(
    ("code", "capacity", "vcpus_max"),
    [(59957171, CAPACITY_2, 2), (59625043, CAPACITY_2, 2), (62892275, CAPACITY_4, 4), (62812915, CAPACITY_4, 4)],
)
def test_where_it_went_well_there_is_room(code: int, capacity: int, vcpus_max: int) -> None:
    assert free(code, capacity, vcpus_max) == 1


def test_each_vcpu_may_be_filling_a_region() -> None:
    assert [free(40_000_000, CAPACITY_4, 4, plugged) for plugged in (1, 2, 3)] == [12, 11, 10]


def test_an_empty_buffer_has_room_for_all() -> None:
    """However many regions it was cut into."""
    for vcpus_max in range(2, 241):
        regions = max(vcpus_max, min(32, 8 * vcpus_max))
        capacity = 64 * 1024 * 1024 - regions * 5 * 1024
        found = free(0, capacity, vcpus_max, 1)
        assert found is not None and found >= vcpus_max - 1, vcpus_max


def test_a_region_counts_as_used_from_its_first_byte() -> None:
    """The sum of what is full lacks each region's edges and the prologue: at the boundary it must be rounded up."""
    region = CAPACITY_2 // 16
    for full in range(15):
        found = free(full * (region - 8 * 1024) - 40 * 1024, CAPACITY_2, 2) if full else 15
        assert found == 15 - full, full


def test_a_full_buffer_has_none() -> None:
    assert free(CAPACITY_2, CAPACITY_2, 2) == 0


def test_what_is_not_understood_is_no_room_and_no_lack() -> None:
    assert free_regions("JIT information is not here", 2, 1) is None
