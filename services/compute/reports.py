"""What agents say of a VM: a word of the node and generation that the log names is a fact, another changes nothing. Pure; a part of
model.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from libs.common.decider import Refused
from proto.compute import (
    GoneCause,
    Refusal,
    ReportVm,
    Seen,
    VmEvent,
    VmPaused,
    VmReset,
    VmResumed,
    VmStarted,
    VmStopped,
)
from services.compute import drifting, growth, losing, migration, panics, restored, space
from services.compute.starting import fail
from services.compute.states import (
    Absent,
    Arriving,
    Launching,
    Migrating,
    Reserving,
    Running,
    Stopped,
    Stopping,
    Vm,
    stopped,
)


def report(fact: ReportVm, vm: Vm) -> Sequence[VmEvent]:
    told = restored.report(fact, vm)
    if told is not None:
        return told
    if isinstance(vm, Migrating) and migration.is_target(fact, vm):
        return migration.report_target(fact, vm)
    alive = fact.seen not in (Seen.GONE, Seen.FAILED)
    past = fact.generation < vm.generation or vm.generation < fact.generation <= vm.given
    if past or isinstance(vm, Absent):
        return _ended(fact) if alive and fact.generation <= vm.highest else ()
    if fact.generation > vm.generation or fact.node != vm.node:
        raise Refused(
            Refusal.NOT_PERMITTED,
            f"{fact.node} reports generation {fact.generation} of {fact.vm}; "
            f"the log names generation {vm.generation} on {vm.node or 'no node'}",
            "report only what was ordered of this node",
        )
    match vm:
        case Stopped():
            return _ended(fact) if alive else ()
        case Reserving():
            return ()
        case Launching():
            return _report_launching(fact, vm)
        case Running():
            return _report_running(fact, vm)
        case Stopping():
            return () if alive else [_stopped(fact, vm)]
        case Migrating():
            resets = _resets(fact, vm.running) if alive else ()
            return [*resets, *migration.report_source(fact, vm)]
        case Arriving():
            return migration.report_arriving(fact, vm)
        case _:
            assert_never(vm)


def _ended(fact: ReportVm) -> Sequence[VmEvent]:
    """A generation beyond the log's is never answered so: after a restore the log may be the older of the two."""
    raise Refused(
        Refusal.NOT_YOURS, f"generation {fact.generation} of {fact.vm} has ended", f"end its process on {fact.node}"
    )


def _report_launching(fact: ReportVm, vm: Launching) -> Sequence[VmEvent]:
    started = VmStarted(
        vm=vm.id, node=vm.node, generation=vm.generation, boot_id=fact.boot_id, pcpus=fact.pcpus, epoch=fact.epoch
    )  # fmt: skip
    match fact.seen:
        case Seen.RUNNING | Seen.PAUSED:
            return [started]
        case Seen.INCOMING:
            return ()
        case Seen.GONE if fact.cause is GoneCause.GUEST:
            return [started, _stopped(fact, vm)]  # it ran so briefly that its end was the first thing heard
        case Seen.GONE | Seen.FAILED:
            said = fact.sentence or f"no process came up on {vm.node} ({fact.cause})"
            return fail(vm, said, fact.incarnation)


def _report_running(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    if fact.seen in (Seen.GONE, Seen.FAILED):
        return [_stopped(fact, vm)]
    events = [*_resets(fact, vm)]
    resumed = False
    if fact.order_version >= vm.asked_version:
        if vm.pause_wanted and not vm.paused and fact.seen is Seen.PAUSED:
            events.append(VmPaused(vm=vm.id, generation=vm.generation))
        resumed = vm.paused and not vm.pause_wanted and (fact.seen is Seen.RUNNING or bool(fact.full))
        if resumed:
            events.append(VmResumed(vm=vm.id, generation=vm.generation))
    events += [*space.report(fact, vm, resumed=resumed), *panics.report(fact, vm)]
    return [*events, *growth.report(fact, vm), *drifting.report(fact, vm), *losing.guarded(fact, vm)]


def _resets(fact: ReportVm, vm: Running) -> Sequence[VmEvent]:
    lost = restored.past(vm.generation, fact.incarnation)  # resets that a restored log does not know of
    resets = fact.resets if lost else min(fact.resets, vm.resets_wanted)
    return [VmReset(vm=vm.id, generation=vm.generation, resets=resets)] if resets > vm.resets else ()


def _stopped(fact: ReportVm, vm: Launching | Running | Stopping) -> VmStopped:
    upon_verdict = isinstance(vm, Stopping) and vm.cause in panics.VERDICTS and fact.cause is GoneCause.ORDERED
    return stopped(vm, vm.cause if isinstance(vm, Stopping) and upon_verdict else fact.cause, fact.sentence)
