"""Signs of life of guests in the world: each node's agent looks at its VMs as production does (services/node/vitals.py), and tells;
ha judges by that. Only in worlds whose story wants it (`vitals`): it costs messages.

    pulse.befall("vm-0", "hang")     what a guest may come to: AILS

In truth a guest is dead when its kernel hangs or panicked, or all its programs stand still. Everything else is life, however little
of it can be seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from libs.common.messages import encode
from proto.vitals import BEAT_S, Kind, Look, Screen, VerdictReached, VitalsBeat
from services.node.drivers import PANICKED
from services.node.drivers.simvm import SimVm
from services.node.vitals import Vitals

if TYPE_CHECKING:
    from libs.world.nodes import NodeProcess
    from libs.world.world import World

BEAT_US = round(BEAT_S * 1e6)
RESET_US = 3_000_000
"""a guest that is dead may be reset by hand while the verdict on it is under way: it is started anew once more"""


class NodePulse:
    """A node's agent looks, as long as it runs: at what its guests show in truth, by a clock that is never set."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.vitals = Vitals()
        self._life = 0

    def look(self) -> None:
        node, host, now_us, true_us = self.node, self.node.host, self.node.clock.boot_us, self.node.world.net.now_us
        node.world.net.after(BEAT_US, self.look, node.owner)
        if node.agent is None or node.frozen or not node.powered:
            return
        if self._life != node.life:  # another agent has seen nothing yet
            self._life, self.vitals = node.life, Vitals()
        running = [vm for vm, found in sorted(host.vms.items()) if not found.starting]
        self.vitals.only(running)
        for vm in running:
            count = host.vitals(vm, true_us)
            asked = count.channel and count.status == "running"
            busy = node.agent.vms[vm].busy if vm in node.agent.vms else "unknown"
            hold = f"it is being changed ({busy})" if busy not in ("", "look", "persist") else ""
            self.vitals.look(count, host.answers(vm, true_us) if asked else None, hold, now_us)
            if self.vitals.wants_screen(vm, now_us):
                shown = Look.BLUE if host.vms[vm].blue else Look.BLACK
                self.vitals.seen(vm, Screen(look=shown, at_us=node.now_us), now_us)
        beat = VitalsBeat(node.name, host.boot_id, node.now_us, len(running), False, self.vitals.told(now_us))
        node.world.telemetry(node.name, f"tel.{node.name}.vitals", encode(beat))


def _hang(vm: SimVm, now_us: int) -> None:
    """Its kernel spins; nothing of it answers or works."""
    vm.hung_us = now_us


def _blue(vm: SimVm, now_us: int) -> None:
    """Its kernel gave up without a word but those on its screen; it has no agent."""
    vm.hung_us, vm.agentless, vm.blue = now_us, True, True


def _still(vm: SimVm, now_us: int) -> None:
    """All its programs stand still; its kernel is well."""
    vm.stuck = vm.idle = True


def _silent(vm: SimVm, now_us: int) -> None:
    """Its agent is stuck, and all else works."""
    vm.stuck = True


def _idle(vm: SimVm, now_us: int) -> None:
    """Without an agent, with nothing to do, its screen switched off."""
    vm.idle = vm.agentless = True


def _well(vm: SimVm, now_us: int) -> None:
    vm.stuck = vm.idle = vm.agentless = False


AILS: dict[str, Callable[[SimVm, int], None]] = {
    "hang": _hang, "blue": _blue, "still": _still, "silent": _silent, "idle": _idle, "well": _well,
}  # fmt: skip


@dataclass(slots=True)
class Guests:
    """What is looked at of guests, in the true world (checks.py).

    S14  a verdict ends no guest that lives
    L3   (settled) no guest that died is left so, if anything of it can be seen from outside
    """

    world: World
    pulses: dict[str, NodePulse] = field(default_factory=dict)

    def begin(self) -> None:
        for name, node in self.world.agents.items():
            self.pulses[name] = NodePulse(node)
            self.world.net.after(self.world.random.randrange(BEAT_US), self.pulses[name].look, node.owner)

    def befall(self, vm: str, ail: str) -> None:
        for node in self.world.agents.values():
            found = node.host.vms.get(vm)
            if found is not None and not found.starting and (found.status == "running" or ail == "well"):
                AILS[ail](found, self.world.net.now_us)

    def record(self, event: Any) -> None:
        if not isinstance(event, VerdictReached) or not event.treated or event.kind not in (Kind.HANG, Kind.PANIC):
            return
        node = self.world.agents.get(event.node)
        vm = node.host.vms.get(event.vm) if node is not None else None
        if vm is None or vm.spec.generation != event.generation or dead(vm):
            return
        if self.world.net.now_us - vm.running_us > RESET_US:
            said = f"{event.vm} on {event.node} is judged ({event.kind}: {event.sentence})"
            self.world.checker.fail(f"S14: {said}, and its guest lives")

    def settled(self) -> None:
        for name, node in self.world.agents.items():
            left = [vm for vm, found in node.host.vms.items() if dead(found) and shown(found)]
            if left:
                self.world.checker.fail(f"L3: on {name} the guests of {left} are dead, and nobody has ended them")


def dead(vm: SimVm) -> bool:
    return bool(vm.hung_us) or vm.status == PANICKED or (vm.stuck and vm.idle)


def shown(vm: SimVm) -> bool:
    """A hang of a guest that has neither an agent nor a word on its screen is not found, and one that is paused is not judged
    (docs/vm-failure.md)."""
    return vm.status == PANICKED or (vm.status != "paused" and (vm.blue or not vm.agentless))
