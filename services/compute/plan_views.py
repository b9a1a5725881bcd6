"""What the plans follow from: each node's pCPUs, the VMs that run there, and how they fare. The first two are folded from the log;
the last is telemetry and starts anew with the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import msgspec
from msgspec.structs import replace

from libs.common.host import hearing
from libs.common.messages import Recorded
from libs.memory.promise import guaranteed_mib, promise_of, whole_mib
from proto.compute import (
    Capabilities,
    NodeRemoved,
    NodeReported,
    SetAllotment,
    VmAllotted,
    VmDeleted,
    VmFound,
    VmStarted,
    VmStartRequested,
    VmStopped,
)
from proto.growth import VmResized
from proto.memory import CapacitySet
from proto.migration import VmMigrated, VmMigrationEnded
from proto.plan import CpuBeat, MakePlan, NodeCpus, PlanInputs, ReviewPlan, VmNeeds
from services.compute.cells import cells_mib
from services.compute.plan import SATISFIED_PCT

BEAT_US_MAX = 5_000_000
"""An older beat says nothing about now."""

_decode_beat = msgspec.msgpack.Decoder(CpuBeat).decode


@dataclass(slots=True)
class Heard:
    """The newest CPU beat of a node. low_us: since when one of its VMs has been unsatisfied, without a break; 0: none is."""

    beat: CpuBeat
    at_us: int
    low_us: int = 0


@dataclass(slots=True)
class PlanViews:
    """needs: of every VM that was started, by name; where: its node, while it runs. cells_mib: the sizes of a node's cells;
    promised_mib: what its ledger may promise."""

    NOT_OF_LOG: ClassVar = frozenset({"heard"})

    cpus: dict[str, NodeCpus] = field(default_factory=dict)
    needs: dict[str, VmNeeds] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    on: dict[str, set[str]] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    cells_mib: dict[str, tuple[int, ...]] = field(default_factory=dict)
    promised_mib: dict[str, int] = field(default_factory=dict)

    def _node(self, recorded: Recorded, event: NodeReported | CapacitySet | NodeRemoved) -> None:
        match event:
            case NodeReported():
                self.cells_mib[event.node] = event.capabilities.cells_mib
                self.cpus[event.node] = cpus_of(event.capabilities)
                self._size(event.node)
            case CapacitySet():
                if self.promised_mib.get(event.node) != event.capacity_mib:
                    self.promised_mib[event.node] = event.capacity_mib
                    self._size(event.node)
            case NodeRemoved():
                self.cpus.pop(event.node, None)
                self.cells_mib.pop(event.node, None)
                self.promised_mib.pop(event.node, None)
                self.heard.pop(event.node, None)

    def _needs(self, recorded: Recorded, event: VmStartRequested | VmFound) -> None:
        promise = promise_of(event.memory_mib, event.priority, event.allotment)
        self.needs[event.vm] = VmNeeds(
            vm=event.vm,
            generation=event.generation,
            vcpus=event.vcpus,
            priority=event.priority,
            allotment=event.allotment,
            memory_mib=guaranteed_mib(promise),
            whole_mib=whole_mib(promise),
        )
        if type(event) is VmFound:
            self._runs(event.vm, event.node)

    def _started(self, recorded: Recorded, event: VmStarted) -> None:
        self._runs(event.vm, event.node)

    def _arrived(self, recorded: Recorded, event: VmMigrationEnded) -> None:
        if event.vm in self.needs:
            self.needs[event.vm] = replace(self.needs[event.vm], generation=event.generation)
            self._runs(event.vm, event.node)

    def _gone(self, recorded: Recorded, event: VmMigrated | VmStopped | VmDeleted) -> None:
        self._ended(event.vm)
        if type(event) is VmDeleted:
            self.needs.pop(event.vm, None)

    def _changed(self, recorded: Recorded, event: VmAllotted | VmResized) -> None:
        needs = self.needs.get(event.vm)
        if needs is None:
            return
        if isinstance(event, VmAllotted):
            self.needs[event.vm] = replace(needs, priority=event.priority, allotment=event.allotment)
            return
        promise = promise_of(event.memory_mib, event.priority, event.allotment)
        sizes = {"memory_mib": guaranteed_mib(promise), "whole_mib": whole_mib(promise)}
        self.needs[event.vm] = replace(needs, vcpus=event.vcpus, **sizes)

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys((NodeReported, CapacitySet, NodeRemoved), _node),
        **dict.fromkeys((VmStartRequested, VmFound), _needs),
        **dict.fromkeys((VmMigrated, VmStopped, VmDeleted), _gone),
        **dict.fromkeys((VmAllotted, VmResized), _changed),
        VmStarted: _started,
        VmMigrationEnded: _arrived,
    }

    def _size(self, node: str) -> None:
        """What may be promised in each cell follows from what may be promised on the node. A host that others share is planned
        without them, so its cells' memory is nobody's to count."""
        cpus, promised_mib = self.cpus.get(node), self.promised_mib.get(node, 0)
        if cpus is None or cpus.share > 1 or len(cpus.cells) < 2 or not promised_mib:
            return
        self.cpus[node] = replace(
            cpus, cells_mib=tuple(cells_mib(promised_mib, self.cells_mib[node], len(cpus.cells)))
        )

    def _runs(self, vm: str, node: str) -> None:
        self._ended(vm)
        self.where[vm] = node
        on = self.on.get(node)
        if on is None:
            self.on[node] = {vm}
        else:
            on.add(vm)

    def _ended(self, vm: str) -> None:
        node = self.where.pop(vm, None)
        if node is not None:
            self.on[node].discard(vm)

    def inputs(self, node: str) -> PlanInputs | None:
        """None: the node has not said what pCPUs it has."""
        cpus = self.cpus.get(node)
        if cpus is None:
            return None
        vms = (self.needs[vm] for vm in sorted(self.on.get(node, ())) if vm in self.needs)
        return PlanInputs(cpus=cpus, vms=tuple(vms))

    def reserved_pct(self, node: str, without: str = "") -> int:
        """CPU time that VMs running on this node have reserved, in percent of one pCPU."""
        running = (vm for vm in self.on.get(node, ()) if vm != without and vm in self.needs)
        return sum(self.needs[vm].allotment.cpu_reserved_pct for vm in running)

    def filled(self, command: MakePlan | ReviewPlan | SetAllotment) -> MakePlan | ReviewPlan | SetAllotment:
        """With what only these views may say, whoever sent the command."""
        match command:
            case MakePlan():
                return replace(command, inputs=self.inputs(command.node))
            case SetAllotment():
                node = self.where.get(command.vm, "")
                return replace(
                    command, cpus=self.cpus.get(node), others_reserved_pct=self.reserved_pct(node, command.vm)
                )
            case ReviewPlan():
                return self._reviewed(command)

    def _reviewed(self, command: ReviewPlan) -> ReviewPlan:
        heard = self.heard.get(command.node)
        if heard is None or command.now_us - heard.at_us > BEAT_US_MAX:
            return replace(command, demand_pct={}, worst_pct=100.0, low_s=0.0)
        vms = heard.beat.vms
        return replace(
            command,
            demand_pct={vm.vm: vm.demand_pct for vm in vms},
            worst_pct=min((vm.satisfaction_pct for vm in vms), default=100.0),
            low_s=(command.now_us - heard.low_us) / 1e6 if heard.low_us else 0.0,
        )

    def hear(self, subject: str, data: bytes, now_us: int) -> None:
        """`tel.NODE.cpu`. Only a node that is known, and only in its own name."""
        beat = _decode_beat(data)
        if beat.node not in self.cpus or subject != f"tel.{beat.node}.cpu":
            return
        before = self.heard.get(beat.node)
        low = any(vm.satisfaction_pct < SATISFIED_PCT for vm in beat.vms)
        since = before.low_us if before is not None and before.low_us else now_us
        self.heard[beat.node] = Heard(beat, now_us, since if low else 0)


def cpus_of(can: Capabilities) -> NodeCpus:
    """A node that says nothing of cells is one."""
    cells = tuple(cell for cell in can.cells if cell) or (tuple(range(can.pcpus)),)
    known = len(can.cell_numbers) == len(can.cells)
    numbers = tuple(n for n, cell in zip(can.cell_numbers, can.cells, strict=True) if cell) if known else ()
    return NodeCpus(cells=cells, cores=can.cores, isolated=can.isolated, share=can.share, numbers=numbers)
