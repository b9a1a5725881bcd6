"""The life of a VM: given these events, when this command, then those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from libs.common.testing import Given, Spec
from proto.compute import (
    DefineVm,
    DeleteVm,
    GoneCause,
    ImageFacts,
    NoteDevices,
    NoteMemory,
    PauseVm,
    Refusal,
    ReportVm,
    ResetVm,
    ResumeVm,
    Seen,
    StartVm,
    StopVm,
    VmCommand,
    VmDefined,
    VmDeleted,
    VmDevicesNoted,
    VmEvent,
    VmLaunchRequested,
    VmMemoryNoted,
    VmPaused,
    VmPauseRequested,
    VmReset,
    VmResetRequested,
    VmResumed,
    VmResumeRequested,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.machine import (
    DirectBoot,
    Disk,
    DiskFormat,
    DiskWish,
    Firmware,
    MachineSpec,
    Nic,
    NicKind,
    NicModel,
    NicWish,
    Shape,
    birth,
)
from proto.placement import Candidate, Filter, Placement, Rejected
from proto.space import FullDisk, VmRanOutOfSpace
from services.compute.model import VM
from services.compute.policy import ATTEMPTS_MAX
from services.compute.states import Absent, Launching, Reserving, Running, Stopped, Stopping, Vm

A = VmId("a")
N1, N2, N3, N4 = (NodeId(f"n{i}") for i in (1, 2, 3, 4))
BOOT = DirectBoot(kernel="vmlinux", initrd="initrd")
SHAPE = Shape(
    vcpus=1, memory_mib=256, vcpus_max=4, memory_max_mib=1024, machine="pc-q35-7.2", cpu_model="qemu64",
    firmware=Firmware.DIRECT, uuid="00000000-0000-8000-8000-000000000000",
)  # fmt: skip
WISHES = (DiskWish(image="tiny"),)
DISKS = (
    Disk(
        name="disk0", pool="default", file="a-disk0.qcow2", size_mib=64, format=DiskFormat.QCOW2, serial="s", slot=1,
        image="tiny",
    ),
)  # fmt: skip
NICS = (Nic(name="nic0", kind=NicKind.USER, mac="52:54:00:00:00:01", slot=2),)


def choice(*nodes: NodeId, tried: Sequence[NodeId] = ()) -> Placement:
    return Placement(
        policy="p",
        candidates=tuple(Candidate(node=n, score=0.5) for n in nodes),
        rejected=tuple(Rejected(node=n, filter=Filter.TRIED) for n in tried),
    )


def requested(node: NodeId, generation: int, placement: Placement) -> VmStartRequested:
    return VmStartRequested(
        vm=A, node=node, generation=generation, memory_mib=256, vcpus=1, priority=DEFINED.priority, placement=placement,
        disks=WISHES, nics=(NicWish(),),
    )  # fmt: skip


def launched(node: NodeId, generation: int) -> VmLaunchRequested:
    spec = MachineSpec(vm=A, generation=generation, shape=SHAPE, disks=DISKS, nics=NICS, boot=BOOT, boot_image="tiny")
    return VmLaunchRequested(vm=A, node=node, spec=msgspec.structs.replace(spec, born=birth(spec)))


def report(seen: Seen, generation: int = 1, node: NodeId = N1, version: int = 99, **more: object) -> ReportVm:
    body = {"vm": "a", "node": node, "generation": generation, "order_version": version, "seen": seen} | more
    return msgspec.convert(body, ReportVm)


DEFINE = DefineVm(vm="a", disks=WISHES, nics=(NicWish(),), known=ImageFacts(sizes_mib={"tiny": 64}))
DEFINED = VmDefined(
    vm=A, shape=SHAPE, disks=WISHES, nics=(NicWish(),), priority=DEFINE.priority, sizes_mib={"tiny": 64}, boot=BOOT,
    boot_image="tiny",
)  # fmt: skip
REQUESTED = requested(N1, 1, choice(N1, N2))
MEMORY = VmMemoryNoted(vm=A, generation=1)
DEVICES = VmDevicesNoted(vm=A, generation=1, disks=DISKS, nics=NICS)
LAUNCHED = launched(N1, 1)
STARTED = VmStarted(vm=A, node=N1, generation=1, boot_id="b", pcpus=(0,))
STOP_REQUESTED = VmStopRequested(vm=A, node=N1, generation=1, deadline_s=60)
STOPPED = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.ORDERED)
PAUSE = VmPauseRequested(vm=A, generation=1)
PAUSED = VmPaused(vm=A, generation=1)
RESUME = VmResumeRequested(vm=A, generation=1)
RESET = VmResetRequested(vm=A, generation=1, resets=1)
OUT_OF_SPACE = VmRanOutOfSpace(vm=A, node=N1, generation=1, disks=(FullDisk(disk="disk0", pool="default"),))

RESERVING = (DEFINED, REQUESTED)
LAUNCHING = (*RESERVING, MEMORY, DEVICES, LAUNCHED)
RUNNING = (*LAUNCHING, STARTED)
STOPPING = (*RUNNING, STOP_REQUESTED)
HISTORIES: dict[str, tuple[VmEvent, ...]] = {
    "absent": (),
    "stopped": (DEFINED,),
    "reserving": RESERVING,
    "memory noted": (*RESERVING, MEMORY),
    "devices noted": (*RESERVING, DEVICES),
    "launching": LAUNCHING,
    "running": RUNNING,
    "pausing": (*RUNNING, PAUSE),
    "paused": (*RUNNING, PAUSE, PAUSED),
    "resuming": (*RUNNING, PAUSE, PAUSED, RESUME),
    "resetting": (*RUNNING, RESET),
    "out of space": (*RUNNING, OUT_OF_SPACE),
    "stopping": STOPPING,
    "stopped again": (*STOPPING, STOPPED),
    "deleted": (*STOPPING, STOPPED, VmDeleted(vm=A, node=N1)),
}
START = StartVm(vm="a", choice=choice(N1, N2))
NOTE_MEMORY = NoteMemory(vm="a", node=N1, generation=1, granted=True)
NOTE_DEVICES = NoteDevices(vm="a", node=N1, generation=1, granted=True, disks=DISKS, nics=NICS)
NO_MEMORY = NoteMemory(vm="a", node=N1, generation=1, granted=False, sentence="full")
NO_DEVICES = NoteDevices(vm="a", node=N1, generation=1, granted=False, sentence="no image")
COMMANDS: tuple[VmCommand, ...] = (
    DEFINE,
    START,
    StopVm(vm="a"),
    ResetVm(vm="a"),
    PauseVm(vm="a"),
    ResumeVm(vm="a"),
    DeleteVm(vm="a"),
    NOTE_MEMORY,
    NO_MEMORY,
    NOTE_DEVICES,
    NO_DEVICES,
    *(report(seen, g, n) for seen, g, n in product(Seen, (0, 1, 2), (N1, N2))),
)
vm = Spec(VM)


# --- every command in every state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_every_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[VmEvent, ...]) -> None:
    for command in COMMANDS:
        first = vm.given(*history).when(command)
        after = VM.fold(first.events, first.before)
        again = Given(VM, after).when(command)
        assert not again.events, f"{command} twice: {again.events}"


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_states_survive_the_wire(history: tuple[VmEvent, ...]) -> None:
    state = VM.fold(history)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=VM.state) == state
    assert state.version == len(history)


# --- define -------------------------------------------------------------------------------------------------------


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


# --- start --------------------------------------------------------------------------------------------------------


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
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence=denial.sentence, tried=(N1,))
    vm.given(*RESERVING).when(denial).then(failed, requested(N2, 2, choice(N2, tried=[N1]))).twice()


def test_a_denial_takes_the_fresh_choice_where_one_came_with_it() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="full", tried=(N1,))
    fresh = msgspec.structs.replace(NO_MEMORY, choice=choice(N3, N1))
    vm.given(*RESERVING).when(fresh).then(failed, requested(N3, 2, choice(N3, tried=[N1])))
    nothing = msgspec.structs.replace(NO_MEMORY, choice=choice(tried=[N1]))
    vm.given(*RESERVING).when(nothing).then(failed)


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
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="locked", tried=(N1,))
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


# --- reports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [LAUNCHING, RUNNING, STOPPING], ids=["launching", "running", "stopping"])
def test_only_the_node_that_the_log_names_is_believed(history: tuple[VmEvent, ...]) -> None:
    for seen in Seen:
        vm.given(*history).when(report(seen, node=N2)).refused(Refusal.NOT_PERMITTED)
        vm.given(*history).when(report(seen, generation=2)).refused(Refusal.NOT_PERMITTED)


def test_an_older_generation_is_history_unless_it_still_runs() -> None:
    second = vm.given(*STOPPING, STOPPED, requested(N2, 2, choice(N2)))
    for seen in (Seen.GONE, Seen.FAILED):
        second.when(report(seen)).nothing()
    for seen in (Seen.RUNNING, Seen.PAUSED):
        second.when(report(seen)).refused(Refusal.NOT_YOURS)
        vm.given(*STOPPING, STOPPED).when(report(seen)).refused(Refusal.NOT_YOURS)
        vm.given(*HISTORIES["deleted"]).when(report(seen)).refused(Refusal.NOT_YOURS)


def test_a_log_that_was_restored_condemns_nothing() -> None:
    """A generation beyond the log's may be the truth that the log has lost."""
    vm.given().when(report(Seen.RUNNING, generation=5)).nothing()
    vm.given(DEFINED).when(report(Seen.RUNNING, generation=5)).refused(Refusal.NOT_PERMITTED)


