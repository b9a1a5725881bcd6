"""What a ladder's decision says, of whom, to whom; and which decisions are one story. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import Event, Meta, NodeId, Recorded, VmId, encode, tag_of
from proto.compute import NodeRemoved, VmDeleted
from proto.ladder import HostSeen, LadderClimbed, LadderDescended, LadderStep, Level, Rung, VmMoveWanted
from proto.machine import Priority
from proto.memory import CapacityExceeded, MemoryOrderReported
from services.gateway.reclaim import figures, only, said, touched
from services.gateway.views.ledgers import Promised
from services.gateway.views.reclaims import OF_NODE_MAX, OF_VM_MAX, ReclaimsView
from services.gateway.views.vms import Vm
from services.gateway.why.episodes import QUIET_US, episodes
from services.gateway.why.not_reclaimed import not_reclaimed
from services.gateway.why.tree import Known, stories

N2 = NodeId("n2")
SEEN = HostSeen(at_us=5, total_mib=2304, available_mib=80, psi_some=12.5, psi_full=1.0, forecast_mib=2500, fall_mib=40, calm_s=31)


def step(vm: str = "lazy", rung: Rung = Rung.BALLOON, before: int = 1024, after: int = 896) -> LadderStep:
    return LadderStep(
        rung=rung, vm=vm, generation=1, from_mib=before, to_mib=after, demand_mib=700, price=0.125, used_mib=600,
        reservation_mib=512,
    )  # fmt: skip


def climbed(*steps: LadderStep, level: Level = Level.SOFT) -> LadderClimbed:
    return LadderClimbed(node=N2, level=level, seen=SEEN, min_free_mib=138, short_mib=58, covered_mib=64, steps=steps)


def descended(*steps: LadderStep) -> LadderDescended:
    return LadderDescended(node=N2, level=Level.AMPLE, seen=SEEN, min_free_mib=138, spare_mib=300, steps=steps)


def test_a_decision_says_how_the_node_was_and_what_was_done_on_which_figures() -> None:
    text = said(climbed(step()))
    assert text.startswith("n2 is short of memory (soft: 80 of 2304 MiB available, 57 % of its minFree of 138")
    assert "tasks waited for memory 12.5 % of 10 s, all of them 1 %" in text and "40 less than a second before" in text
    assert text.endswith("58 MiB lack, 64 are to come of this: lazy: 128 MiB taken by its balloon (1024 to 896)")
    (line,) = figures([step()])
    assert "need at most 700 MiB" in line and "used 600" in line and "512 reserved" in line and "price 0.125" in line
    ahead = said(climbed(step(rung=Rung.MOVE, after=0), level=Level.AMPLE))
    assert "will be short" in ahead and "predicted to need 2500 MiB" in ahead and "lazy: it should run elsewhere" in ahead
    back = said(descended(step(before=896, after=1024)))
    assert "has had enough memory for 31 s" in back and "128 MiB given again by its balloon (896 to 1024)" in back


def test_an_event_of_an_older_release_says_no_figures_that_it_does_not_have() -> None:
    (line,) = figures([replace(step(), used_mib=-1, reservation_mib=-1)])
    assert "-1" not in line and "reserved" not in line


@pytest.mark.parametrize("rung", Rung)
def test_every_rung_has_words_for_both_ways(rung: Rung) -> None:
    assert said(climbed(step(rung=rung))) != said(climbed()) and said(descended(step(rung=rung))) != said(descended())


def test_of_a_decision_about_several_only_what_one_may_be_told_is_left() -> None:
    both = climbed(step("mine"), step("theirs"))
    assert touched(both) == ("mine", "theirs")
    left = only(both, lambda vm: vm == "mine", of_vm=True)
    assert touched(left) == ("mine",) and "theirs" not in said(left)
    assert only(both, lambda vm: False, of_vm=True) is None
    assert touched(only(both, lambda vm: False, of_vm=False)) == (), "how the node was is no secret"
    reported = MemoryOrderReported(node=N2, order_version=1, faults=("theirs: it gives nothing", "area storage: no"))
    assert touched(reported) == ("theirs",)
    assert only(reported, lambda vm: False, of_vm=False) is None
    gone = CapacityExceeded(
        node=N2, before_mib=9, capacity_mib=5, promised_mib=8, charged_mib=8, short_mib=3, would_go=(VmId("theirs"),)
    )
    assert only(gone, lambda vm: False, of_vm=False).would_go == ()


# --- where it lies ----------------------------------------------------------------------------------------------------


def view(*events: Event, known: tuple[str, ...] = ("lazy", "batch")) -> ReclaimsView:
    made = ReclaimsView()
    for position, event in enumerate(events, 1):
        made.apply(Recorded(position, "ledger-n2", position, tag_of(type(event)), 1, 0, b"", b""), event, known)
    return made


def test_positions_are_kept_by_vm_and_node_the_newest_and_bounded() -> None:
    made = view(climbed(step()), descended(step("batch")), climbed(step("batch"), step("batch", Rung.SWAP), step("other")))
    assert made.vms == {"lazy": [1], "batch": [2, 3]}, "each once, and only VMs that exist"
    assert made.nodes == {"n2": [1, 2, 3]}
    many = view(*[climbed(step())] * 100)
    assert many.vms["lazy"] == list(range(101 - OF_VM_MAX, 101)) and len(many.nodes["n2"]) == OF_NODE_MAX
    gone = view(climbed(step()), VmDeleted(vm=VmId("lazy")), NodeRemoved(node=N2))
    assert (gone.vms, gone.nodes) == ({}, {})


def test_that_a_fault_is_over_is_about_whom_it_was_about() -> None:
    fault = MemoryOrderReported(node=N2, order_version=1, faults=("lazy: it gives nothing",))
    made = view(fault, replace(fault, faults=()), replace(fault, faults=()))
    assert made.vms == {"lazy": [1, 2]}


# --- one story -------------------------------------------------------------------------------------------------------


def known(position: int, event: Any, at_us: int, task: str, causation: str = "") -> Known:
    meta = Meta("c", causation, task, "service:memory", 0)
    row = Recorded(position, "ledger-n2", position, tag_of(type(event)), 1, at_us, encode(event), encode(meta))
    return Known(row, meta, event)


def test_decisions_that_follow_one_another_are_one_story() -> None:
    move = VmMoveWanted(
        node=N2, vm=VmId("lazy"), generation=1, priority=Priority.BEST_EFFORT, memory_mib=1, short_mib=1, sentence="s"
    )
    events = [
        known(1, climbed(step()), 0, "a"),
        known(2, climbed(step(rung=Rung.MOVE)), QUIET_US, "b"),
        known(3, move, QUIET_US, "b"),
        known(4, descended(step()), 2 * QUIET_US, "c"),
        known(5, climbed(step()), 3 * QUIET_US + 1, "d"),
    ]
    first, second = stories(events, joined=episodes(events))
    assert [s.position for s in first.steps] == [1, 2, 3, 4] and first.task == "a"
    assert [s.position for s in second.steps] == [5]


# --- why not -----------------------------------------------------------------------------------------------------------

VM = Vm(
    name="lazy", project="default", owner="ann", state="running", vcpus=1, memory_mib=1024, vcpus_max=1, memory_max_mib=1024,
    priority="normal", machine="q35", cpu_model="max", firmware="direct", uuid="u", defined_us=1, changed_us=2, node="n2",
    generation=1,
)  # fmt: skip


def promised(priority: Priority = Priority.NORMAL) -> Promised:
    return Promised("lazy", 1, priority, 1024, 512, 112)


def test_why_nothing_is_taken() -> None:
    others = [known(1, climbed(step("batch")), 7, "a")]
    critical = not_reclaimed(VM, promised(Priority.CRITICAL), [], others)
    assert critical.sentence == (
        "lazy is critical: all its 1024 MiB are reserved, and the ladder never touches a critical VM"
    )
    assert critical.at_us == 7 and "batch: 128 MiB taken" in critical.evidence[0]
    untouched = not_reclaimed(VM, promised(), [], others)
    assert "no decision" in untouched.sentence and "512 are reserved" in untouched.sentence and untouched.position == 1
    assert "not recorded to have taken" in not_reclaimed(VM, promised(), [], []).sentence
    assert "no node's memory" in not_reclaimed(replace(VM, state="stopped", node=""), None, [], []).sentence
    own = [known(2, climbed(step()), 8, "a")]
    assert not_reclaimed(VM, promised(), own, others).sentence.startswith("something was taken: n2 is short")
    own.append(known(3, descended(step()), 9, "a"))
    assert "given again" in not_reclaimed(VM, promised(), own, others).sentence
    assert "no decision" in not_reclaimed(replace(VM, generation=2), promised(), own, others).sentence, "of another run"
