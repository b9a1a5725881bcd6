"""A VM's size is changed: at rest at once; while it runs, by its ledger, its agent and its guest, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from libs.memory.promise import promise_of
from proto.compute import DefineVm, Placement, Refusal, ReportVm, ResetVm, Seen, VmDefined, VmEvent
from proto.growth import (
    NoteResize,
    Promised,
    ResizeVm,
    VmHardwareSeen,
    VmReshaped,
    VmResized,
    VmResizeDenied,
    VmResizeOrdered,
    VmResizeRequested,
)
from proto.hardware import Hardware, Misfit, ordered
from proto.machine import DIMMS_MAX, Allotment, MachineSpec, MemoryBy, Priority, birth
from proto.memory import Purpose, ResizeMemory
from proto.migration import MigrateVm
from services.compute.model import VM
from services.compute.states import Absent, Reserving, Running, Stopped, Vm
from services.memory import react

A, N1 = VmId("a"), NodeId("n1")
DEFINED = VM.decide(DefineVm(vm="a", vcpus=2, memory_mib=512, vcpus_max=8, memory_max_mib=2048), Absent())
STOPPED = VM.fold(DEFINED)
REQUESTED = VmResizeRequested(
    vm=A, node=N1, generation=1, vcpus=4, memory_mib=1024, was_vcpus=2, was_memory_mib=512,
    priority=Priority.NORMAL, allotment=Allotment(), vcpus_left=8,
)  # fmt: skip
ORDERED = VmResizeOrdered(vm=A, node=N1, generation=1)
GRANTED = NoteResize(vm="a", node=N1, generation=1, granted=True)
GROW = ResizeVm(vm="a", vcpus=4, memory_mib=1024, vcpus_free=10)
LESS = Misfit(what="memory", sentence="the guest has taken 768 MiB, 1024 are wanted", pending=True)


def running() -> Running:
    (defined,) = [e for e in DEFINED if isinstance(e, VmDefined)]
    plain = MachineSpec(vm="a", generation=1, shape=defined.shape)
    spec = replace(plain, born=birth(plain))
    return Running(definition=defined, generation=1, node=N1, spec=spec, hardware=ordered(spec), version=5)


def after(vm: Vm, *events: VmEvent) -> Running:
    vm = VM.fold(events, vm)
    assert isinstance(vm, Running)
    return vm


def seen(vm: Running, vcpus: int, memory_mib: int, *misfits: Misfit, version: int = 99) -> ReportVm:
    has = Hardware(vcpus=vcpus, plugged_vcpus=vcpus, memory_mib=memory_mib, misfits=misfits)
    return ReportVm(node=N1, vm="a", generation=1, order_version=version, seen=Seen.RUNNING, hardware=has)


def refused(command: object, vm: Vm) -> Refused:
    with pytest.raises(Refused) as said:
        VM.decide(command, vm)  # type: ignore[arg-type]
    assert said.value.remedy
    return said.value


# --- at rest -----------------------------------------------------------------------------------------------------------


def test_at_rest_it_is_another_shape_at_once_and_head_room_follows() -> None:
    (event,) = VM.decide(ResizeVm(vm="a", vcpus=12, memory_mib=1024), STOPPED)
    assert isinstance(event, VmReshaped)
    shape = event.shape
    assert (shape.vcpus, shape.vcpus_max, shape.memory_mib, shape.memory_max_mib) == (12, 12, 1024, 2048)
    vm = VM.fold([event], STOPPED)
    assert isinstance(vm, Stopped) and vm.definition.shape == shape
    assert VM.decide(ResizeVm(vm="a", vcpus=12), vm) == ()


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (ResizeVm(vm="a", vcpus=4, vcpus_max=3), "vcpus_max is 3"),
        (ResizeVm(vm="a", memory_mib=32), "at least 64"),
        (ResizeVm(vm="a", memory_max_mib=100), "memory_max_mib is 100"),
    ],
)
def test_at_rest_a_shape_that_contradicts_itself_is_refused(wish: ResizeVm, words: str) -> None:
    said = refused(wish, STOPPED)
    assert said.reason == Refusal.BAD_SHAPE and words in f"{said.sentence} {said.remedy}"


def test_a_reservation_is_never_more_than_the_memory() -> None:
    definition = replace(running().definition, allotment=Allotment(memory_reserved_mib=500))
    assert refused(ResizeVm(vm="a", memory_mib=256), replace(STOPPED, definition=definition)).reason == Refusal.BAD_SHAPE


# --- while it runs -----------------------------------------------------------------------------------------------------


def test_growth_in_full() -> None:
    vm = running()
    assert list(VM.decide(GROW, vm)) == [REQUESTED]
    vm = after(vm, REQUESTED)
    assert vm.spec.shape.vcpus == 2, "nothing is ordered before the ledger has answered"
    assert list(VM.decide(GRANTED, vm)) == [ORDERED]
    vm = after(vm, ORDERED)
    assert (vm.spec.shape.vcpus, vm.spec.shape.memory_mib, vm.definition.shape.vcpus) == (4, 1024, 2)
    assert VM.decide(GRANTED, vm) == ()
    fact = seen(vm, 4, 1024)
    news, resized = VM.decide(fact, vm)
    assert isinstance(news, VmHardwareSeen) and news.hardware == fact.hardware
    assert resized == VmResized(
        vm=A, node=N1, generation=1, vcpus=4, memory_mib=1024, priority=Priority.NORMAL, allotment=Allotment()
    )
    vm = after(vm, news, resized)
    assert (vm.definition.shape.vcpus, vm.definition.shape.memory_mib, vm.growth) == (4, 1024, None)
    assert list(VM.decide(fact, vm)) == []
    assert vm.spec.born == birth(running().spec), "its process was born as it was"


def test_what_the_ledger_denies_changes_nothing() -> None:
    vm = after(running(), REQUESTED)
    denied = replace(GRANTED, granted=False, sentence="n1 does not hold it")
    (event,) = VM.decide(denied, vm)
    assert event == VmResizeDenied(vm=A, node=N1, generation=1, sentence="n1 does not hold it")
    vm = after(vm, event)
    assert (vm.growth, vm.spec, vm.definition) == (None, running().spec, running().definition)


def test_more_vcpus_or_less_memory_need_no_ledger_first() -> None:
    grown = after(running(), REQUESTED, ORDERED, *VM.decide(seen(running(), 4, 1024), after(running(), REQUESTED, ORDERED)))
    for wish in (ResizeVm(vm="a", vcpus=6), ResizeVm(vm="a", memory_mib=768), ResizeVm(vm="a", vcpus=1)):
        assert [type(e) for e in VM.decide(wish, grown)] == [VmResizeRequested, VmResizeOrdered]


def test_a_guest_that_takes_less_ends_it_with_what_it_has_and_why() -> None:
    vm = after(running(), REQUESTED, ORDERED)
    _, resized = VM.decide(seen(vm, 4, 768, LESS), vm)
    assert isinstance(resized, VmResized)
    assert (resized.vcpus, resized.memory_mib, resized.sentence) == (4, 768, LESS.sentence)
    vm = after(vm, resized)
    assert vm.spec.shape.memory_mib == vm.definition.shape.memory_mib == 768


def test_a_report_on_an_older_order_or_fit_ends_nothing() -> None:
    vm = after(running(), REQUESTED, ORDERED)
    assert VM.decide(seen(vm, 2, 512, version=vm.growth_version), vm) != ()  # it is news only that slots are gone
    assert not any(isinstance(e, VmResized) for e in VM.decide(seen(vm, 2, 512), vm))
    late = seen(vm, 4, 1024, version=vm.growth_version - 1)
    assert not any(isinstance(e, VmResized) for e in VM.decide(late, vm))


def test_one_change_at_a_time() -> None:
    vm = after(running(), REQUESTED)
    for command in (ResizeVm(vm="a", vcpus=3), MigrateVm(vm="a", node="n2")):
        assert refused(command, vm).reason == Refusal.BUSY
    assert VM.decide(ResetVm(vm="a"), vm) != ()


@pytest.mark.parametrize(
    ("wish", "reason", "words"),
    [
        (ResizeVm(vm="a", vcpus=9), Refusal.BAD_SHAPE, "at most 8 while it runs; more needs a restart"),
        (ResizeVm(vm="a", memory_mib=4096), Refusal.BAD_SHAPE, "at most 2048 MiB while it runs"),
        (ResizeVm(vm="a", memory_mib=256), Refusal.NOT_STOPPED, "at least 512 MiB, or stop it first"),
        (ResizeVm(vm="a", memory_mib=1023), Refusal.BAD_SHAPE, "1022 MiB or 1024 MiB"),
        (ResizeVm(vm="a", vcpus=4, vcpus_free=1), Refusal.CPU_SHORT, "may promise 1 more"),
        (ResizeVm(vm="a", vcpus_max=16), Refusal.NOT_STOPPED, "stop it"),
        (ResizeVm(vm="a", vcpus=4, cells=((3, 9000), (8, 400))), Refusal.CELL_SHORT, "would hold 3 vCPUs and 9000 MiB; 8"),
    ],
)
def test_what_cannot_be_is_refused_beforehand(wish: ResizeVm, reason: Refusal, words: str) -> None:
    said = refused(wish, running())
    assert said.reason == reason and words in f"{said.sentence}; {said.remedy}"


def test_in_one_cell_it_grows_as_far_as_a_cell_holds_it_and_always_shrinks() -> None:
    cells = ((3, 9000), (4, 512))
    assert VM.decide(ResizeVm(vm="a", vcpus=4, cells=cells), running())
    assert VM.decide(ResizeVm(vm="a", vcpus=1, cells=((1, 100),)), running())


def test_one_that_is_paused_or_found_or_on_its_way_is_not_resized() -> None:
    assert refused(GROW, replace(running(), paused=True, pause_wanted=True)).reason == Refusal.NOT_RUNNING
    unborn = replace(running(), spec=replace(running().spec, born=None))
    assert "restart it once" in refused(GROW, unborn).remedy
    (defined,) = [e for e in DEFINED if isinstance(e, VmDefined)]
    starting = Reserving(definition=defined, generation=1, node=N1, placement=Placement(policy="p"))
    assert refused(GROW, starting).reason == Refusal.BUSY
    assert refused(GROW, Absent()).reason == Refusal.NOT_DEFINED


# --- by modules --------------------------------------------------------------------------------------------------------


def by_modules(*dimms_mib: int) -> Running:
    vm = running()
    shape = replace(vm.spec.shape, memory_by=MemoryBy.DIMM, memory_mib=512 + sum(dimms_mib))
    plain = replace(vm.spec, shape=shape, dimms_mib=dimms_mib)
    return replace(vm, spec=plain, definition=replace(vm.definition, shape=shape), hardware=ordered(plain))


def test_each_growth_is_one_more_module_and_the_order_says_what_it_cost() -> None:
    vm = by_modules(128)
    (asked,) = VM.decide(ResizeVm(vm="a", memory_mib=1024, vcpus_free=3), vm)
    assert isinstance(asked, VmResizeRequested) and asked.vcpus_left == 3
    cost = Promised(reserved_mib=3000, charged_mib=0, capacity_mib=4000)
    (told,) = VM.decide(replace(GRANTED, promised=cost), after(vm, asked))
    assert told == replace(ORDERED, dimms_mib=(128, 384), promised=cost)
    vm = after(vm, asked, told)
    assert vm.spec.dimms_mib == (128, 384)
    has = Hardware(vcpus=2, plugged_vcpus=2, memory_mib=1024, dimms_mib=(128, 384))
    fact = ReportVm(node=N1, vm="a", generation=1, order_version=99, seen=Seen.RUNNING, hardware=has)
    vm = after(vm, *VM.decide(fact, vm))
    assert (vm.spec.dimms_mib, vm.definition.shape.memory_mib, vm.growth) == ((128, 384), 1024, None)
    less = VM.decide(ResizeVm(vm="a", memory_mib=640), vm)
    assert after(vm, *less).spec.dimms_mib == (128,)


def test_a_module_that_its_guest_keeps_stays_part_of_it() -> None:
    vm = after(by_modules(128, 256), *VM.decide(ResizeVm(vm="a", memory_mib=512), by_modules(128, 256)))
    assert vm.spec.dimms_mib == ()
    kept = Misfit(what="memory", sentence="its module 1 of 256 MiB: the guest refused to let it go", pending=True)
    has = Hardware(vcpus=2, plugged_vcpus=2, memory_mib=896, dimms_mib=(128, 256), misfits=(kept,))
    fact = ReportVm(node=N1, vm="a", generation=1, order_version=99, seen=Seen.RUNNING, hardware=has)
    vm = after(vm, *VM.decide(fact, vm))
    assert (vm.spec.dimms_mib, vm.spec.shape.memory_mib, vm.definition.shape.memory_mib) == ((128, 256), 896, 896)


@pytest.mark.parametrize(
    ("had", "wish", "words"),
    [
        ((), 700, "640 MiB or 768 MiB"),
        ((), 600, "640 MiB"),
        ((128, 256), 700, "640 MiB or 512 MiB"),
        ((128, 256), 640 + 255, "640 MiB"),
        ((128,) * 8, 512 + 9 * 128, "sockets for 8"),
    ],
)
def test_what_is_no_module_is_refused_with_what_would_be(had: tuple[int, ...], wish: int, words: str) -> None:
    said = refused(ResizeVm(vm="a", memory_mib=wish), by_modules(*had))
    assert said.reason == Refusal.BAD_SHAPE and words in f"{said.sentence}; {said.remedy}"


@given(st.lists(st.integers(-4, 8), max_size=30))
def test_modules_always_add_up(steps: list[int]) -> None:
    """Whatever is asked for: what is let through leaves modules that are the memory beyond its birth."""
    vm = by_modules()
    for step in steps:
        wish = ResizeVm(vm="a", memory_mib=max(64, vm.spec.shape.memory_mib + step * 128))
        try:
            events = VM.decide(wish, vm)
        except Refused:
            continue
        vm = after(vm, *events)
        if vm.growth is not None and not vm.growing:
            vm = after(vm, *VM.decide(GRANTED, vm))
        has = ordered(vm.spec)
        fact = ReportVm(node=N1, vm="a", generation=1, order_version=10**6, seen=Seen.RUNNING, hardware=has)
        vm = after(vm, *VM.decide(fact, vm))
        assert 512 + sum(vm.spec.dimms_mib) == vm.spec.shape.memory_mib == vm.definition.shape.memory_mib
        assert len(vm.spec.dimms_mib) <= DIMMS_MAX


def test_what_it_grows_by_is_changed_at_rest_only() -> None:
    (event,) = VM.decide(ResizeVm(vm="a", memory_by=MemoryBy.DIMM), STOPPED)
    assert isinstance(event, VmReshaped) and event.shape.memory_by is MemoryBy.DIMM
    assert refused(ResizeVm(vm="a", memory_by=MemoryBy.DIMM), running()).reason == Refusal.NOT_STOPPED


# --- the ledger --------------------------------------------------------------------------------------------------------


def test_the_ledger_is_asked_before_it_grows_and_told_what_it_has() -> None:
    promise = promise_of(1024, Priority.NORMAL, Allotment())
    asked = ResizeMemory(node="n1", vm="a", generation=1, promise=promise, purpose=Purpose.HOT_ADD)
    assert react.react(REQUESTED, None, None) == [asked]  # type: ignore[arg-type]
    assert react.react(replace(REQUESTED, memory_mib=512), None, None) == ()  # type: ignore[arg-type]
    less = VmResized(
        vm=A, node=N1, generation=1, vcpus=4, memory_mib=768, priority=Priority.NORMAL, allotment=Allotment()
    )
    (told,) = react.react(less, None, None)  # type: ignore[arg-type]
    assert isinstance(told, ResizeMemory) and told.promise == promise_of(768, Priority.NORMAL, Allotment())
