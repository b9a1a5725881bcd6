"""How a migration that comes to nothing ends. Pure; a part of migration.py.

The guest runs on where it was. Where a process was ordered to wait for it, its end is seen before what it held is given back.
"""

from __future__ import annotations

from collections.abc import Sequence

from proto.compute import GoneCause, VmEvent
from proto.migration import VmIncomingGone, VmMigrationFailed, VmRecallRequested
from services.compute.states import Migrating, Phase, stopped


def recall(vm: Migrating, sentence: str, target_gone: bool = False) -> VmRecallRequested:
    return VmRecallRequested(
        vm=vm.id,
        node=vm.node,
        generation=vm.generation,
        incoming=vm.incoming,
        sentence=sentence,
        target_gone=target_gone,
    )


def failed(
    vm: Migrating, sentence: str, *, target_gone: bool = False, source_gone: bool = False, cause: str = ""
) -> Sequence[VmEvent]:
    """The guest did not leave. Where a process was ordered to wait for it, its end is waited for."""
    event = VmMigrationFailed(
        vm=vm.id,
        node=vm.node,
        generation=vm.generation,
        to=vm.to,
        incoming=vm.incoming,
        sentence=sentence,
        source_gone=source_gone,
        cause=cause,
    )
    if vm.phase is Phase.RESERVING or vm.target_gone or target_gone:
        return [event, *over(vm, source_gone, cause, sentence)]
    return [event]


def over(vm: Migrating, source_gone: bool = False, cause: str = "", sentence: str = "") -> Sequence[VmEvent]:
    gone = VmIncomingGone(
        vm=vm.id, node=vm.to, generation=vm.incoming, source=vm.node, source_generation=vm.generation
    )
    if not (source_gone or vm.source_gone):
        return [gone]
    return [gone, stopped(vm, GoneCause(cause or vm.cause), sentence or vm.sentence)]


def without_target(vm: Migrating, sentence: str) -> Sequence[VmEvent]:
    """No process waits on the target (any more), and none will."""
    match vm.phase:
        case Phase.PREPARING:
            return failed(vm, sentence, target_gone=True)
        case Phase.SENDING | Phase.RECALLING if not vm.target_gone:
            return [recall(vm, sentence, target_gone=True)]
        case Phase.ENDING:
            return over(vm)
        case _:
            return ()


def without_source(vm: Migrating, sentence: str) -> Sequence[VmEvent]:
    """After a restore: the source's process is gone, nobody knows how, and the target is not waited for: it may run what the log
    has lost, and is then found."""
    return failed(vm, sentence, target_gone=True, source_gone=True, cause=GoneCause.UNKNOWN)
