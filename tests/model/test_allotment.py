"""What a VM gets of its node: refused where it contradicts itself or the VM's size, kept as it was said otherwise."""

from __future__ import annotations

import msgspec
import pytest

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from proto.compute import DefineVm, Placement, Refusal, VmDefined
from proto.machine import Allotment, MachineSpec, Priority
from proto.migration import MigrateVm
from proto.plan import NodeCpus, NoteAllotment, SetAllotment, VmAllotmentDenied, VmAllotmentRequested, VmAllotted
from services.compute.model import VM
from services.compute.states import Absent, Launching, Running, Stopped


@pytest.mark.parametrize(
    "wish, wrong",
    [
        (Allotment(memory_reserved_mib=513), "513 MiB are to be reserved of 512 MiB"),
        (Allotment(cpu_reserved_pct=201), "201 % of a pCPU are to be reserved for 2 vCPUs"),
        (Allotment(cpu_cap_pct=49, cpu_reserved_pct=50), "the cap of 49 % is below the reservation of 50 %"),
        (Allotment(pins=(1, 2, 1)), "pins name a pCPU twice: 1, 2, 1"),
        (Allotment(together="A b"), "together is 'A b'"),
        (Allotment(together="a", apart="a"), "group a is to be kept together and apart"),
    ],
)
def test_a_contradiction_is_refused(wish: Allotment, wrong: str) -> None:
    with pytest.raises(Refused) as refused:
        VM.decide(DefineVm(vm="a", vcpus=2, memory_mib=512, allotment=wish), Absent())
    assert refused.value.reason == Refusal.BAD_SHAPE
    assert wrong in refused.value.sentence and refused.value.remedy


def test_what_was_said_is_kept() -> None:
    wish = Allotment(
        cpu_weight=300, cpu_cap_pct=200, cpu_reserved_pct=200, memory_reserved_mib=512, pins=(3, 1), apart="db"
    )
    (defined,) = VM.decide(DefineVm(vm="a", vcpus=2, memory_mib=512, allotment=wish), Absent())
    assert isinstance(defined, VmDefined)
    assert (defined.vm, defined.allotment) == (VmId("a"), wish)


# --- changed later -------------------------------------------------------------------------------------------------------

CPUS = NodeCpus(cells=((0, 1, 2, 3),), isolated=(3,))
STOPPED = VM.fold(VM.decide(DefineVm(vm="a", vcpus=2, memory_mib=512, allotment=Allotment(cpu_weight=300)), Absent()))


def running(cpu_reserved_pct: int = 0) -> Running:
    wish = Allotment(cpu_reserved_pct=cpu_reserved_pct)
    defined = VM.decide(DefineVm(vm="a", vcpus=2, memory_mib=512, allotment=wish), Absent())
    (start,) = [e for e in defined if isinstance(e, VmDefined)]
    spec = MachineSpec(vm="a", generation=1, shape=start.shape)
    return Running(definition=start, generation=1, node=NodeId("n1"), spec=spec)


def test_what_is_not_said_stays() -> None:
    (allotted,) = VM.decide(SetAllotment(vm="a", cpu_cap_pct=50, priority=Priority.CRITICAL), STOPPED)
    assert allotted == VmAllotted(
        vm=VmId("a"), priority=Priority.CRITICAL, allotment=Allotment(cpu_weight=300, cpu_cap_pct=50)
    )
    after = VM.fold([allotted], STOPPED)
    assert isinstance(after, Stopped)
    assert after.definition.priority is Priority.CRITICAL and after.definition.allotment == allotted.allotment
    assert VM.decide(SetAllotment(vm="a", cpu_cap_pct=50), after) == ()
    (cleared,) = VM.decide(SetAllotment(vm="a", cpu_weight=0, cpu_cap_pct=0), after)
    assert isinstance(cleared, VmAllotted) and cleared.allotment == Allotment()


def test_only_a_vm_that_exists_can_be_allotted() -> None:
    with pytest.raises(Refused) as refused:
        VM.decide(SetAllotment(vm="a", cpu_weight=1), Absent())
    assert refused.value.reason == Refusal.NOT_DEFINED


