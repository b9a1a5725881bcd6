"""What is predicted from telemetry, and how it comes to decisions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.messages import NodeId, Recorded, VmId, encode
from proto.ladder import JudgeMemory
from proto.machine import Priority
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved, Promise, ReserveMemory
from proto.node import MemoryBeat, VmMemory
from services.memory import demand
from services.memory.demand import GROWN_US, INTERVAL_US, WINDOW_MAX, Window
from services.memory.views import FRESH_US, Views, enrich, hear

HERE = Recorded(1, "ledger-n", 1, "t", 1, 0, b"", b"")
PROMISE = Promise(nominal_mib=1000, reservation_mib=500, overhead_mib=100)
N, A = NodeId("n"), VmId("a")


def test_a_window_keeps_peaks_of_intervals_and_two_hours_of_them() -> None:
    window = Window()
    for at, mib in ((0, 5), (1, 9), (2, 7), (INTERVAL_US, 3), (4 * INTERVAL_US, 4)):
        window.note(at, mib)
    assert window.peaks == [9, 3, 3, 3, 4] and window.known
    for n in range(5, 60):
        window.note(n * INTERVAL_US, n)
    assert window.peaks == list(range(60 - WINDOW_MAX, 60))
    window.note(200 * INTERVAL_US, 1)
    assert window.peaks == [1], "too long ago to say anything"


def test_percentiles_lie_between_neighbours() -> None:
    assert demand.percentile([1, 3], 0.5) == 2 and demand.percentile([7], 0.99) == 7
    assert demand.percentile(range(101), 0.99) == pytest.approx(99)


def grown(peaks: list[float]) -> Window:
    return Window(peaks=peaks, age_us=GROWN_US)


def test_a_vm_is_predicted_the_larger_of_sigma_and_percentile_and_a_margin() -> None:
    assert demand.of_vm(grown([100] * 24), 1000) == 120
    assert demand.of_vm(grown([100, 300] * 12), 1000) == 200 + 500 + 20
    assert demand.of_vm(grown([900, 1000] * 12), 1000) == 1000, "never more than it has"


def test_of_a_young_vm_more_is_expected_the_younger_it_is() -> None:
    ages = range(0, GROWN_US + 1, GROWN_US // 9)
    expected = [demand.of_vm(Window(peaks=[100], age_us=age), 1000) for age in ages]
    assert expected == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 120]
    assert demand.of_vm(Window(), 1000) == 1000, "never heard"
    assert demand.of_vm(Window(peaks=[100, 900], age_us=GROWN_US // 2), 1000) == 1000, "it swings: sigma says more"


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=4), st.integers(0, 2 * GROWN_US), st.integers(0, GROWN_US))
def test_an_estimate_is_never_below_what_was_seen_nor_rises_with_age(peaks: list[float], age_us: int, older_us: int) -> None:
    now = demand.of_vm(Window(peaks=peaks, age_us=age_us), 1000)
    assert min(1000, max(peaks)) <= now + 0.5 and now <= 1000
    assert demand.of_vm(Window(peaks=peaks, age_us=age_us + older_us), 1000) <= now
    assert demand.of_vm(Window(peaks=[*peaks, max(peaks)], age_us=age_us), 1000) >= max(peaks) - 0.5


def test_a_silence_counts_as_one_interval_and_one_that_is_too_long_begins_anew() -> None:
    window = Window()
    for at_us in (0, 1_000_000, 2_000_000):
        window.note(at_us, 5)
    assert window.age_us == 2_000_000
    window.note(10 * INTERVAL_US, 5)
    assert window.age_us == 2_000_000 + INTERVAL_US and len(window.peaks) == 11
    window.note(9 * INTERVAL_US, 5)
    assert window.age_us == 0 and window.peaks == [5]
    window.note(9 * INTERVAL_US + 7, 5)
    window.note((10 + WINDOW_MAX) * INTERVAL_US, 5)
    assert window.age_us == 0 and window.peaks == [5]


def test_a_host_is_predicted_less_than_its_vms_where_peaks_do_not_meet() -> None:
    up, down = [100, 300] * 12, [300, 100] * 12
    assert demand.of_host([(up, 1000), (down, 1000)]) == 600 + 40
    assert demand.of_host([(up, 1000), (up, 1000)]) == 400 + 1000 + 40
    assert demand.of_host([([100] * 24, 1000), ([500], 1000)]) == 600 + 40, "a short past counts as it is"
    assert demand.of_host([]) == 0


def views(*events: Any) -> Views:
    seen = Views()
    for event in (CapacitySet(node=N, capacity_mib=8000), *events):
        seen.apply(HERE, event)
    return seen


def views_of_small(seen: Views) -> Views:
    small = copy.deepcopy(seen)
    small.nodes["n"].capacity_mib = 100
    return small


def reserved(vm: str = "a", generation: int = 1, promise: Promise = PROMISE) -> MemoryReserved:
    return MemoryReserved(
        node=N, vm=VmId(vm), generation=generation, memory_mib=1, reserved_mib=1, capacity_mib=1, promise=promise
    )


def beat(used: int, vm: str = "a", generation: int = 1, node: str = "n") -> bytes:
    row = VmMemory(vm, generation, 900, 0, 1000, 1000 - used)
    return encode(MemoryBeat(node, "b", 0, 16_000, 7000, psi_some_avg10=1.5, vms=(row,)))


def test_what_is_heard_is_put_beside_the_question_while_it_is_fresh() -> None:
    seen = views(reserved())
    for n in range(4):
        hear("tel.n.memory", beat(200), n * INTERVAL_US, seen)
    now = 3 * INTERVAL_US + 1
    command = enrich(JudgeMemory(node="n", now_us=now, gripped=True), seen, now)
    assert command.seen.available_mib == 7000 and command.seen.psi_some == 1.5
    assert command.seen.forecast_mib == 200 + 20 + 100
    assert [(v.vm, v.demand_mib, v.held_mib) for v in command.vms] == [("a", 220, 1000)]
    late = enrich(JudgeMemory(node="n", now_us=now, gripped=True), seen, now + FRESH_US)
    assert late.seen is None and late.vms == ()
    assert enrich(JudgeMemory(node="n", now_us=now), seen, now).seen is None, "enough of all, and nothing to give back"
    full = enrich(JudgeMemory(node="n", now_us=now), views_of_small(seen), now)
    assert full.seen is not None, "more is predicted than there is"
    asked = ReserveMemory(node="n", vm="b", generation=1, promise=PROMISE)
    assert enrich(asked, seen, now).forecast_mib == 320
    assert enrich(asked, seen, now + FRESH_US).forecast_mib == -1


def test_a_vm_of_which_little_was_seen_counts_with_what_the_ledger_counts() -> None:
    seen = views(reserved(), reserved("c", promise=Promise(nominal_mib=100, reservation_mib=100, priority=Priority.CRITICAL)))
    hear("tel.n.memory", beat(200), INTERVAL_US, seen)
    command = enrich(JudgeMemory(node="n", now_us=1, gripped=True), seen, INTERVAL_US)
    assert command.seen.forecast_mib == 666 + 100
    assert command.vms[0].demand_mib == 1000, "it may come to need all it has"


def test_young_vms_that_use_more_than_was_counted_for_them_are_believed() -> None:
    seen = views(reserved(), reserved("b"))
    for vm in "ab":
        hear("tel.n.memory", beat(950, vm), INTERVAL_US, seen)
    command = enrich(JudgeMemory(node="n", now_us=1, gripped=True), seen, INTERVAL_US)
    assert command.seen.forecast_mib == 2 * (950 + 20 + 100)


def test_only_a_node_says_what_it_holds_and_only_of_its_own_generations() -> None:
    seen = views(reserved(generation=2))
    hear("tel.m.memory", beat(200, node="n"), 1, seen)
    hear("tel.n.beat", b"\x00", 1, seen)
    hear("tel.x.memory", beat(200, node="x"), 1, seen)
    assert seen.nodes["n"].beat is None
    hear("tel.n.memory", beat(200, generation=1), 1, seen)
    assert seen.nodes["n"].vms["a"].window.peaks == []
    hear("tel.n.memory", beat(200, generation=2), 1, seen)
    assert seen.nodes["n"].vms["a"].window.peaks == [200]
    seen.apply(HERE, reserved(generation=2, promise=PROMISE))
    assert seen.nodes["n"].vms["a"].window.peaks == [200], "a hot add keeps its past"
    seen.apply(HERE, reserved(generation=3))
    assert seen.nodes["n"].vms["a"].window.peaks == []
    seen.apply(HERE, MemoryReleased(node=N, vm=A, generation=3, released_mib=1))
    assert seen.nodes["n"].vms == {}


def test_without_the_guests_word_all_that_is_resident_counts_as_used() -> None:
    seen = views(reserved())
    row = VmMemory("a", 1, resident_mib=600, swapped_mib=50)
    hear("tel.n.memory", encode(MemoryBeat("n", "b", 0, 16_000, 7000, vms=(row,))), 1, seen)
    assert seen.nodes["n"].vms["a"].window.peaks == [550]
