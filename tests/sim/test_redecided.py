"""What the services decided in a world, facts and ticks included, is decided again to the byte; and a changed policy is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from libs.common.host.service import Service
from libs.past.deciding import Code
from libs.past.memory import MemoryPast
from libs.past.redecide import Part
from libs.past.replaying import BadRange, redecide
from libs.past.walking import Break
from proto.compute import VmStartRequested
from proto.upcasts import DOWNCASTS, UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from tests.past_rig import SERVICES, failover
from tests.past_rig import walk as walk_of


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
async def test_every_decision_of_a_failover_is_decided_again(service: Service) -> None:
    found = await redecide(MemoryPast(failover()), Code(service, UPCASTS, DOWNCASTS))
    assert found.difference is None
    assert found.counts.unasked == 0, "each event's command was kept"
    assert (found.counts.late, found.counts.cut) == (0, 0) and found.answers
    assert found.counts.decided >= 10


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.name)
async def test_parts_decide_together_what_one_would(service: Service) -> None:
    past = MemoryPast(failover())
    whole = await redecide(past, Code(service, UPCASTS, DOWNCASTS))
    parts = [await redecide(past, Code(service, UPCASTS, DOWNCASTS), part=Part(n, 3)) for n in range(3)]
    assert all(part.difference is None for part in parts)
    assert sum(part.counts.decided for part in parts) == whole.counts.decided > max(part.counts.decided for part in parts)
    assert sum(part.counts.eventless for part in parts) == whole.counts.eventless
    assert sum(part.counts.folded for part in parts) == whole.counts.folded


async def test_all_services_at_once_decide_what_each_does_alone() -> None:
    past = MemoryPast(failover())
    alone = [(await redecide(past, Code(service, UPCASTS, DOWNCASTS))).counts for service in SERVICES]
    found = await redecide(past, Code(SERVICES, UPCASTS, DOWNCASTS))
    assert found.difference is None and found.counts.unasked == 0
    assert found.counts.decided == sum(one.decided for one in alone)
    assert found.counts.eventless == sum(one.eventless for one in alone)
    assert found.counts.folded == sum(one.folded for one in alone) == len(failover().read_all_now(0, 10**6))


async def test_another_code_is_found_among_all_services() -> None:
    others = tuple(elsewhere() if one.name == "compute" else one for one in SERVICES)
    one = (await redecide(MemoryPast(failover()), Code(elsewhere(), UPCASTS, DOWNCASTS))).difference
    found = (await redecide(MemoryPast(failover()), Code(others, UPCASTS, DOWNCASTS))).difference
    assert found is not None and one is not None and (found.position, found.stream) == (one.position, one.stream)


async def test_the_first_difference_is_the_earliest_of_the_parts() -> None:
    past, code = MemoryPast(failover()), Code(elsewhere(), UPCASTS, DOWNCASTS)
    whole = (await redecide(past, code)).difference
    found = [(await redecide(past, Code(elsewhere(), UPCASTS, DOWNCASTS), part=Part(n, 3))).difference for n in range(3)]
    assert whole is not None
    assert min(one.position for one in found if one is not None) == whole.position


def elsewhere() -> Service:
    """compute, which takes the worst candidate for the best where it has a choice."""
    (vm,) = [decider for decider in COMPUTE.deciders if decider.kind == "vm"]

    def decide(command: Any, state: Any) -> list[Any]:
        return [_last(event) if isinstance(event, VmStartRequested) else event for event in vm.decide(command, state)]

    return replace(COMPUTE, deciders=tuple(replace(d, decide=decide) if d is vm else d for d in COMPUTE.deciders))


def _last(event: VmStartRequested) -> VmStartRequested:
    return msgspec.structs.replace(event, node=event.placement.candidates[-1].node)


async def test_a_changed_policy_is_found_at_its_first_decision() -> None:
    past = MemoryPast(failover())
    found = (await redecide(past, Code(elsewhere(), UPCASTS, DOWNCASTS))).difference
    assert found is not None
    events = failover().read_all_now(0, 10**6)
    first = next(event for event in events if event.type == "vm_start_requested")
    assert found.position <= first.position and found.stream == first.stream
    assert [field.path for field in found.fields] == ["events[0].node"] and found.command.type == "start_vm"
    later = (await redecide(past, Code(elsewhere(), UPCASTS, DOWNCASTS), first=found.position + 1)).difference
    assert later is not None and later.position > found.position
    assert (await redecide(past, Code(elsewhere(), UPCASTS, DOWNCASTS), last=found.position - 1)).difference is None


@pytest.mark.parametrize(("first", "last", "said"), [(0, 10**6, "beyond the log"), (9, 3, "is nothing"), (-1, 0, "from 1 on")])
async def test_positions_that_are_not_there(first: int, last: int, said: str) -> None:
    with pytest.raises(BadRange, match=said):
        await redecide(MemoryPast(failover()), Code(HA, UPCASTS, DOWNCASTS), first, last)


async def test_a_failover_is_walked_from_its_proof_to_the_restart() -> None:
    walk = await walk_of()
    walk.breaks.append(Break("type node_lost"))
    assert walk.run() is not None
    lost = walk.step.recorded.position
    seen = {step.recorded.type for step in walk.effects()}
    assert "vm_stopped" in seen, "compute takes its VMs for ended because of it"
    assert all(walk.steps.again(step) is None for step in walk.steps.all)
    walk.breaks[:] = [Break("type vm_started")]
    assert walk.run() is not None and walk.step.recorded.position > lost
    roots = set()
    while walk.step.recorded.position not in roots:
        roots.add(walk.step.recorded.position)
        walk.cause()
    assert walk.step.cause == 0
