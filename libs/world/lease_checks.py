"""What must hold of leases and failovers, looked at whenever something of them moves. Beside what the log says, the true world is
looked at, which no service can see.

    S2  NodeLost by a spent lease: by the node's own clock its lease has ended, whoever of it still hears that. No later renewal
        revives it. A VM that is taken to have ended by a proof has no process there that could write: none, or one that is not
        scheduled and whose disks the storage keeps locked
    S3  epochs and terms only rise: NodeLost once per epoch, a node's and its record's epochs never fall
    S5  a node that was fenced, or has acknowledged, runs nothing of what was asked for. A device that lied may be believed only
        where the storage locks
    L1  (settled) once faults have stopped, what ran in the beginning and was stopped by nobody runs, or its guard says why not
    L2  (settled) and every node holds a lease, or ha says that it waits for somebody's word
    S6  nothing that befalls the control plane alone ever pauses or ends a VM, or has a node's power cut
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libs.lease.effects import State
from proto.compute import GoneCause, VmStarted, VmStopped
from proto.guard import GuardEnded, VmUnplaced
from proto.lease import NodeLost, NodeReturned, ProofKind, TermBegan
from services.node.drivers.simvm import SimVm

if TYPE_CHECKING:
    from libs.world.nodes import NodeProcess
    from libs.world.story import Step
    from libs.world.world import World

OF_NODES = frozenset(
    {
        *("power", "node_stop", "suspend", "watchdog_kill", "watchdog_stop"),
        *("storage_away", "storage_full", "storage_gone", "storage_slow"),
    }
)
"""what befalls a node's own watchdog or its way to the storage; all else is none of the watchdog's reasons to pause"""
LETTERS = frozenset({"cut", "cut_from", "cut_to", "agent_kill", "agent_stop"})
"""for which a node may be asked, by letter, to end its VMs, or its power be cut"""
CUTS = LETTERS | {"peers_cut", "storage_blind", "clock_drift", "fence_off"}
"""for which, too, its power may be cut"""


class LeaseChecks:
    def __init__(self, world: World) -> None:
        self.world = world
        self.lost: dict[str, NodeLost] = {}
        """nodes that are lost and have not come back"""
        self.epochs: dict[str, int] = {}
        self.term = 0
        self.said: dict[str, str] = {}
        """VM -> why it does not run, as its guard said last"""
        self.ran: tuple[str, ...] = ()
        self.let_go: set[str] = set()
        """VMs that people stopped, or took in hand, since the story began"""
        self.hurt: dict[str, set[str]] = {}
        """by node ("": all): kinds of what has befallen it since the story began"""

    def _fail(self, what: str) -> None:
        self.world.checker.fail(what)

    # --- what the log says ------------------------------------------------------------------------------------------

    def restored(self) -> None:
        """The log was cut: what it has forgotten may be said again."""
        self.epochs.clear()
        self.lost.clear()
        self.term = 0

    def record(self, event: Any) -> None:
        match event:
            case NodeLost():
                self._lost(event)
            case NodeReturned():
                self.lost.pop(event.node, None)
            case TermBegan():
                if event.term <= self.term:
                    self._fail(f"S3: term {event.term} begins after term {self.term}")
                self.term = event.term
            case VmStopped(cause=GoneCause.NODE_LOST):
                self._ended(event)
            case VmUnplaced() | GuardEnded():
                self.said[event.vm] = event.sentence
            case VmStarted():
                self.said.pop(event.vm, None)

    def _lost(self, event: NodeLost) -> None:
        if event.epoch <= self.epochs.get(event.node, 0):
            self._fail(f"S3: {event.node} is lost in epoch {event.epoch} again")
        self.epochs[event.node] = event.epoch
        self.lost[event.node] = event
        node = self.world.agents.get(event.node)
        if node is None or not node.powered:
            return
        if event.proof.kind is ProofKind.FENCE and node.host.boot_id == event.boot_id and not self._deceived(node):
            self._fail(f"S5: {event.node} is fenced off and has power")
        if event.proof.kind is ProofKind.LEASE:
            self.renewed(node)
        checker = self.world.checker
        if event.proof.kind is ProofKind.ACKNOWLEDGED and checker.position > checker.known:  # else it is read again after a restore
            asked = event.proof.vms or tuple(node.host.vms)
            here = [vm for vm in asked if vm in node.host.vms and node.host.vms[vm].spec.protected]
            if here:
                self._fail(f"S5: {event.node} has acknowledged that it ended {here}, and runs them")

    def _ended(self, event: VmStopped) -> None:
        """By proof alone: nobody has seen it gone."""
        if event.node not in self.lost and event.node not in self.epochs:
            self._fail(f"S2: {event.vm} is taken to have ended on {event.node}, which was never lost")
        node = self.world.agents.get(event.node)
        vm = node.host.vms.get(event.vm) if node is not None else None
        if node is not None and vm is not None and vm.spec.generation == event.generation and not self._held(node, vm):
            self._fail(f"S2: {event.vm} is taken to have ended on {event.node}, and runs there as {event.generation}")

    def _deceived(self, node: NodeProcess) -> bool:
        """Its device said off of this very boot, and lied; a second copy waits for the storage's locks."""
        bmc = self.world.bmcs.get(node.name)
        return bmc is not None and bmc.lied == node.host.boot_id and node.host.pool.locking

    def _held(self, node: NodeProcess, vm: SimVm) -> bool:
        """It cannot be ended yet, as its watchdog is not scheduled or not there; its disks are locked as long as it is."""
        if self._deceived(node):
            return True
        watchdog = node.watchdog
        unable = watchdog.holder is None or watchdog.owner in node.world.net.paused or node.host.frozen
        late = bool({"watchdog_kill", "watchdog_stop", "kills_slow", "node_stop", "suspend"} & self._reasons(node.name))
        return node.host.pool.locking and (unable or late)

    def _waits(self) -> bool:
        """ha says why it concludes nothing just now."""
        host = self.world.services["ha"].host
        ha = host.states().get("ha-main") if host is not None else None
        return ha is not None and (bool(ha.held) or not ha.armed)

    # --- what watchdogs do --------------------------------------------------------------------------------------------

    def renewed(self, node: NodeProcess) -> None:
        """Whatever it has been told: a lease of an epoch that was declared spent is over, by its own clock; until then what it is
        ending may still be there."""
        lost, holder = self.lost.get(node.name), node.watchdog.holder
        if lost is None or holder is None or holder.epoch > lost.epoch or lost.boot_id != holder.boot_id:
            return
        if holder.state in (State.HELD, State.PAUSED, State.ENDED) and lost.proof.kind is ProofKind.LEASE:
            left_us = holder.end_us - node.clock.boot_us
            if left_us > 0:
                self._fail(f"S2: {node.name} was declared lost, and its lease of epoch {holder.epoch} has {left_us} us left")

    def paused(self, node: str, vms: tuple[str, ...]) -> None:
        if vms and not self._reasons(node) & OF_NODES:
            self._fail(f"S6: {node} pauses {list(vms)}, and nothing has befallen it but {sorted(self._reasons(node))}")

    def slain(self, node: str, vms: tuple[str, ...]) -> None:
        """On a lossy network a node may be asked by letter though nothing has befallen it: enough of what it says is lost."""
        if vms and self._calm and not self._reasons(node) & (OF_NODES | LETTERS):
            self._fail(f"S6: {node} ends {list(vms)}, and nothing has befallen it but {sorted(self._reasons(node))}")

    def cut_off(self, node: NodeProcess) -> None:
        """Its fence device is about to cut its power, upon an order."""
        if self._calm and not self.world.peace and not self._reasons(node.name) & (OF_NODES | CUTS):
            self._fail(f"S6: the power of {node.name} is cut, and nothing has befallen it but {sorted(self._reasons(node.name))}")
        self.hurt.setdefault(node.name, set()).add("power")

    @property
    def _calm(self) -> bool:
        weather = self.world.net.weather
        return not (weather.lost or weather.late)

    def _reasons(self, node: str) -> set[str]:
        return self.hurt.get(node, set()) | self.hurt.get("", set())

    def befell(self, step: Step) -> None:
        if step.do in ("stop", "pause", "delete", "restore"):
            self.let_go |= {step.who} if step.who else set(self.ran)
        self.hurt.setdefault(step.who if step.who in self.world.agents else "", set()).add(step.do)

    def begun(self) -> None:
        self.hurt.clear()
        self.ran = tuple(sorted(vm for node in self.world.agents.values() for vm in node.host.vms))

    def settled(self) -> None:
        """Every one that ran in the beginning runs, or something says why not."""
        running = {vm for node in self.world.agents.values() for vm, process in node.host.vms.items() if not process.halted}
        for vm in self.ran:
            if vm not in running and vm not in self.let_go and not self.said.get(vm):
                self._fail(f"L1: {vm} does not run, and nothing says why")
        for name, node in self.world.agents.items():
            holder = node.watchdog.holder
            if self.world.ha and not self._waits() and (holder is None or holder.state is not State.HELD):
                self._fail(f"L2: {name} holds no lease: it is {holder.state if holder else 'without a watchdog'}")
