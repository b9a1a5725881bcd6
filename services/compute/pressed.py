"""What a node's memory ladder wishes of VMs, done: one moves away, one stands still until there is memory again. Pure.

The ladder lets go only of what it took: a VM that somebody else paused stays paused. One that it stilled goes on also where it came
to another node, or to a class that is never stilled: nobody else would ever let it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Command, Recorded, decode_meta
from proto.compute import PauseVm, ResumeVm, VmAllotted, VmPauseRequested, VmResumeRequested, VmStopped
from proto.ladder import LadderDescended, Rung, VmMoveWanted, VmPauseWanted
from proto.machine import Priority
from proto.migration import MigrateVm, VmMigrationEnded

OURS = "service:compute"
"""the actor of what is decided in reaction to an event"""


@dataclass(slots=True)
class Stilled:
    """VMs that stand still because the ladder wished it. generation: of the pause; another run of the VM is not ours."""

    vms: dict[str, int] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case VmPauseRequested() if decode_meta(recorded.meta).actor == OURS:
                self.vms[event.vm] = event.generation
            case VmResumeRequested() | VmStopped():
                self._over(recorded, event)

    def _over(self, recorded: Recorded, event: VmResumeRequested | VmStopped) -> None:
        self.vms.pop(event.vm, None)

    HEARS: ClassVar[hearing.Heard] = {VmPauseRequested: apply, **dict.fromkeys((VmResumeRequested, VmStopped), _over)}


def react(event: Any, stilled: Stilled) -> Sequence[Command]:
    match event:
        case VmMoveWanted():
            return [MigrateVm(vm=event.vm, reason=event.sentence)]
        case VmPauseWanted():
            return [PauseVm(vm=event.vm, stilled=True)]
        case LadderDescended():
            back = [step.vm for step in event.steps if step.rung is Rung.PAUSE]
            return [ResumeVm(vm=vm) for vm in back if vm in stilled.vms]
        case VmMigrationEnded() if event.vm in stilled.vms:
            return [ResumeVm(vm=event.vm)]
        case VmAllotted() if event.vm in stilled.vms and event.priority is not Priority.BEST_EFFORT:
            return [ResumeVm(vm=event.vm)]
        case _:
            return ()
