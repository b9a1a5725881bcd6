"""CPU time that the VMs of a node want and wait for, smoothed, and how placement comes to know of it."""

from __future__ import annotations

import msgspec

from proto.compute import Placement
from proto.plan import CpuBeat, VmCpuBeat
from services.compute.hearing import hear
from services.compute.waits import GAP_US_MAX, Waits
from tests.model.test_policy import NOW_US, chosen, seen

SECOND_US = 1_000_000


def beat(ready_pct: float, demand_pct: float, throttled_pct: float = 0.0, steal_pct: float = 0.0, node: str = "n1") -> CpuBeat:
    vm = VmCpuBeat("a", 1, 100.0, ready_pct, throttled_pct, 50.0, demand_pct, ((50.0, ready_pct), (50.0, ready_pct)))
    return CpuBeat(node, 0, 1000, steal_pct, (vm,))


def test_waiting_is_a_part_of_what_was_wanted() -> None:
    waits = Waits()
    waits.hear(beat(50.0, 200.0, steal_pct=22.0), NOW_US)
    assert waits.told() == (2.0, 50, 20)


def test_what_a_cap_holds_back_is_no_sign_of_a_crowd() -> None:
    waits = Waits()
    waits.hear(beat(50.0, 200.0, throttled_pct=50.0), NOW_US)
    assert waits.told() == (2.0, 0, 0)


def test_a_burst_passes_and_what_lasts_counts_until_it_was_not_heard_for_long() -> None:
    waits = Waits()
    waits.hear(beat(0.0, 0.0), NOW_US)
    waits.hear(beat(50.0, 200.0), NOW_US + SECOND_US)
    assert waits.told()[0] == 0.0
    for n in range(2, 180):
        waits.hear(beat(50.0, 200.0), NOW_US + n * SECOND_US)
    assert waits.told() == (2.0, 50, 0)
    waits.hear(beat(0.0, 0.0), NOW_US + 180 * SECOND_US + GAP_US_MAX)
    assert waits.told() == (0.0, 0, 0)


def contention(placement: Placement) -> dict[str, float]:
    return {c.node: c.terms.get("contention", 0.0) for c in placement.candidates}


def test_a_new_vm_keeps_away_from_a_node_on_which_vms_wait() -> None:
    views = seen()
    assert chosen(views).candidates[0].node == "n1"
    hear("tel.n1.cpu", msgspec.msgpack.encode(beat(25.0, 200.0, steal_pct=20.0)), NOW_US, views)
    placement = chosen(views)
    assert placement.candidates[0].node == "n2"
    # 2 pCPUs wanted and half a vCPU more, on 2 pCPUs of which 20 % are stolen: 0.5625 above one; and 25 % waited for
    assert contention(placement) == {"n1": -0.8125, "n2": 0.0}


def test_nobody_speaks_for_another_node() -> None:
    views = seen()
    hear("tel.n2.cpu", msgspec.msgpack.encode(beat(25.0, 200.0)), NOW_US, views)
    assert contention(chosen(views)) == {"n1": 0.0, "n2": 0.0}
