"""A node is lost: what of its VMs is known to have ended, what is not, and what their guard has compute start."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import NodeId
from libs.common.testing import Given, Spec
from proto.compute import (
    DeleteVm,
    GoneCause,
    LoseVm,
    NoteDevices,
    NoteMemory,
    PauseVm,
    Refusal,
    ReportVm,
    RestartVm,
    Seen,
    StartVm,
    StopVm,
    VmCommand,
    VmEvent,
    VmFound,
    VmLeftStopped,
    VmPauseRequested,
    VmRestartDenied,
    VmStarted,
    VmStartFailed,
    VmStopped,
)
from proto.migration import MigrateVm, VmIncomingGone, VmIncomingRequested, VmMigrationFailed, VmRecallRequested
from services.compute.model import VM
from services.compute.states import Absent, Launching, Migrating, Reserving, Stopped, Vm
from tests.model import migration_story as moves
from tests.model.compute_story import (
    DEFINED,
    DEVICES,
    DISKS,
    HISTORIES,
    LAUNCHED,
    LAUNCHING,
    MEMORY,
    N1,
    N2,
    N3,
    NICS,
    PAUSE,
    REQUESTED,
    RESERVING,
    RUNNING,
    STARTED,
    STOP_REQUESTED,
    STOPPED,
    STOPPING,
    A,
    choice,
    report,
    requested,
)

vm = Spec(VM)
SAID = "n1 was silent for 5.6 s"
LEASE = LoseVm(vm="a", node="n1", epoch=3, guarded=True, sentence=SAID)
FENCE = LoseVm(vm="a", node="n1", epoch=3, everything=True, sentence=SAID)
NOTHING = LoseVm(vm="a", node="n1", epoch=3, sentence=SAID)
PROOFS = (LEASE, FENCE)
GONE = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.NODE_LOST, sentence=SAID, unwished=True)
AGAIN = RestartVm(vm="a", attempt=1, failover=True, choice=choice(N2, N3))
AWAY = msgspec.structs.replace(requested(N2, 2, choice(N2, N3)), attempt=1, failover=True)
LOCAL = msgspec.structs.replace(LAUNCHED, spec=msgspec.structs.replace(LAUNCHED.spec, protected=False))
ON_LOCAL_DISKS = (*RESERVING, MEMORY, DEVICES, LOCAL, STARTED)


def at(node: NodeId, command: LoseVm) -> LoseVm:
    return msgspec.structs.replace(command, node=node)


# --- what is known to have ended --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", PROOFS)
def test_what_ran_under_the_lease_runs_no_more(proof: LoseVm) -> None:
    for history in (RUNNING, LAUNCHING):
        vm.given(*history).when(proof).then(GONE).twice()
    state = VM.fold((*RUNNING, GONE))
    assert isinstance(state, Stopped) and state.unwished


def test_without_a_lease_only_a_proof_of_everything_counts() -> None:
    vm.given(*ON_LOCAL_DISKS).when(LEASE).nothing()
    vm.given(*ON_LOCAL_DISKS).when(FENCE).then(GONE).twice()
    for history in (RUNNING, LAUNCHING, STOPPING, ON_LOCAL_DISKS):
        vm.given(*history).when(NOTHING).nothing()


def test_what_was_found_after_a_restore_is_not_known_to_be_guarded() -> None:
    found = VmFound(vm=A, node=N1, generation=1, memory_mib=256, vcpus=1, priority=DEFINED.priority)
    vm.given(DEFINED, found).when(LEASE).nothing()
    vm.given(DEFINED, found).when(FENCE).then(GONE)


def test_a_proof_is_of_its_node_alone() -> None:
    for history in (RESERVING, LAUNCHING, RUNNING, STOPPING):
        vm.given(*history).when(at(N2, FENCE)).nothing()


def test_what_was_first_seen_under_a_later_lease_is_not_of_this_proof() -> None:
    later = msgspec.structs.replace(STARTED, epoch=4)
    for proof in PROOFS:
        vm.given(*LAUNCHING, later).when(proof).nothing()
        vm.given(*LAUNCHING, msgspec.structs.replace(later, epoch=3)).when(proof).then(GONE)


def test_a_start_of_which_no_agent_was_told_goes_on_elsewhere_without_any_proof() -> None:
    failed = VmStartFailed(vm=A, node=N1, generation=1, sentence=SAID, tried=(N1,), again=True)
    for proof in (*PROOFS, NOTHING):
        vm.given(*RESERVING).when(proof).then(failed, requested(N2, 2, choice(N2, tried=[N1]))).twice()
        fresh = msgspec.structs.replace(proof, choice=choice(N3))
        vm.given(*RESERVING).when(fresh).then(failed, requested(N3, 2, choice(N3, tried=[N1])))


def test_what_somebody_wanted_stopped_or_paused_is_not_to_run_again() -> None:
    (ended,) = vm.given(*STOPPING).when(LEASE).events
    assert isinstance(ended, VmStopped) and not ended.unwished
    vm.given(*STOPPING, ended).when(AGAIN).nothing()
    (ended,) = vm.given(*RUNNING, PAUSE).when(LEASE).events
    assert isinstance(ended, VmStopped) and not ended.unwished
    stilled = VmPauseRequested(vm=A, generation=1, stilled=True)
    vm.given(*RUNNING, stilled).when(LEASE).then(GONE)  # the memory ladder's wish is nobody's


# --- migrations: both ends --------------------------------------------------------------------------------------------


def test_a_target_that_is_lost() -> None:
    over = VmIncomingGone(vm=A, node=N2, generation=2, source=N1, source_generation=1)
    failed = VmMigrationFailed(vm=A, node=N1, generation=1, to=N2, incoming=2, sentence=SAID)
    recall = VmRecallRequested(vm=A, node=N1, generation=1, incoming=2, sentence=SAID, target_gone=True)
    vm.given(*moves.RESERVING).when(at(N2, NOTHING)).then(failed, over).twice()
    for proof in PROOFS:
        vm.given(*moves.PREPARING).when(at(N2, proof)).then(failed, over).twice()
        vm.given(*moves.SENDING).when(at(N2, proof)).then(recall).twice()
        vm.given(*moves.ENDING).when(at(N2, proof)).then(over).twice()
    for history in (moves.PREPARING, moves.SENDING, moves.ENDING):
        vm.given(*history).when(at(N2, NOTHING)).nothing()


def test_a_source_that_is_lost_and_the_targets_end_is_awaited() -> None:
    for history in (moves.PREPARING, moves.SENDING, moves.RECALLING, moves.ENDING):
        for proof in PROOFS:
            (failed,) = vm.given(*history).when(proof).twice().events
            assert isinstance(failed, VmMigrationFailed) and failed.source_gone
            assert not any(isinstance(e, VmStopped) for e in (failed,))
            after = (*history, failed)
            vm.given(*after).when(AGAIN).nothing()
            ends = vm.given(*after).when(moves.target(Seen.GONE)).events
            assert ends[-1] == GONE
        vm.given(*history).when(NOTHING).nothing()
    events = vm.given(*moves.RESERVING).when(LEASE).twice().events  # no process waits there
    assert [type(e) for e in events] == [VmMigrationFailed, VmIncomingGone, VmStopped] and events[-1] == GONE


def test_both_ends_are_lost_one_after_the_other_in_either_order() -> None:
    for history in (moves.PREPARING, moves.SENDING, moves.RECALLING, moves.ENDING):
        for first, second in ((LEASE, at(N2, LEASE)), (at(N2, LEASE), LEASE)):
            one = vm.given(*history).when(first).events
            stopped = [e for e in one if isinstance(e, VmStopped)]
            assert not stopped, "one end is not both"
            two = vm.given(*history, *one).when(second).events
            assert two[-1] == GONE, (history[-1], first.node)


def test_an_end_without_a_lease_is_not_proven_by_a_lease() -> None:
    plain = msgspec.structs.replace(moves.SPEC, protected=False)
    history = (*moves.RESERVING, moves.NOTED, moves.GRANTED, VmIncomingRequested(vm=A, to=N2, spec=plain), moves.SEND)
    vm.given(*history).when(at(N2, LEASE)).nothing()
    (failed,) = vm.given(*history).when(LEASE).events
    vm.given(*history, failed).when(at(N2, LEASE)).nothing()
    assert vm.given(*history, failed).when(at(N2, FENCE)).events[-1] == GONE


def test_what_has_arrived_is_lost_with_the_target_alone() -> None:
    vm.given(*moves.ARRIVING).when(LEASE).nothing()
    there = msgspec.structs.replace(GONE, node=N2, generation=2)
    vm.given(*moves.ARRIVING).when(at(N2, LEASE)).then(there).twice()
    vm.given(*moves.THERE).when(at(N2, LEASE)).then(there).twice()


# --- the start that a guard asks for ----------------------------------------------------------------------------------


def test_a_restart_is_a_start_under_the_next_generation() -> None:
    vm.given(*RUNNING, GONE).when(AGAIN).then(AWAY).twice()
    on = (*RUNNING, GONE, AWAY)
    failed = VmStartFailed(vm=A, node=N2, generation=2, sentence="full", tried=(N2,), again=True)
    third = msgspec.structs.replace(requested(N3, 3, choice(N3, tried=[N2])), attempt=1, failover=True)
    no = NoteMemory(vm="a", node=N2, generation=2, granted=False, sentence="full")
    vm.given(*on).when(no).then(failed, third).twice()
    last = VmStartFailed(vm=A, node=N3, generation=3, sentence="full", tried=(N2, N3))
    denied = VmRestartDenied(vm=A, attempt=1, sentence="full")
    no = msgspec.structs.replace(no, node=N3, generation=3)
    vm.given(*on, failed, third).when(no).then(last, denied).twice()
    second = msgspec.structs.replace(AGAIN, attempt=2)
    (event,) = vm.given(*on, failed, third, last, denied).when(second).events
    assert (event.generation, event.attempt) == (4, 2)  # type: ignore[union-attr]


def test_a_restart_that_cannot_be_is_told_and_never_refused() -> None:
    lost = vm.given(*RUNNING, GONE)
    nowhere = lost.when(msgspec.structs.replace(AGAIN, choice=choice(tried=[N1]))).events
    assert isinstance(nowhere[0], VmRestartDenied) and nowhere[0].sentence and nowhere[0].remedy
    (unknown,) = lost.when(msgspec.structs.replace(AGAIN, choice=None)).events
    (unheard,) = lost.when(msgspec.structs.replace(AGAIN, unheard=("n3",))).events
    assert isinstance(unknown, VmRestartDenied) and isinstance(unheard, VmRestartDenied) and "n3" in unheard.sentence


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_only_what_stopped_against_its_will_is_restarted(history: tuple[VmEvent, ...]) -> None:
    """Of what is being started already its guard hears that: it asks again should that come to nothing."""
    events = vm.given(*history).when(AGAIN).events
    under_way = isinstance(VM.fold(history), Reserving | Launching)
    assert [type(event) for event in events] == [VmRestartDenied] * under_way


def test_a_stop_of_what_is_down_already_is_heard() -> None:
    left = VmLeftStopped(vm=A, node=N1, generation=1)
    vm.given(*RUNNING, GONE).when(StopVm(vm="a")).then(left).twice()
    vm.given(*RUNNING, GONE, left).when(AGAIN).nothing()
    vm.given(*STOPPING, STOPPED).when(StopVm(vm="a")).nothing()
    on = (*RUNNING, GONE, AWAY)
    events = vm.given(*on).when(StopVm(vm="a")).events
    assert [type(e) for e in events] == [VmStartFailed, VmLeftStopped]
    vm.given(*on, *events).when(msgspec.structs.replace(AGAIN, attempt=2)).nothing()


def test_a_crash_is_against_its_will_and_a_shutdown_is_not() -> None:
    causes = {GoneCause.CRASHED: True, GoneCause.UNKNOWN: True, GoneCause.GUEST: False, GoneCause.ORDERED: False}
    for cause, unwished in causes.items():
        (ended,) = vm.given(*RUNNING).when(report(Seen.GONE, cause=cause)).events
        assert isinstance(ended, VmStopped) and ended.unwished is unwished
        assert bool(vm.given(*RUNNING, ended).when(AGAIN).events) is unwished
    (ended,) = vm.given(*RUNNING, STOP_REQUESTED).when(report(Seen.GONE, cause=GoneCause.CRASHED)).events
    assert isinstance(ended, VmStopped) and not ended.unwished


def test_a_late_word_of_the_lost_generation_is_not_its_own() -> None:
    vm.given(*RUNNING, GONE).when(report(Seen.RUNNING)).refused(Refusal.NOT_YOURS)
    vm.given(*RUNNING, GONE, AWAY).when(report(Seen.RUNNING)).refused(Refusal.NOT_YOURS)
    vm.given(*RUNNING, GONE, AWAY).when(report(Seen.GONE)).nothing()


# --- whatever happens -------------------------------------------------------------------------------------------------

NODES = (N1, N2, N3)
WISHES: tuple[VmCommand, ...] = (
    *(at(n, p) for n, p in product(NODES, (LEASE, FENCE, NOTHING))),
    *(msgspec.structs.replace(AGAIN, choice=c) for c in (choice(N2, N3), choice(N1), choice())),
    StartVm(vm="a", choice=choice(N1, N2)),
    StopVm(vm="a"),
    PauseVm(vm="a"),
    PauseVm(vm="a", stilled=True),
    DeleteVm(vm="a"),
    MigrateVm(vm="a", choice=choice(N2)),
    MigrateVm(vm="a", choice=choice(N3)),
)


class Two:
    """What may run of the VM, at the worst: every process that was ordered runs until its end is seen, or proven."""

    def __init__(self) -> None:
        self.state: Vm = VM.fold((DEFINED,))
        self.runs: dict[tuple[str, int], bool] = {}
        """(node, generation) → under the lease"""

    def do(self, command: VmCommand, protected: bool) -> None:
        if isinstance(command, LoseVm):
            gone = [k for k, p in self.runs.items() if k[0] == command.node and (command.everything or (command.guarded and p))]
            for key in gone:
                del self.runs[key]
        if isinstance(command, ReportVm) and command.seen in (Seen.GONE, Seen.FAILED):
            self.runs.pop((command.node, command.generation), None)
        outcome = Given(VM, self.state).when(command)
        for event in outcome.events:
            if event.__class__.__name__ == "VmLaunchRequested":
                others = [k for k in self.runs if k != (event.node, event.spec.generation)]  # type: ignore[union-attr]
                assert not others, f"{event} while {others} may run"
                self.runs[event.node, event.spec.generation] = event.spec.protected  # type: ignore[union-attr]
            if isinstance(event, VmIncomingRequested):
                self.runs[event.to, event.spec.generation] = event.spec.protected
        self.state = VM.fold(outcome.events, outcome.before)

    def grant(self, protected: bool) -> None:
        state = self.state
        if isinstance(state, Migrating):
            node, generation = state.to, state.incoming
        elif not isinstance(state, Absent):
            node, generation = state.node, state.generation
        else:
            return
        self.do(NoteMemory(vm="a", node=node, generation=generation, granted=True), protected)
        note = NoteDevices(vm="a", node=node, generation=generation, granted=True, disks=DISKS, nics=NICS, protected=protected)
        self.do(note, protected)

    def tell(self, seen: Seen) -> None:
        """The agents of what may run say so."""
        for node, generation in list(self.runs):
            incoming = isinstance(self.state, Migrating) and (node, generation) == (self.state.to, self.state.incoming)
            word = Seen.INCOMING if incoming and seen is Seen.RUNNING else seen
            address = "unix:/x" if word is Seen.INCOMING else ""
            self.do(report(word, generation, NodeId(node), cause=GoneCause.CRASHED, address=address), True)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((*WISHES, "grant", "run", "end")), st.booleans()), max_size=24))
def test_nothing_is_started_while_another_may_run(steps: list[tuple[VmCommand | str, bool]]) -> None:
    two = Two()
    for step, protected in steps:
        if step == "grant":
            two.grant(protected)
        elif step == "run":
            two.tell(Seen.RUNNING)
        elif step == "end":
            two.tell(Seen.GONE)
        else:
            assert not isinstance(step, str)
            two.do(step, protected)


def test_started_is_said_with_the_epoch_of_its_node() -> None:
    (event,) = vm.given(*LAUNCHING).when(report(Seen.RUNNING, epoch=7)).events
    assert isinstance(event, VmStarted) and event.epoch == 7
    assert REQUESTED.attempt == 0


def test_what_was_to_run_and_somebody_starts_is_to_run_on_where_that_fails() -> None:
    by_hand = requested(N2, 2, choice(N2, N3))
    failed = VmStartFailed(vm=A, node=N2, generation=2, sentence="its disk is held", tried=(N2,))
    state = VM.fold((*RUNNING, GONE, by_hand, failed))
    assert isinstance(state, Stopped) and state.unwished
    never = VM.fold((DEFINED, by_hand, failed))
    assert isinstance(never, Stopped) and not never.unwished
    stopped, left = vm.given(*RUNNING, GONE, by_hand).when(StopVm(vm="a")).events
    assert isinstance(stopped, VmStartFailed) and left == VmLeftStopped(vm=A, node=N2, generation=2)
    ended = VM.fold((*RUNNING, GONE, by_hand, stopped, left))
    assert isinstance(ended, Stopped) and not ended.unwished


def test_what_is_being_started_already_is_said_to_its_guard_which_asks_again() -> None:
    for history in (RESERVING, LAUNCHING):
        said = VmRestartDenied(vm=A, attempt=1, sentence="it is being started on n1 already, as 1")
        vm.given(*history).when(AGAIN).then(said)
    own = (*RUNNING, GONE, AWAY)
    vm.given(*own).when(AGAIN).nothing()
    assert vm.given(*own).when(msgspec.structs.replace(AGAIN, attempt=2)).events
