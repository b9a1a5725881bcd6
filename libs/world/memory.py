"""A simulated node's memory: guests that use what they are told to, balloons that give slowly, swap, a host that loses a DIMM.

    world.uses["db"] = lambda second: 300 + 10 * second      MiB that the guest uses, by the seconds since the world began
    node.memory.lose(4096)                                   the kernel takes a failed DIMM out of use

A guest keeps what it once touched until its balloon takes it or it is swapped out. Guests live on without their agent; what the
agent does to them is the production stepper's (services/node/memory_plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from libs.common.messages import NodeId, Reply, encode
from libs.memory.promise import overhead_mib
from proto.node import Heard, MemoryBeat, OrderMemory, VmMemory
from services.node.drivers.simvm import SimVm
from services.node.host_size import HostSize
from services.node.memory_plan import Act, Balloon, Divide, Inflate, Limit, MemoryPlan

if TYPE_CHECKING:
    from libs.world.nodes import NodeProcess

GIVES_MIB_S = 64
"""how fast a guest gives pages to its balloon, and how fast the host swaps"""
OWN_MIB = 256
"""what the host's own modules use"""
SECOND_US = 1_000_000
STALLED = (40.0, 20.0)
"""pressure (some, full) of a host that has nothing left"""


@dataclass(slots=True)
class Guest:
    """One process's memory. balloon_mib: what its guest has of nominal_mib; lowest_mib: the least that it ever had."""

    pid: int
    generation: int
    nominal_mib: int
    balloon_mib: int
    target_mib: int
    touched_mib: int = 0
    used_mib: int = 0
    swapped_mib: int = 0
    swap_max_mib: int = 0
    lowest_mib: int = 1 << 30

    @property
    def resident_mib(self) -> int:
        return self.touched_mib + overhead_mib(self.nominal_mib) - self.swapped_mib

    @property
    def has_mib(self) -> int:
        """Of the host, at most."""
        return self.balloon_mib - self.swapped_mib

    def second(self, used_mib: int, stands: bool) -> None:
        """stands: it is paused, and touches nothing; a paused guest's balloon does not move either."""
        if not stands:
            least = self.balloon_mib - GIVES_MIB_S
            self.balloon_mib = max(self.target_mib, least) if self.target_mib < self.balloon_mib else self.target_mib
            self.used_mib = min(self.balloon_mib, used_mib)
            self.touched_mib = min(self.balloon_mib, max(self.touched_mib, self.used_mib))
        self.swapped_mib = min(self.swap_max_mib, self.touched_mib, self.swapped_mib + GIVES_MIB_S)
        self.lowest_mib = min(self.lowest_mib, self.has_mib)

    def said(self, vm: str) -> VmMemory:
        free = self.balloon_mib - self.used_mib
        return VmMemory(vm, self.generation, self.resident_mib, self.swapped_mib, self.balloon_mib, free)


@dataclass(slots=True)
class NodeMemory:
    node: NodeProcess
    total_mib: int
    swap_mib: int
    guests: dict[str, Guest] = field(default_factory=dict)
    lowest_mib: dict[str, int] = field(default_factory=dict)
    """least that each VM had here, in any run"""
    worst_mib: int = 0
    """by how much more than there is was ever used"""
    _plan: MemoryPlan | None = None
    _size: HostSize = field(default_factory=HostSize)
    _lived_us: int = 0

    def begin(self) -> None:
        """Another agent: orders are repeated to it, guests have lived on."""
        self._plan = MemoryPlan(NodeId(self.node.name))
        self._size = HostSize(self.total_mib)

    def lose(self, mib: int) -> None:
        self.total_mib -= mib

    def free(self) -> None:
        """Guests give back all that they do not use."""
        for guest in self.guests.values():
            guest.touched_mib = guest.used_mib = 0

    def order(self, order: OrderMemory, incarnation: int) -> Heard:
        assert self._plan is not None
        return self._plan.on_order(order, incarnation)

    def second(self) -> None:
        """What has happened since, what is to be done now, and the beat."""
        self._live()
        if self._size.changed(self.total_mib):
            self.node.greet()
        self._keep()
        self.node.world.checker.fared(self.node.name, self.guests)
        world, name = self.node.world, self.node.name
        world.telemetry(name, f"tel.{name}.memory", encode(self.beat()))

    @property
    def available_mib(self) -> int:
        return self.total_mib - OWN_MIB - sum(guest.resident_mib for guest in self.guests.values())

    def beat(self) -> MemoryBeat:
        some, full = STALLED if self.available_mib <= 0 else (0.0, 0.0)
        free_swap = self.swap_mib - sum(guest.swapped_mib for guest in self.guests.values())
        said = tuple(guest.said(vm) for vm, guest in sorted(self.guests.items()))
        return MemoryBeat(
            self.node.name, self.node.host.boot_id, self.node.now_us, self.total_mib, max(0, self.available_mib),
            self.swap_mib, free_swap, some, full, 0, said,
        )  # fmt: skip

    # --- guests ---------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        world = self.node.world
        here = {vm: process for vm, process in sorted(self.node.host.vms.items()) if _runs(process)}
        self.guests = {vm: self._guest(vm, process) for vm, process in here.items()}
        seconds = min(600, (world.net.now_us - self._lived_us) // SECOND_US)
        if seconds <= 0:
            return
        self._lived_us = world.net.now_us
        for vm, guest in self.guests.items():
            use = world.uses.get(vm)
            used = use(world.second) if use is not None else guest.nominal_mib // 2
            for _ in range(seconds):
                guest.second(used, here[vm].status != "running")
            self.lowest_mib[vm] = min(self.lowest_mib.get(vm, guest.lowest_mib), guest.lowest_mib)
        self.worst_mib = max(self.worst_mib, -self.available_mib)

    def _guest(self, vm: str, process: SimVm) -> Guest:
        known = self.guests.get(vm)
        if known is not None and known.pid == process.pid:
            return known
        nominal = process.spec.shape.memory_mib
        return Guest(process.pid, process.spec.generation, nominal, nominal, nominal)

    # --- the agent ------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        plan, now_us = self._plan, self.node.now_us
        if plan is None:
            return
        balloons = {vm: Balloon(g.generation, g.nominal_mib, g.balloon_mib) for vm, g in self.guests.items()}
        for act in plan.step(balloons, now_us):
            plan.done(act, self._do(act))
        report = plan.report(now_us)
        if report is None:
            return

        def answered(reply: Reply) -> None:
            if reply.status != "unavailable":
                plan.heard(report, self.node.now_us)

        self.node.tell("memory", report, answered)

    def _do(self, act: Act) -> list[str]:
        match act:
            case Inflate(vm=vm, mib=mib):
                self.guests[vm].target_mib = mib
            case Limit(vm=vm, swap_max_mib=most):
                self.guests[vm].swap_max_mib = most
            case Divide():
                pass
        return []


def _runs(process: SimVm) -> bool:
    return not process.starting and process.status not in ("incoming", "sent")
