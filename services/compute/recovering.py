"""A VM is to be there and stopped, so that its disks can be put on a backup. Pure; a part of model.py; why so:
docs/decisions/0046-recovery.md.

    Absent ──▶ VmDefined, as the backup says ──▶ VmRecoveryPrepared ──▶ (io: DisksRecovered) ──▶ StartVm, as any start
    Stopped, and named as what is lost ────────▶
    else ──▶ VmRecoveryRefused

A start that is refused is said in the log, too (VmRecoveryWaits). That of a drill is started by RestartVm, which says in the log
where no node takes it; and removed at its word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import Command, VmId
from proto.compute import (
    DeleteVm,
    PrepareRecovery,
    RestartVm,
    StartVm,
    StopVm,
    VmDefined,
    VmEvent,
    VmRecoveryPrepared,
    VmRecoveryRefused,
    VmRecoveryWaits,
)
from proto.drills import DrillCleanWanted, DrillWent, Step, Went
from proto.io import DisksRecovered, RecoveryRequested
from services.compute import restored
from services.compute.shape import uuid_of
from services.compute.states import Absent, Stopped, Vm


def react(event: Any) -> Sequence[Command]:
    match event:
        case RecoveryRequested(vm=source, target=target, recovery=recovery, definition=definition, lose=lose):
            return [PrepareRecovery(vm=target, source=source, recovery=recovery, definition=definition, lose=lose)]
        case DisksRecovered(start=True, vm=vm, node=node):
            return [StartVm(vm=vm, node=node, source=event.source, recovery=event.recovery)]
        case DrillWent(went=Went.DISKS, target=target):
            return [RestartVm(vm=target, attempt=0, drill=True)]
        case DrillCleanWanted(target=target, step=Step.STOP):
            return [StopVm(vm=target, deadline_s=0)]
        case DrillCleanWanted(target=target):
            return [DeleteVm(vm=target)]
        case _:
            return ()


def prepare(command: PrepareRecovery, vm: Vm) -> Sequence[VmEvent]:
    """Never refused: who asked is a reaction, and learns of it from the log."""
    id, source = VmId(command.vm), VmId(command.source)
    if isinstance(vm, Stopped) and vm.prepared == _key(source, command.recovery):
        return ()
    if said := _why_not(command, vm):
        return [VmRecoveryRefused(vm=id, source=source, recovery=command.recovery, sentence=said)]
    prepared = VmRecoveryPrepared(vm=id, source=source, recovery=command.recovery)
    return [_defined(command, vm), prepared] if isinstance(vm, Absent) else [prepared]


def _why_not(command: PrepareRecovery, vm: Vm) -> str:
    """Names race: io has looked, and what it saw may be so no more."""
    id = command.vm
    if isinstance(vm, Absent):
        lost = f"a VM named {id} runs on {vm.stranger}, though its definition was lost when the database was restored"
        return lost if vm.stranger else ""
    if id != command.source:
        return f"there is a VM named {id} by now"
    if not isinstance(vm, Stopped):
        return f"{id} is {vm.word}: its disks cannot be put on a backup beneath it"
    if command.lose != id:
        return f"{id} is there, and what is on its disks would be thrown away: name it, --lose {id}"
    try:
        restored.all_heard(command)
    except Refused as refused:
        return refused.sentence
    return ""


def waits(command: StartVm, no: Refused) -> VmRecoveryWaits:
    """Nobody hears a refusal of what a reaction asks for."""
    return VmRecoveryWaits(
        vm=VmId(command.vm), source=VmId(command.source), recovery=command.recovery, sentence=no.sentence, remedy=no.remedy
    )  # fmt: skip


def _defined(command: PrepareRecovery, vm: Absent) -> VmDefined:
    """What it was when it was backed up; under another name it is another machine."""
    was = command.definition
    own = was.shape if command.vm == command.source else replace(was.shape, uuid=uuid_of(command.vm, vm.generation))
    return VmDefined(
        vm=VmId(command.vm), shape=own, disks=was.disks, nics=was.nics, priority=was.priority, boot=was.boot,
        boot_image=was.boot_image, allotment=was.allotment,
    )  # fmt: skip


def evolve(vm: Stopped, event: VmRecoveryPrepared) -> Stopped:
    return replace(vm, prepared=_key(event.source, event.recovery))


def _key(source: str, recovery: str) -> str:
    return f"{source}/{recovery}"
