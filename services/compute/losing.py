"""What becomes of a VM whose node is lost, and the start that its guard asks for. Pure; a part of model.py.

Nothing is taken to have ended that the proof does not cover: `everything` (power off, somebody's word), or what ran under the lease
that was waited out (`protected`). What is not covered stays as the log has it, on the lost node, until that is back and says. A
start of which no agent was told yet needs no proof: the next candidate is asked. While two processes have to do with a migration,
each end is proven by itself: VmStopped comes after both.

A proof is of the past: what was first seen running under a later lease is not covered by it, though compute hears of it late.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from proto.compute import (
    GoneCause,
    LoseVm,
    ProtectVm,
    ReportVm,
    RestartVm,
    VmEvent,
    VmGuarded,
    VmGuardRequested,
    VmRestartDenied,
)
from services.compute import ending, restored, starting
from services.compute.reasons import explain
from services.compute.states import (
    Absent,
    Arriving,
    Launching,
    Migrating,
    Phase,
    Reserving,
    Running,
    Stopped,
    Stopping,
    Vm,
    stopped,
)


def decide(command: LoseVm | ProtectVm | RestartVm, vm: Vm) -> Sequence[VmEvent]:
    match command:
        case LoseVm():
            return lose(command, vm)
        case ProtectVm():
            return protect(command, vm)
        case RestartVm():
            return restart(command, vm)


def lose(command: LoseVm, vm: Vm) -> Sequence[VmEvent]:
    match vm:
        case Migrating():
            return _lose_move(command, vm)
        case Reserving() if vm.node == command.node:
            return starting.fail(vm, command.sentence, command.incarnation, command.choice)
        case Running() if vm.node == command.node and vm.epoch <= command.epoch and _covers(command, vm.covered):
            return [stopped(vm, GoneCause.NODE_LOST, command.sentence)]
        case Launching() | Arriving() if vm.node == command.node and _covers(command, vm.spec.protected):
            return [stopped(vm, GoneCause.NODE_LOST, command.sentence)]
        case Stopping() if vm.node == command.node and _covers(command, vm.protected):
            return [stopped(vm, GoneCause.NODE_LOST, command.sentence)]
        case _:
            return ()


def protect(command: ProtectVm, vm: Vm) -> Sequence[VmEvent]:
    """Of one that runs and is not being moved: in two steps, for until its watchdog guards it nothing ends it with the lease."""
    if not isinstance(vm, Running) or vm.node != command.node or vm.spec.protected or command.shared is None:
        return ()
    if any(not d.pool_id or command.shared.get(d.pool) != d.pool_id for d in vm.spec.disks if not d.bus.is_cd):
        return ()
    return [VmGuardRequested(vm=vm.id, node=vm.node, generation=vm.generation)]


def guarded(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    """What its agent says of that. One on an older order may be from before a disk ended its guard."""
    if not vm.guarding or not fact.guarded or not fact.epoch or fact.order_version < vm.guard_version:
        return ()
    return [VmGuarded(vm=vm.id, node=vm.node, generation=vm.generation, epoch=fact.epoch)]


def _covers(command: LoseVm, protected: bool) -> bool:
    return command.everything or (command.guarded and protected)


def _lose_move(command: LoseVm, vm: Migrating) -> Sequence[VmEvent]:
    """The end that was there."""
    if vm.to == command.node:
        if vm.phase is Phase.RESERVING:
            return ending.failed(vm, command.sentence)
        return ending.without_target(vm, command.sentence) if _covers(command, vm.protected) else ()
    running = vm.running
    if vm.node != command.node or vm.source_gone or running.epoch > command.epoch:
        return ()
    if not _covers(command, running.covered):
        return ()
    return ending.failed(vm, command.sentence, source_gone=True, cause=GoneCause.NODE_LOST)


def restart(command: RestartVm, vm: Vm) -> Sequence[VmEvent]:
    """Never refused: its guard hears of it from the log. Of one that is being started already, by hand or at an earlier word of its
    guard, that is said too: if that start comes to nothing, the guard is to ask again."""
    if isinstance(vm, Reserving | Launching) and vm.attempt != command.attempt:
        already = f"it is being started on {vm.node} already, as {vm.generation}"
        return [VmRestartDenied(vm=vm.id, attempt=command.attempt, sentence=already)]
    if isinstance(vm, Absent) or not isinstance(vm, Stopped) or not (vm.unwished or command.drill):
        return ()
    try:
        restored.all_heard(command)
    except Refused as no:
        return [VmRestartDenied(vm=vm.id, attempt=command.attempt, sentence=no.sentence, remedy=no.remedy)]
    choice = command.choice
    if choice is None or not choice.candidates:
        said = explain(choice, command.node) if choice is not None else ("placement has not heard of it", "")
        return [VmRestartDenied(vm=vm.id, attempt=command.attempt, sentence=said[0], remedy=said[1])]
    return [starting.requested(vm, choice, command.incarnation, command.attempt, command.failover)]
