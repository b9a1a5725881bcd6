"""What a restored log does before it starts or deletes anything: it hears all nodes, ends starts that were being prepared, and
takes in what runs under generations that it had lost. Pure.

A report counts here only when its agent has met this incarnation of the log (`heard`): an older one may be late, and tell of a
process that has since ended. Two nodes are never both believed: where the log names one, its own word comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from libs.common.messages import VmId, floor_of, incarnation_of
from proto.compute import (
    AbandonStart,
    DeleteVm,
    GoneCause,
    PrepareRecovery,
    Refusal,
    ReportVm,
    RestartVm,
    Seen,
    StartVm,
    VmEvent,
    VmFound,
    VmRestartDenied,
    VmStartFailed,
    VmStrangerGone,
    VmStrangerSeen,
)
from proto.migration import MigrateVm
from services.compute import ending as migration
from services.compute.devices import wishes
from services.compute.states import (
    Absent,
    Arriving,
    Launching,
    Migrating,
    Placed,
    Reserving,
    Running,
    Stopped,
    Stopping,
    Vm,
    stopped,
)

NAMES_MAX = 5
"""nodes named in one sentence"""

ABANDONED = "its start was being prepared when the database was restored; nobody knows how it went on"


def next_generation(vm: Vm, incarnation: int) -> int:
    """Above all that the log knows and all that a lost timeline may have decided."""
    return max(vm.highest, floor_of(incarnation)) + 1


def past(generation: int, incarnation: int) -> bool:
    """Decided before the database was restored."""
    return incarnation_of(generation) < incarnation


def all_heard(command: StartVm | DeleteVm | MigrateVm | RestartVm | PrepareRecovery) -> None:
    """Raises RECONCILING while a node has not told what it runs."""
    if not command.unheard:
        return
    named = ", ".join(command.unheard[:NAMES_MAX])
    more = f" and {len(command.unheard) - NAMES_MAX} more" if len(command.unheard) > NAMES_MAX else ""
    raise Refused(
        Refusal.RECONCILING,
        f"the database was restored, and {named}{more} has not told yet what it runs",
        "wait a moment; bring back nodes that are away, or remove them",
    )


def abandon(command: AbandonStart, vm: Vm) -> Sequence[VmEvent]:
    if not isinstance(vm, Reserving) or vm.generation != command.generation:
        return ()
    return abandoned(vm) if past(vm.generation, command.incarnation) else ()


def abandoned(vm: Reserving) -> Sequence[VmEvent]:
    tried = (*vm.tried, vm.node)
    failed = VmStartFailed(
        vm=vm.id, node=vm.node, generation=vm.generation, sentence=ABANDONED, tried=tried, abandoned=True
    )
    denied = VmRestartDenied(vm=vm.id, attempt=vm.attempt, sentence=ABANDONED)
    return [failed, denied] if vm.attempt else [failed]


def report(fact: ReportVm, vm: Vm) -> Sequence[VmEvent] | None:
    """What a report says that the log itself could not know; None where it is to be read as any other."""
    lost = fact.generation > vm.generation or (
        isinstance(vm, Stopped) and vm.abandoned and fact.generation == vm.generation
    )
    if isinstance(vm, Absent) and vm.stranger and fact.node == vm.stranger:
        return _stranger(fact, vm)
    if not lost or not past(fact.generation, fact.incarnation):
        return None
    runs = fact.seen in (Seen.RUNNING, Seen.PAUSED)
    migrating = isinstance(vm, Migrating) and (fact.node, fact.generation) == (vm.to, vm.incoming)
    if fact.seen is Seen.INCOMING and not migrating:
        # what the lost timeline was about to hand over did not run there, and nobody will send it any more
        raise Refused(
            Refusal.NOT_YOURS, f"generation {fact.generation} of {fact.vm} waits for nobody", f"end its process on {fact.node}"
        )
    if fact.heard < fact.incarnation:
        raise Refused(
            Refusal.RECONCILING,
            f"{fact.node} has not been greeted since the database was restored",
            "say it again then",
        )
    match vm:
        case Absent():
            seen = VmStrangerSeen(vm=VmId(fact.vm), node=fact.node, generation=fact.generation, has_disks=fact.disks)
            return [seen] if runs else ()
        case Stopped():
            return [_found(fact, vm)] if runs else ()
        case Launching() | Running() | Stopping() | Arriving() if fact.node == vm.node:
            ended = stopped(vm, GoneCause.UNKNOWN, fact.sentence)
            return [ended, _found(fact, vm)] if runs else [ended]
        case Migrating() if migrating:
            return None
        case Migrating() if fact.node in (vm.node, vm.to):
            return _past_migration(fact, vm, runs)
        case _ if runs:
            raise Refused(
                Refusal.RECONCILING,
                f"the log names {vm.node} for {fact.vm}, which is to be heard first",
                "say it again",
            )
        case _:
            return ()


def _past_migration(fact: ReportVm, vm: Migrating, runs: bool) -> Sequence[VmEvent]:
    """The node has gone on to a later generation: the process that the migration waits for is not there any more."""
    said = f"{fact.node} has gone on to generation {fact.generation}, which the restored log does not know"
    if fact.node == vm.node:
        ended = migration.without_source(vm, said)
        return [*ended, _found(fact, vm)] if runs else ended
    if not runs:
        return migration.without_target(vm, said)
    if vm.source_gone:
        return [*migration.without_target(vm, said), _found(fact, vm)]
    raise Refused(Refusal.RECONCILING, f"the log names {vm.node} for {fact.vm}, which is to be heard first", "say it again")


def _stranger(fact: ReportVm, vm: Absent) -> Sequence[VmEvent]:
    if fact.seen in (Seen.RUNNING, Seen.PAUSED) or fact.generation < vm.generation:
        return ()
    return [VmStrangerGone(vm=VmId(fact.vm), node=fact.node, generation=fact.generation)]


def _found(fact: ReportVm, vm: Stopped | Placed) -> VmFound:
    wanted = vm.definition
    disks, nics = wishes(fact.disks, fact.nics) if fact.disks or fact.nics else (wanted.disks, wanted.nics)
    return VmFound(
        vm=vm.id,
        node=fact.node,
        generation=fact.generation,
        memory_mib=wanted.shape.memory_mib,
        vcpus=wanted.shape.vcpus,
        priority=wanted.priority,
        disks=disks,
        nics=nics,
        has_disks=fact.disks,
        has_nics=fact.nics,
        resets=fact.resets,
        boot_id=fact.boot_id,
        pcpus=fact.pcpus,
        allotment=wanted.allotment,
    )