def test_an_end_is_seen_with_its_cause() -> None:
    crashed = msgspec.structs.replace(STOPPED, cause=GoneCause.CRASHED, sentence="signal 9", unwished=True)
    vm.given(*RUNNING).when(report(Seen.GONE, cause="crashed", sentence="signal 9")).then(crashed).twice()


# --- stop, delete -------------------------------------------------------------------------------------------------


def test_a_stop_in_full() -> None:
    vm.given(*RUNNING).when(StopVm(vm="a")).then(STOP_REQUESTED).twice()
    vm.given(*STOPPING).when(report(Seen.RUNNING)).nothing()
    vm.given(*STOPPING).when(report(Seen.GONE, cause="ordered")).then(STOPPED).twice()
    vm.given(*STOPPING, STOPPED).when(StopVm(vm="a")).nothing()
    vm.given(*STOPPING, STOPPED).when(DeleteVm(vm="a")).then(VmDeleted(vm=A, node=N1)).twice(Refusal.NOT_DEFINED)


def test_a_stop_may_be_hurried_but_not_delayed() -> None:
    now = msgspec.structs.replace(STOP_REQUESTED, deadline_s=0)
    vm.given(*STOPPING).when(StopVm(vm="a", deadline_s=0)).then(now).twice()
    vm.given(*STOPPING).when(StopVm(vm="a", deadline_s=600)).nothing()


