"""What a VM gets of its node: refused where it contradicts itself or the VM's size, kept as it was said otherwise."""

from __future__ import annotations

import pytest

from libs.common.decider import Refused
from libs.common.messages import VmId
from proto.compute import DefineVm, Refusal, VmDefined
from proto.machine import Allotment
from services.compute.model import VM
from services.compute.states import Absent


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
