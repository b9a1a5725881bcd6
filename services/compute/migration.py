"""Moving a running VM to another node. Pure. docs/decisions/0008-migration.md tells why it is so.

    Running ─migrate─▶ reserving ─granted─▶ preparing ─target waits─▶ sending ─source's process gone─▶ Arriving ─▶ Running (there)
       ▲                  │ denied              │ target failed          │ failed, cancelled, target gone
       │                  │                     │                        ▼
       │                  │                     │                    recalling: the source's word decides
       │                  ▼                     ▼                        ▼         └─ it had left already ─▶ Arriving
       └── target's process seen gone ◀───── ending ◀────────────────────┘

Two nodes have a process of the VM only while one of them runs nothing: the target is ordered to go on after VmMigrated alone, and
that takes the source's own word that the guest left for this very generation (moved_to) and that its process is gone. A source
that ended in any other way did not hand the guest over, whatever the target may hold. While the source may still be sending, a
failure on the other side only recalls it: it says whether the guest is still there.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.compute import (
    GoneCause,
    NoteDevices,
    NoteMemory,
    Refusal,
    ReportVm,
    Seen,
    StopVm,
    VmEvent,
    VmMemoryNoted,
    VmStopRequested,
)
from proto.migration import (
    CancelMigration,
    MigrateVm,
    VmIncomingRequested,
    VmMigrated,
    VmMigrationEnded,
    VmMigrationRefused,
    VmMigrationRequested,
    VmSendRequested,
    Way,
)
from services.compute import devices, restored, space, starting
from services.compute.allot import wishing
from services.compute.ending import failed, recall, without_target
from services.compute.reasons import chosen
from services.compute.states import Absent, Arriving, Devices, Migrating, Phase, Running, Vm, stopped

ENDED = (Seen.GONE, Seen.FAILED)
CANCELLED = "it was cancelled"
COPIED_MIB_PER_S = 20
"""A move with disks gets a second more for each so many MiB: a slow disk or network manages that much."""


def migrate(command: MigrateVm, vm: Vm) -> Sequence[VmEvent]:
    """Raises Refused, but for a move that was planned: whoever planned it hears of it from the log."""
    if not command.planned or isinstance(vm, Absent):
        return _migrate(command, vm)
    try:
        begun = _migrate(command, vm)
    except Refused as no:
        return [VmMigrationRefused(vm=vm.id, to=command.node, refusal=no.reason, sentence=no.sentence, remedy=no.remedy)]
    if not begun and isinstance(vm, Running):
        said = f"{vm.id} is on {vm.node} already"
        return [VmMigrationRefused(vm=vm.id, to=command.node, refusal=Refusal.BUSY, sentence=said)]
    return begun


def _migrate(command: MigrateVm, vm: Vm) -> Sequence[VmEvent]:
    match vm:
        case Running():
            return _begin(command, vm)
        case Migrating() if vm.phase is not Phase.ENDING and command.node in ("", vm.to):
            return ()
        case Arriving() if command.node in ("", vm.node):
            return ()
        case Migrating() | Arriving():
            raise busy(vm)
        case _:
            raise Refused(Refusal.NOT_RUNNING, f"{command.vm} is {vm.word}", "only a running VM can be migrated")


def busy(vm: Migrating | Arriving) -> Refused:
    if isinstance(vm, Arriving):
        return Refused(Refusal.BUSY, f"{vm.id} is arriving on {vm.node}", "wait until it runs there")
    remedy = "wait until it is over, or cancel it"
    if vm.phase is Phase.ENDING:
        remedy = f"wait until {vm.to} has ended its part" + ("" if vm.source_gone else f"; the VM runs on {vm.node}")
    return Refused(Refusal.BUSY, f"{vm.id} is being migrated from {vm.node} to {vm.to} ({vm.phase})", remedy)


def _begin(command: MigrateVm, vm: Running) -> Sequence[VmEvent]:
    if command.node == vm.node:
        return ()
    if vm.wish is not None:
        raise wishing(vm)
    space.check(vm)
    restored.all_heard(command)
    unsettled = vm.pause_wanted != vm.paused or vm.resets_wanted > vm.resets or vm.growth is not None
    if unsettled or len(vm.spec.disks) != len(vm.definition.disks):
        raise Refused(Refusal.BUSY, f"{vm.id} is being paused, resumed, reset, resized or taken in", "wait until that is done")
    if said := devices.unsettled(vm):
        raise Refused(Refusal.BUSY, said, "wait until that is done")
    if said := devices.rooted(vm.spec.disks):
        raise Refused(Refusal.NOT_STOPPED, f"{vm.id} cannot move while it runs: {said}", devices.MOVE_AT_REST)
    choice = chosen(command.choice, command.node, f"placement has not heard of {vm.id} yet")
    wanted = vm.definition
    way = next((way for way in command.ways if way.node == choice.candidates[0].node), Way())
    if tied := [disk.name for disk in vm.spec.disks if disk.layers and disk.pool in way.copied]:
        said = f"{', '.join(tied)} of {vm.id} would be copied to {way.node}, and snapshots do not go along"
        remedy = f"delete them first (asvctl snapshot ls {vm.id}), or name a node of the same pool"
        raise Refused(Refusal.HAS_SNAPSHOTS, said, remedy)
    return [
        VmMigrationRequested(
            vm=vm.id,
            node=vm.node,
            generation=vm.generation,
            to=choice.candidates[0].node,
            incoming=restored.next_generation(vm, command.incarnation),
            memory_mib=wanted.shape.memory_mib,
            vcpus=wanted.shape.vcpus,
            priority=wanted.priority,
            placement=choice,
            deadline_s=command.deadline_s + way.copy_mib // COPIED_MIB_PER_S,
            way=way,
            reason=command.reason,
            disks=wanted.disks,
            nics=wanted.nics,
            allotment=wanted.allotment,
        )
    ]


def cancel(command: CancelMigration, vm: Vm) -> Sequence[VmEvent]:
    """The source's word decides whether it came in time."""
    match vm:
        case Migrating(phase=Phase.RESERVING | Phase.PREPARING):
            return failed(vm, CANCELLED)
        case Migrating(phase=Phase.SENDING):
            return [recall(vm, CANCELLED)]
        case Migrating():
            return ()
        case Arriving():
            raise Refused(Refusal.BUSY, f"{vm.id} has left already and goes on on {vm.node}", "migrate it back")
        case _:
            raise Refused(Refusal.NOT_MIGRATING, f"{command.vm} is {vm.word}", "there is nothing to cancel")


