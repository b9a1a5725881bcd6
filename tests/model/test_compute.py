"""The life of a VM: given these events, when this command, then those."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId
from proto.compute import (
    GoneCause,
    ImageFacts,
    NoteDevices,
    NoteMemory,
    Refusal,
    ReportVm,
    Seen,
    StartVm,
    VmCommand,
    VmDefined,
    VmEvent,
    VmLaunchRequested,
    VmStarted,
    VmStartFailed,
    VmStopped,
)
from proto.machine import (
    DiskFormat,
    DiskWish,
    Firmware,
    NicModel,
    NicWish,
)
from proto.placement import Filter, Placement, Rejected
from services.compute.model import DECIDES, OF_ABSENT, VM
from services.compute.policy import ATTEMPTS_MAX
from services.compute.states import Absent, Launching, Reserving, Running, Stopped, Stopping, Vm
from tests.model.compute_story import (
    BOOT,
    COMMANDS,
    DEFINE,
    DEFINED,
    DEVICES,
    HISTORIES,
    LAUNCHED,
    LAUNCHING,
    MEMORY,
    N1,
    N2,
    N3,
    N4,
    NO_DEVICES,
    NO_MEMORY,
    NOTE_DEVICES,
    NOTE_MEMORY,
    REQUESTED,
    RESERVING,
    RUNNING,
    START,
    STARTED,
    STOPPED,
    A,
    choice,
    report,
    requested,
    vm,
)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_every_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[VmEvent, ...]) -> None:
    vm.given(*history).settles(*COMMANDS)


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_states_survive_the_wire(history: tuple[VmEvent, ...]) -> None:
    told = vm.given(*history)
    told.survives_the_wire()
    assert told.state.version == len(history)


def test_a_definition_pins_what_the_guest_sees() -> None:
    known = ImageFacts(sizes_mib={"tiny": 64}, boot=BOOT, boot_image="tiny")
    (event,) = vm.given().when(msgspec.structs.replace(DEFINE, vcpus=2, memory_mib=512, known=known)).events
    assert isinstance(event, VmDefined)
    shape = event.shape
    assert (shape.machine, shape.cpu_model, shape.firmware) == ("pc-q35-7.2", "qemu64", Firmware.DIRECT)
    assert (shape.vcpus_max, shape.memory_max_mib) == (8, 2048)
    assert (event.boot, event.boot_image, event.sizes_mib) == (BOOT, "tiny", {"tiny": 64})
    assert vm.given().when(DEFINE).events == vm.given().when(DEFINE).events, "by chance"


def test_an_image_that_does_not_boot_directly_boots_by_bios() -> None:
    (event,) = vm.given().when(DEFINE).events
    assert isinstance(event, VmDefined) and event.shape.firmware is Firmware.BIOS and event.boot is None


def test_a_vm_wider_than_the_default_headroom_is_its_own_maximum() -> None:
    (event,) = vm.given().when(msgspec.structs.replace(DEFINE, vcpus=32)).events
    assert isinstance(event, VmDefined) and event.shape.vcpus_max == 32


def test_a_given_uuid_is_kept() -> None:
    uuid = "01234567-89ab-4def-8123-456789abcdef"
    (event,) = vm.given().when(msgspec.structs.replace(DEFINE, uuid=uuid)).events
    assert isinstance(event, VmDefined) and event.shape.uuid == uuid


@pytest.mark.parametrize(
    "wrong",
    [
        {"vcpus": 4, "vcpus_max": 2},
        {"vcpus_max": 1024},
        {"memory_mib": 512, "memory_max_mib": 256},
        {"memory_max_mib": 2**40},
        {"uuid": "x"},
        {"disks": (DiskWish(),)},
        {"disks": (DiskWish(image="tiny", format=DiskFormat.RAW),)},
        {"disks": (DiskWish(image="tiny", size_mib=63),)},
        {"disks": (DiskWish(size_mib=1),) * 33},
        {"nics": (NicWish(),) * 9},
        {"nics": (NicWish(queues=2),)},
        {"nics": (NicWish(queues=2, model=NicModel.E1000E),)},
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    vm.given().when(msgspec.structs.replace(DEFINE, **wrong)).refused(Refusal.BAD_SHAPE)


def test_an_unknown_image_is_refused() -> None:
    vm.given().when(msgspec.structs.replace(DEFINE, known=ImageFacts(missing=("tiny",)))).refused(Refusal.NO_IMAGE)
    vm.given().when(msgspec.structs.replace(DEFINE, known=None)).refused(Refusal.NO_IMAGE)


def test_a_name_is_taken_until_it_is_deleted_and_its_generation_stays() -> None:
    vm.given(DEFINED).when(DEFINE).refused(Refusal.ALREADY_DEFINED)
    gone = vm.given(*HISTORIES["deleted"])
    assert gone.state == Absent(generation=1, version=9)
    again = vm.given(*HISTORIES["deleted"], DEFINED)
    again.when(START).then(requested(N1, 2, choice(N1, N2)))


def test_a_start_in_full() -> None:
    vm.given(DEFINED).when(START).then(REQUESTED).twice()
    vm.given(*RESERVING).when(NOTE_MEMORY).then(MEMORY).twice()
    vm.given(*RESERVING, MEMORY).when(NOTE_DEVICES).then(DEVICES, LAUNCHED).twice()
    vm.given(*LAUNCHING).when(report(Seen.RUNNING, boot_id="b", pcpus=(0,))).then(STARTED).twice()
    assert isinstance(vm.given(*RUNNING).state, Running)


def test_devices_may_come_first() -> None:
    vm.given(*RESERVING).when(NOTE_DEVICES).then(DEVICES).twice()
    vm.given(*RESERVING, DEVICES).when(NOTE_MEMORY).then(MEMORY, LAUNCHED).twice()


def test_a_start_without_a_node_says_why_and_what_would_help() -> None:
    short = Rejected(node=N1, filter=Filter.MEMORY, needed=256, available=100)
    off = Rejected(node=N2, filter=Filter.OFFLINE)
    outcome = vm.given(DEFINED).when(StartVm(vm="a", choice=Placement(policy="p", rejected=(short, off))))
    refusal = outcome.refused(Refusal.NO_NODE_FITS).refusal
    assert refusal and "n1 (100 of 256 MiB free)" in refusal.sentence and "offline: n2" in refusal.sentence
    assert "free 156 MiB on n1" in refusal.remedy
    vm.given(DEFINED).when(StartVm(vm="a", choice=Placement(policy="p"))).refused(Refusal.NO_NODE_FITS)
    vm.given(DEFINED).when(StartVm(vm="a")).refused(Refusal.BUSY)


@pytest.mark.parametrize("denial", [NO_MEMORY, NO_DEVICES], ids=["memory", "devices"])
def test_a_denial_gives_back_and_asks_the_next_node(denial: NoteMemory | NoteDevices) -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence=denial.sentence, tried=(N1,), again=True)
    vm.given(*RESERVING).when(denial).then(failed, requested(N2, 2, choice(N2, tried=[N1]))).twice()


def test_a_denial_takes_the_fresh_choice_where_one_came_with_it() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="full", tried=(N1,), again=True)
    fresh = msgspec.structs.replace(NO_MEMORY, choice=choice(N3, N1))
    vm.given(*RESERVING).when(fresh).then(failed, requested(N3, 2, choice(N3, tried=[N1])))
    nothing = msgspec.structs.replace(NO_MEMORY, choice=choice(tried=[N1]))
    vm.given(*RESERVING).when(nothing).then(replace(failed, again=False))


def test_a_start_ends_when_no_candidate_is_left_and_can_be_asked_again() -> None:
    alone = (DEFINED, requested(N1, 1, choice(N1)))
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="full", tried=(N1,))
    vm.given(*alone).when(NO_MEMORY).then(failed).to_state(
        Stopped(definition=DEFINED, generation=1, node=N1, sentence="full", version=3)
    )
    vm.given(*alone, failed).when(START).then(requested(N1, 2, choice(N1, N2)))


def test_attempts_are_bounded() -> None:
    state: Vm = VM.fold([DEFINED, requested(N1, 1, choice(N1, N2, N3, N4))])
    asked = 1
    while isinstance(state, Reserving):
        denial = NoteMemory(vm="a", node=state.node, generation=state.generation, granted=False, sentence="full")
        events = VM.decide(denial, state)
        state = VM.fold(events, state)
        asked += len(events) - 1
    assert asked == ATTEMPTS_MAX and isinstance(state, Stopped) and state.generation == ATTEMPTS_MAX


def test_a_failed_launch_asks_the_next_node() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="locked", tried=(N1,), again=True)
    retry = requested(N2, 2, choice(N2, tried=[N1]))
    vm.given(*LAUNCHING).when(report(Seen.FAILED, sentence="locked")).then(failed, retry).twice()
    (gone, again) = vm.given(*LAUNCHING).when(report(Seen.GONE, cause="crashed")).events
    assert isinstance(gone, VmStartFailed) and "crashed" in gone.sentence and again == retry


def test_a_guest_that_shuts_down_before_it_was_heard_has_run() -> None:
    stopped = msgspec.structs.replace(STOPPED, cause=GoneCause.GUEST)
    started = VmStarted(vm=A, node=N1, generation=1)
    vm.given(*LAUNCHING).when(report(Seen.GONE, cause="guest-shutdown")).then(started, stopped).twice()


def test_answers_to_an_older_attempt_change_nothing() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="full", tried=(N1,))
    second = vm.given(*RESERVING, failed, requested(N2, 2, choice(N2, tried=[N1])))
    for late in (NOTE_MEMORY, NO_MEMORY, NOTE_DEVICES, NO_DEVICES):
        second.when(late).nothing()


nodes = st.sampled_from([N1, N2, N3])
generations = st.integers(0, 5)
commands: st.SearchStrategy[VmCommand] = st.one_of(
    st.sampled_from([DEFINE, *COMMANDS[2:7]]),
    st.lists(nodes, unique=True).map(lambda ns: StartVm(vm="a", choice=choice(*ns))),
    st.builds(NoteMemory, vm=st.just("a"), node=nodes, generation=generations, granted=st.booleans(), sentence=st.just("full")),
    st.builds(NoteDevices, vm=st.just("a"), node=nodes, generation=generations, granted=st.booleans(), sentence=st.just("no")),
    st.builds(
        ReportVm, vm=st.just("a"), node=nodes, generation=generations, order_version=st.integers(0, 40),
        seen=st.sampled_from(Seen), cause=st.sampled_from(GoneCause), resets=st.integers(0, 3),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(commands, max_size=40))
def test_no_story_lowers_a_generation_or_runs_a_vm_twice(story: list[VmCommand]) -> None:
    state: Vm = VM.initial
    launched_on: dict[int, NodeId] = {}
    for command in story:
        try:
            events = VM.decide(command, state)
        except Refused as refused:
            assert refused.sentence and refused.remedy
            continue
        before = state
        state = VM.fold(events, state)
        assert state.generation >= before.generation and state.version == before.version + len(events)
        for event in events:
            if isinstance(event, VmLaunchRequested):
                node = launched_on.setdefault(event.spec.generation, event.node)
                assert node == event.node, "one generation on two nodes"
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=VM.state) == state
        if events and isinstance(before, Launching | Running | Stopping) and state.generation > before.generation:
            ended = [e for e in events if isinstance(e, VmStartFailed | VmStopped)]
            assert ended, "a newer generation while the older may still run"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([e for h in HISTORIES.values() for e in h]), max_size=30))
def test_evolve_never_raises_whatever_the_order(events: list[VmEvent]) -> None:
    state = VM.fold(events)
    assert state.version == len(events)
    assert isinstance(state, Absent | Stopped | Reserving | Launching | Running | Stopping)


def test_each_command_has_somebody_who_decides_it() -> None:
    assert set(DECIDES) == set(VM.commands) and set(OF_ABSENT) <= set(DECIDES)
