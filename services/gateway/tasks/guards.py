"""A VM that is started again by its guard, as a task: from when it is owed until it runs, or is let go. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import guard as g
from proto.compute import VmLeftStopped

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

KIND = "restart"


def guards(s: _Story) -> bool:
    match s.event:
        case g.GuardSet(vm=vm, guard=guard) if s.meta.actor.startswith("user:"):
            s.at_once("guard", vm, f"the guard of {vm} is {guard.mode}")
        case g.GuardSet():
            pass
        case g.VmOwed(vm=vm, sentence=said):
            s.begin(KIND, vm, f"{vm} is to run again: {said}" if said else f"{vm} is to run again")
        case g.RestartWanted(vm=vm, attempt=attempt):
            s.again(KIND, vm, f"attempt {attempt} to start it")
        case g.VmInHand(vm=vm, node=node):
            s.again(KIND, vm, f"somebody starts it, on {node}")
        case g.VmUnplaced(vm=vm, sentence=said):
            s.again(KIND, vm, f"not possible now, tried again later: {said}")
        case g.VmRecovered(vm=vm, node=node, after_ms=after_ms):
            s.again(KIND, vm, f"{node} runs it")
            s.done(KIND, vm, f"{vm} runs on {node}, {after_ms} ms after its end was known")
        case g.GuardEnded(vm=vm, sentence=said):
            s.failed(KIND, vm, said)
        case VmLeftStopped(vm=vm):
            s.at_once("stop", vm, f"{vm} stays stopped")
        case _:
            return False
    return True