def test_a_start_may_be_stopped_at_each_step() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence="stopped before it was launched", tried=(N1,))
    vm.given(*RESERVING).when(StopVm(vm="a")).then(failed).twice()
    vm.given(*LAUNCHING).when(StopVm(vm="a")).then(STOP_REQUESTED).twice()
    cancelled = vm.given(*LAUNCHING, STOP_REQUESTED)
    cancelled.when(report(Seen.FAILED, sentence="locked")).then(
        msgspec.structs.replace(STOPPED, cause=GoneCause.UNKNOWN, sentence="locked")
    )
    cancelled.when(StartVm(vm="a", choice=choice(N1))).refused(Refusal.BUSY)


@pytest.mark.parametrize("history", [RESERVING, LAUNCHING, RUNNING, STOPPING])
def test_only_a_stopped_vm_is_deleted(history: tuple[VmEvent, ...]) -> None:
    vm.given(*history).when(DeleteVm(vm="a")).refused(Refusal.NOT_STOPPED)


# --- pause, resume, reset -----------------------------------------------------------------------------------------


def test_pause_and_resume_in_full() -> None:
    vm.given(*RUNNING).when(PauseVm(vm="a")).then(PAUSE).twice()
    vm.given(*RUNNING, PAUSE).when(report(Seen.PAUSED)).then(PAUSED).twice()
    vm.given(*RUNNING, PAUSE, PAUSED).when(ResumeVm(vm="a")).then(RESUME).twice()
    resumed = VmResumed(vm=A, generation=1)
    resuming = vm.given(*RUNNING, PAUSE, PAUSED, RESUME)
    resuming.when(report(Seen.RUNNING)).then(resumed).twice()
    vm.given(*RUNNING, PAUSE, PAUSED, RESUME, resumed).when(ResumeVm(vm="a")).refused(Refusal.NOT_PAUSED)


def test_a_report_on_an_older_order_says_nothing_about_the_wish() -> None:
    resuming = (*RUNNING, PAUSE, PAUSED, RESUME)
    asked = len(resuming)
    vm.given(*resuming, PAUSE).when(report(Seen.PAUSED, version=asked)).nothing()
    vm.given(*resuming).when(report(Seen.RUNNING, version=asked - 1)).nothing()
    vm.given(*resuming).when(report(Seen.RUNNING, version=asked)).then(VmResumed(vm=A, generation=1))


def test_resets_are_counted() -> None:
    reset = VmReset(vm=A, generation=1, resets=1)
    vm.given(*RUNNING).when(ResetVm(vm="a")).then(RESET).twice()
    vm.given(*RUNNING, RESET).when(report(Seen.RUNNING, resets=0)).nothing()
    vm.given(*RUNNING, RESET).when(report(Seen.RUNNING, resets=1)).then(reset).twice()
    vm.given(*RUNNING, RESET).when(report(Seen.RUNNING, resets=7)).then(reset)
    second = msgspec.structs.replace(RESET, resets=2)
    vm.given(*RUNNING, RESET, reset).when(ResetVm(vm="a")).then(second)


@pytest.mark.parametrize("command", [PauseVm(vm="a"), ResumeVm(vm="a"), ResetVm(vm="a")], ids=str)
def test_only_a_running_vm_is_steered(command: VmCommand) -> None:
    for history in ((DEFINED,), RESERVING, LAUNCHING, STOPPING):
        vm.given(*history).when(command).refused(Refusal.NOT_RUNNING)


# --- properties ---------------------------------------------------------------------------------------------------

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
