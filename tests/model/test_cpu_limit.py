"""The limit of over-allocation where a class changes while its VM runs, and where VMs were found that exceed it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import VmId, encode
from proto.cluster import PlacementSet
from proto.compute import Refusal, VmFound
from proto.machine import Allotment, Priority
from proto.placement import AskCpuLimit, ClassRules, CpuLimit, Filter, PlacementRules
from proto.plan import SetAllotment, VmAllotmentRequested, VmAllotted
from services.compute.enriching import enrich
from services.compute.model import VM
from services.compute.queries import query
from services.compute.states import Migrating
from services.compute.views import Views
from tests.model.compute_story import N1, RUNNING, A, choice, requested
from tests.model.migration_story import ASKED, GRANTED, NOTED
from tests.model.test_allotment import running
from tests.model.test_policy import NOW_US, chosen, seen

STRICT = PlacementSet(rules=PlacementRules(classes={Priority.CRITICAL: ClassRules(vcpus_per_pcpu=1.0)}))


def on_n1(name: str, vcpus: int, priority: Priority = Priority.NORMAL) -> list[Any]:
    """A VM that runs there, on two pCPUs."""
    start = replace(requested(N1, 1, choice(N1)), vm=VmId(name), vcpus=vcpus, priority=priority)
    return [start, found(name, vcpus, priority)]


def found(name: str, vcpus: int, priority: Priority = Priority.NORMAL) -> VmFound:
    return VmFound(vm=VmId(name), node=N1, generation=1, memory_mib=512, vcpus=vcpus, priority=priority)


def asked(views: Views, priority: Priority | None = Priority.CRITICAL) -> SetAllotment:
    made = enrich(SetAllotment(vm="a", priority=priority), views, NOW_US)
    assert isinstance(made, SetAllotment)
    return made


def test_a_class_that_would_break_the_limit_of_its_node_is_refused_with_the_numbers() -> None:
    command = asked(seen(STRICT, *on_n1("a", 1), *on_n1("b", 3)))
    with pytest.raises(Refused) as refused:
        VM.decide(command, running())
    assert refused.value.reason == Refusal.CPU_SHORT
    assert "2 vCPUs would be allowed on the 2 pCPUs of n1 (1 per pCPU), and 4 are promised" in refused.value.sentence
    assert "VMs of 2 vCPUs" in refused.value.remedy and "vcpus-per-pcpu.critical" in refused.value.remedy


def test_one_that_keeps_it_goes_to_the_ledger() -> None:
    (event,) = VM.decide(asked(seen(STRICT, *on_n1("a", 1), *on_n1("b", 1))), running())
    assert isinstance(event, VmAllotmentRequested)
    (event,) = VM.decide(asked(seen(*on_n1("a", 1), *on_n1("b", 3))), running())
    assert isinstance(event, VmAllotmentRequested), "no class has a limit of its own"


def test_what_was_broken_before_is_not_refused_for_it() -> None:
    views = seen(STRICT, *on_n1("a", 1), *on_n1("b", 3, Priority.CRITICAL))
    assert asked(views).limit is not None
    (event,) = VM.decide(asked(views), running())
    assert isinstance(event, VmAllotmentRequested), "the other critical VM has the node at that limit already"


def test_who_asks_cannot_say_what_the_limit_is() -> None:
    lie = CpuLimit(node="n1", pcpus=1, vcpus=9, vcpus_max=1, ratio=1)
    wish = SetAllotment(vm="a", cpu_weight=5, limit=lie, limit_before=99)
    made = enrich(wish, seen(STRICT, *on_n1("a", 1)), NOW_US)
    assert (made.limit, made.limit_before) == (None, 0)
    assert asked(seen(STRICT, *on_n1("a", 1)), Priority.NORMAL).limit is None, "the class that it has"


def limit(views: Views, node: str = "n1") -> CpuLimit:
    answer = query("cpu-limit", encode(AskCpuLimit(node=node)), {}, views)
    assert isinstance(answer, CpuLimit)
    return answer


def test_vms_that_were_found_count_and_it_is_said_that_they_are_too_many() -> None:
    views = seen(STRICT, found("x", 1, Priority.CRITICAL), found("y", 4))
    now = limit(views)
    assert (now.vcpus, now.vcpus_max, now.strictest) == (5, 2, "critical")
    assert now.sentence == (
        "n1 has 5 vCPUs on 2 pCPUs, and 2 would be allowed (1 per pCPU where a critical VM runs): what runs there goes on, and"
        " nothing more comes there"
    )
    assert {r.node: r.filter for r in chosen(views).rejected}[N1] is Filter.CPU_LIMIT
    plain = limit(seen(found("x", 17)))
    assert "17 vCPUs on 2 pCPUs, and 16 would be allowed (8 per pCPU)" in plain.sentence


def test_a_limit_that_holds_has_no_sentence() -> None:
    assert limit(seen(found("x", 16))).sentence == "" and limit(seen()).vcpus == 0
    with pytest.raises(LookupError):
        limit(seen(), "n9")


# --- what a VM became while it ran goes with it --------------------------------------------------------------------------


def test_a_vm_whose_class_was_changed_is_born_in_it_where_it_is_migrated_to() -> None:
    worth = VmAllotted(vm=A, priority=Priority.CRITICAL, allotment=Allotment(cpu_cap_pct=50))
    moving = VM.fold([*RUNNING, worth, replace(ASKED, priority=Priority.CRITICAL), NOTED, GRANTED])
    assert isinstance(moving, Migrating)
    assert (moving.spec.priority, moving.spec.allotment) == (Priority.CRITICAL, worth.allotment)
