"""What is said for leases, and by whom it is heard: requests of agents to whoever grants, its questions to nodes, nodes' probes of
one another. Over the same lossy network as all else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from libs.world.granting import HaProcess, Lock
from proto.lease import AskGrant, AskLetter, AskProbe, AskRecords, Granted, LeaseBeat, Probes, Records

if TYPE_CHECKING:
    from libs.world.world import World

class Paths:
    """lock: the grantor's, in Postgres. parted: pairs of nodes of which the first does not reach the second directly."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lock = Lock()
        self.parted: set[tuple[str, str]] = set()
        self._grantors = [process for process in world.services.values() if isinstance(process, HaProcess)]

    # --- from nodes -------------------------------------------------------------------------------------------------

    def ask_grant(self, question: AskGrant, granted: Callable[[Granted], None]) -> None:
        """`lease.<node>`: all grantors hear it, and those that have something to say answer."""
        node = self.world.agents[question.node]
        life = node.life

        def answer(said: Granted) -> None:
            def back() -> None:
                if node.life == life:
                    granted(said)

            self.world.net.send("control", node.name, back, node.owner)

        for process in self._grantors:
            hear = lambda p=process: p.asked(question, answer)  # noqa: E731
            self.world.net.send(node.name, "control", hear, process.name)

    def beat(self, witness: str, beat: LeaseBeat) -> None:
        for process in self._grantors:
            hear = lambda p=process: p.beaten(witness, beat)  # noqa: E731
            self.world.net.send(witness, "control", hear, process.name)

    def generations(self, name: str, vms: dict[str, int], learnt: Callable[[tuple[str, ...]], None]) -> None:
        """Which of these generations compute knows to be another's by now."""
        node, compute = self.world.agents[name], self.world.services["compute"]
        life = node.life

        def asked() -> None:
            if compute.host is None:
                return
            raised = raised_of(compute.host.states(), name, vms)
            self.world.net.send("control", name, lambda: learnt(raised) if node.life == life else None, node.owner)

        self.world.net.send(name, "control", asked, "compute")

    def reaches(self, one: str, other: str) -> bool:
        """Directly: neither is cut off, the other's watchdog answers."""
        net, there = self.world.net, self.world.agents[other]
        cut = one in net.cut or other in net.cut or (one, other) in self.parted
        watchdog = there.watchdog
        return not cut and there.powered and watchdog.holder is not None and watchdog.owner not in net.paused

    # --- to nodes ---------------------------------------------------------------------------------------------------

    def ask_node(
        self, name: str, message: AskRecords | AskLetter | AskProbe, answered: Callable[[Records | Probes], None]
    ) -> None:
        """`ask.<node>.lease`."""
        node = self.world.agents[name]
        self.world.net.send("control", name, lambda: node.lease.asked(message, answered), node.owner)


def raised_of(states: Mapping[str, Any], node: str, vms: dict[str, int]) -> tuple[str, ...]:
    """Those that are not that node's under that generation."""
    return tuple(sorted(vm for vm, generation in vms.items() if (node, generation) not in _ends(states.get(f"vm-{vm}"))))


def _ends(state: Any) -> tuple[tuple[str, int], ...]:
    """Where a VM may have a process: while it moves there are two."""
    here = (getattr(state, "node", ""), getattr(state, "generation", 0))
    return here, (getattr(state, "to", ""), getattr(state, "incoming", 0))
