"""When memory or io has answered, tell the VM; while a VM is wanted on a node, order its agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.host.service import Order
from libs.common.messages import Command, NodeId, Recorded
from proto.cluster import BeginIncarnation, IncarnationBegan
from proto.compute import (
    AbandonStart,
    CordonNode,
    GreetNode,
    NodeReported,
    NodeUncordoned,
    NoteAllotment,
    NoteDevices,
    NoteMemory,
    VmAllotted,
    VmFound,
    VmStarted,
    VmStopped,
)
from proto.drain import AdvanceDrain, DrainNode, EndDrain, NodeDrainRequested, NodeMoveWanted
from proto.drills import DrillCleanWanted, DrillWent
from proto.growth import NoteResize, Promised, VmResized
from proto.io import DevicesChanged, DevicesDenied, DevicesGranted, DisksRecovered, RecoveryRequested
from proto.lease import NodePathsNoted
from proto.memory import MemoryDenied, MemoryReserved, Purpose
from proto.migration import MigrateVm, VmMigrated, VmMigrationEnded
from proto.node import OrderGreeting, OrderVm, Want
from proto.nodes import OrderLeave
from proto.plan import MakePlan, ReviewPlan
from proto.vitals import VerdictReached
from services.compute import bare, lost, panics, plan, pressed, recovering
from services.compute.balance import wiring
from services.compute.drain import Draining
from services.compute.nodes import Joined, Member
from services.compute.plan import Plan
from services.compute.states import Arriving, Launching, Migrating, Phase, Running, Stopping

STARTS = frozenset({Purpose.START, Purpose.FAILOVER, Purpose.FOUND, Purpose.MIGRATION})
"""what a VM that is being started, or moved, waits for; other answers of a ledger are of running VMs"""


def react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    more = [*wiring.react(event, recorded, views.balance), *pressed.react(event, views.stilled)]
    more += [*lost.react(event, views), *bare.react(event, views)]
    own = _react(event, recorded, views)
    return [*own, *more] if more else own


def _react(event: Any, recorded: Recorded, views: Any) -> Sequence[Command]:
    match event:
        case MemoryReserved() if event.purpose in STARTS:
            return [NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=True)]
        case MemoryDenied() if event.purpose in STARTS:
            free = max(0, event.capacity_mib - event.reserved_mib)
            plain = f"{event.node} has {free} of {event.capacity_mib} MiB free; {event.memory_mib} MiB needed, QEMU's own included"
            said = event.sentence or plain
            return [NoteMemory(vm=event.vm, node=event.node, generation=event.generation, granted=False, sentence=said)]
        case MemoryReserved(purpose=Purpose.ALLOTMENT, vm=vm, node=node, generation=generation):
            return [NoteAllotment(vm=vm, node=node, generation=generation, granted=True)]
        case MemoryDenied(purpose=Purpose.ALLOTMENT, vm=vm, node=node, generation=generation, sentence=said):
            return [NoteAllotment(vm=vm, node=node, generation=generation, granted=False, sentence=said)]
        case MemoryReserved(purpose=Purpose.HOT_ADD, vm=vm, node=node, generation=generation):
            promised = Promised(
                reserved_mib=event.reserved_mib, charged_mib=event.charged_mib, capacity_mib=event.capacity_mib
            )
            return [NoteResize(vm=vm, node=node, generation=generation, granted=True, promised=promised)]
        case MemoryDenied(purpose=Purpose.HOT_ADD, vm=vm, node=node, generation=generation, sentence=said):
            return [NoteResize(vm=vm, node=node, generation=generation, granted=False, sentence=said)]
        case DevicesGranted(vm=vm, node=node, generation=generation, disks=disks, nics=nics):
            return [NoteDevices(vm=vm, node=node, generation=generation, granted=True, disks=disks, nics=nics)]
        case DevicesChanged(vm=vm, node=node, generation=generation):
            return [
                NoteDevices(
                    vm=vm, node=node, generation=generation, granted=True, disks=event.disks, nics=event.nics,
                    leaving=event.leaving, changed=True, taking=event.taking,
                )
            ]
        case DevicesDenied(vm=vm, node=node, generation=generation, sentence=said):
            return [NoteDevices(vm=vm, node=node, generation=generation, granted=False, sentence=said)]
        case VerdictReached():
            return panics.react(event)
        case RecoveryRequested() | DisksRecovered() | DrillWent() | DrillCleanWanted():
            return recovering.react(event)
        case NodeReported() | VmStarted() | VmFound() | VmStopped():
            return [MakePlan(node=event.node)]
        case NodePathsNoted(move=True, node=node):
            return [DrainNode(node=node, partial=True, reason="; ".join(event.networks))]
        case NodeDrainRequested():
            return [CordonNode(node=event.node, reason=event.reason or "it is drained")]
        case NodeMoveWanted(node=node, vm=vm, to=to):
            return [MigrateVm(vm=vm, node=to, reason=f"{node} is drained", with_group=bool(to))]
        case NodeUncordoned():
            return [EndDrain(node=event.node)]
        case VmMigrationEnded():
            return [MakePlan(node=event.node)]
        case VmMigrated():
            return [MakePlan(node=event.source)]
        case VmAllotted() | VmResized() if event.vm in views.plans.where:
            return [MakePlan(node=views.plans.where[event.vm])]
        case IncarnationBegan():
            greetings = [GreetNode(node=node) for node in sorted(views.nodes)]
            starts = sorted(views.starts.items())
            return [*greetings, *(AbandonStart(vm=vm, generation=start.generation) for vm, start in starts)]
        case _:
            return ()


def ticks(now_us: int, states: Iterator[tuple[str, Any]]) -> Iterable[Command]:
    """Only a node of several cells can be planned better than by its kernel."""
    found: list[Command] = [BeginIncarnation(now_us=now_us)]
    for stream, state in states:
        if isinstance(state, Plan) and len(state.cpus.cells) > 1 and state.vms:
            found.append(ReviewPlan(node=stream.removeprefix("plan-"), now_us=now_us))
        if isinstance(state, Draining):
            found.append(AdvanceDrain(node=stream.removeprefix("drain-"), now_us=now_us))
        found.extend(wiring.ticks(now_us, state))
    return found


def orders(stream: str, state: Any, version: int) -> Order | Sequence[Order] | None:
    match state:
        case Migrating():
            return _migrating(state, version)
        case Joined() | Member() if not state.greeted:
            node = NodeId(stream.removeprefix("node-"))
            return Order(node, OrderGreeting(node=node, version=version))
        case Member(leaving=True):
            node = NodeId(stream.removeprefix("node-"))
            return Order(node, OrderLeave(node=node, version=version))
        case Plan():
            told = plan.order(stream, state)
            return None if told is None else Order(NodeId(told.node), told)
        case Launching():
            message = OrderVm(
                vm=state.id, generation=state.generation, version=version, want=Want.RUNNING, spec=state.spec
            )
        case Running():
            message = OrderVm(
                vm=state.id,
                generation=state.generation,
                version=version,
                want=Want.PAUSED if state.pause_wanted else Want.RUNNING,
                resets=state.resets_wanted,
                spec=state.spec,
            )
        case Arriving():
            message = OrderVm(
                vm=state.id,
                generation=state.generation,
                version=version,
                want=Want.PAUSED if state.pause_wanted else Want.RUNNING,
            )
        case Stopping():
            message = OrderVm(
                vm=state.id,
                generation=state.generation,
                version=version,
                want=Want.GONE,
                deadline_s=state.deadline_s,
            )
        case _:
            return None
    return Order(state.node, message)


def _whole(state: Migrating) -> tuple[str, ...]:
    """Disks that stand on an image here, and on none there."""
    there = {disk.name for disk in state.spec.disks if not disk.image}
    return tuple(disk.name for disk in state.running.spec.disks if disk.image and disk.name in there)


def _migrating(state: Migrating, version: int) -> Sequence[Order]:
    """The source and the target at once, each for its own generation."""
    running, out = state.running, []
    if not state.source_gone:
        want = Want.PAUSED if running.pause_wanted else Want.RUNNING
        source = OrderVm(
            vm=state.id,
            generation=state.generation,
            version=version,
            want=want,
            resets=running.resets_wanted,
            spec=running.spec,
        )
        if state.phase is Phase.SENDING:
            source = replace(
                source,
                want=Want.MIGRATING,
                address=state.address,
                incoming=state.incoming,
                deadline_s=state.deadline_s,
                copied=state.way.copied,
                peer_key=state.way.target_key,
                whole=_whole(state),
            )
        out.append(Order(state.node, source))
    if state.phase is not Phase.RESERVING:
        ending = state.phase is Phase.ENDING or state.target_gone
        target = OrderVm(
            vm=state.id,
            generation=state.incoming,
            version=version,
            want=Want.GONE if ending else Want.INCOMING,
            spec=None if ending else state.spec,
            copied={} if ending else state.way.copied,
            peer_key="" if ending else state.way.source_key,
        )
        out.append(Order(state.to, target))
    return out