def stop(command: StopVm, vm: Migrating | Arriving) -> Sequence[VmEvent]:
    """While two processes have to do with it nothing else begins. One that has left is the target's alone and can be stopped
    there."""
    if isinstance(vm, Migrating):
        raise busy(vm)
    return [VmStopRequested(vm=vm.id, node=vm.node, generation=vm.generation, deadline_s=command.deadline_s)]


# --- memory and devices ----------------------------------------------------------------------------------------------


def note(command: NoteMemory | NoteDevices, vm: Migrating) -> Sequence[VmEvent]:
    if (command.generation, command.node, vm.phase) != (vm.incoming, vm.to, Phase.RESERVING):
        return ()
    if restored.past(vm.incoming, command.incarnation):
        return failed(vm, "it was decided before the database was restored")
    if not command.granted:
        return failed(vm, command.sentence)
    match command:
        case NoteMemory():
            known, other = vm.memory_noted, vm.devices is not None
            noted: VmEvent = VmMemoryNoted(vm=vm.id, generation=vm.incoming)
        case NoteDevices():
            known, other = vm.devices is not None, vm.memory_noted
            noted = starting.devices_noted(vm, vm.incoming, command)
            vm = replace(vm, devices=Devices(disks=command.disks, nics=command.nics, protected=command.protected))
    if known:
        return ()
    return [noted, VmIncomingRequested(vm=vm.id, to=vm.to, spec=vm.spec)] if other else [noted]


# --- what the target says --------------------------------------------------------------------------------------------


def is_target(fact: ReportVm, vm: Vm) -> bool:
    return isinstance(vm, Migrating) and (fact.node, fact.generation) == (vm.to, vm.incoming)


def report_target(fact: ReportVm, vm: Migrating) -> Sequence[VmEvent]:
    ended = fact.seen in ENDED
    if not ended and fact.seen is not Seen.INCOMING:
        # only a timeline that a restore has lost can have ordered it to run: the source, which is ordered still, is heard first
        raise Refused(Refusal.RECONCILING, f"the log names {vm.node} for {vm.id}, which is to be heard first", "say it again")
    if ended:
        return without_target(vm, fact.sentence or f"the process that waited on {vm.to} ended ({fact.cause})")
    match vm.phase:
        case Phase.PREPARING if fact.address:
            return [
                VmSendRequested(
                    vm=vm.id,
                    node=vm.node,
                    generation=vm.generation,
                    to=vm.to,
                    incoming=vm.incoming,
                    address=fact.address,
                )
            ]
        case _:
            return ()


# --- what the source says --------------------------------------------------------------------------------------------


def report_source(fact: ReportVm, vm: Migrating) -> Sequence[VmEvent]:
    if fact.seen in ENDED:
        return _source_ended(fact, vm)
    if fact.order_version < vm.asked_version:
        return ()
    match vm.phase:
        case Phase.SENDING if fact.unsent:
            return failed(vm, fact.unsent)
        case Phase.RECALLING if not fact.sending:
            return failed(vm, vm.sentence)
        case _:
            return ()


def _source_ended(fact: ReportVm, vm: Migrating) -> Sequence[VmEvent]:
    left = fact.cause is GoneCause.MIGRATED and fact.moved_to == vm.incoming
    if left and not vm.target_gone and vm.phase is not Phase.ENDING:
        return [
            VmMigrated(
                vm=vm.id,
                node=vm.to,
                generation=vm.incoming,
                source=vm.node,
                source_generation=vm.generation,
                sent_mib=fact.sent_mib,
                total_ms=fact.total_ms,
                paused_us=fact.paused_us,
            )
        ]
    if vm.source_gone:
        return ()
    cause = GoneCause.CRASHED if left else fact.cause
    sentence = f"its memory was lost with the process that waited on {vm.to}" if left else fact.sentence
    return failed(vm, sentence, source_gone=True, cause=cause)


def report_arriving(fact: ReportVm, vm: Arriving) -> Sequence[VmEvent]:
    if fact.seen in ENDED:
        return [stopped(vm, fact.cause, fact.sentence)]
    if not fact.full and fact.seen is not (Seen.PAUSED if vm.pause_wanted else Seen.RUNNING):
        return ()
    known = not vm.pause_wanted and vm.paused_us and fact.resumed_us >= vm.paused_us
    return [
        VmMigrationEnded(
            vm=vm.id,
            node=vm.node,
            generation=vm.generation,
            boot_id=fact.boot_id,
            pcpus=fact.pcpus,
            downtime_ms=-(-(fact.resumed_us - vm.paused_us) // 1000) if known else 0,
            total_ms=vm.total_ms,
            sent_mib=vm.sent_mib,
            epoch=fact.epoch,
        )
    ]