@pytest.mark.parametrize(
    "wish, reason, words, remedy",
    [
        (SetAllotment(vm="a", cpu_cap_pct=10, cpu_reserved_pct=20), Refusal.BAD_SHAPE, "cap of 10 %", "at least 20 %"),
        (SetAllotment(vm="a", pins=(0, 9)), Refusal.BAD_SHAPE, "no pCPU 9 for VMs", "pCPUs 0-2"),
        (SetAllotment(vm="a", pins=(3,)), Refusal.BAD_SHAPE, "kept apart by the kernel", "pCPUs 0-2"),
        (
            SetAllotment(vm="a", cpu_reserved_pct=150), Refusal.CPU_SHORT,
            "150 % of a pCPU asked for; its node has 300 %, of which 200 % are reserved by others", "50 % less",
        ),
    ],
)  # fmt: skip
def test_what_its_node_does_not_have_is_refused_while_it_runs(
    wish: SetAllotment, reason: Refusal, words: str, remedy: str
) -> None:
    asked = msgspec.structs.replace(wish, cpus=CPUS, others_reserved_pct=200)
    with pytest.raises(Refused) as refused:
        VM.decide(asked, running(cpu_reserved_pct=10))
    assert refused.value.reason == reason
    assert words in refused.value.sentence and remedy in refused.value.remedy


def test_what_fits_is_taken_while_it_runs_and_a_smaller_reservation_always_is() -> None:
    asked = SetAllotment(vm="a", cpu_reserved_pct=100, pins=(0, 2), cpus=CPUS, others_reserved_pct=200)
    assert len(VM.decide(asked, running())) == 1
    less = SetAllotment(vm="a", cpu_reserved_pct=50, cpus=CPUS, others_reserved_pct=900)
    assert len(VM.decide(less, running(cpu_reserved_pct=100))) == 1


# --- what a running VM's node has to promise for it ----------------------------------------------------------------------


def answer(granted: bool, generation: int = 1) -> NoteAllotment:
    return NoteAllotment(vm="a", node=NodeId("n1"), generation=generation, granted=granted, sentence="n1 does not hold it")


@pytest.mark.parametrize(
    "command", [SetAllotment(vm="a", priority=Priority.CRITICAL), SetAllotment(vm="a", memory_reserved_mib=400)]
)
def test_a_running_vm_is_worth_more_once_its_ledger_agrees(command: SetAllotment) -> None:
    before = running()
    (asked,) = VM.decide(command, before)
    assert isinstance(asked, VmAllotmentRequested) and (asked.node, asked.generation, asked.memory_mib) == ("n1", 1, 512)
    waiting = VM.fold([asked], before)
    assert isinstance(waiting, Running) and waiting.definition == before.definition, "asked is not had"
    assert VM.decide(command, waiting) == (), "said twice is asked once"
    (allotted,) = VM.decide(answer(True), waiting)
    assert allotted == VmAllotted(vm=asked.vm, priority=asked.priority, allotment=asked.allotment)
    after = VM.fold([allotted], waiting)
    assert isinstance(after, Running) and after.wish is None
    assert (after.definition.priority, after.definition.allotment) == (asked.priority, asked.allotment)


def test_what_the_ledger_denies_leaves_nothing_half_said() -> None:
    before = running()
    waiting = VM.fold(VM.decide(SetAllotment(vm="a", priority=Priority.CRITICAL), before), before)
    (denied,) = VM.decide(answer(False), waiting)
    assert isinstance(denied, VmAllotmentDenied) and denied.sentence == "n1 does not hold it"
    after = VM.fold([denied], waiting)
    assert isinstance(after, Running) and after.definition == before.definition and after.wish is None
    assert VM.decide(answer(True), after) == (), "an answer to nothing changes nothing"


def test_while_the_ledger_is_asked_nothing_else_is_decided_about_it() -> None:
    waiting = VM.fold(VM.decide(SetAllotment(vm="a", priority=Priority.CRITICAL), running()), running())
    assert VM.decide(answer(True, generation=2), waiting) == ()
    for command in (SetAllotment(vm="a", cpu_weight=5), MigrateVm(vm="a")):
        with pytest.raises(Refused) as refused:
            VM.decide(command, waiting)
        assert refused.value.reason == Refusal.BUSY and refused.value.remedy == "try again in a moment"


def test_what_changes_no_promise_asks_no_ledger() -> None:
    (allotted,) = VM.decide(SetAllotment(vm="a", cpu_weight=5, memory_reserved_mib=256), running())
    assert isinstance(allotted, VmAllotted), "half of its memory is what a normal VM has anyway"


def test_a_vm_that_starts_is_promised_what_it_was_defined_with() -> None:
    one = running()
    starting = Launching(definition=one.definition, generation=1, node=one.node, placement=Placement(policy=""), spec=one.spec)
    with pytest.raises(Refused) as refused:
        VM.decide(SetAllotment(vm="a", memory_reserved_mib=500), starting)
    assert refused.value.reason == Refusal.BUSY and "wait until it runs" in refused.value.remedy
