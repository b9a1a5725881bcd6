"""What must hold at every step, and what must hold once the faults have stopped.

Safety, at every step:
    S1  a VM has at most one process that runs its guest or may, and a disk is open in at most one: a process that waits for a guest
        is none until it is activated
    S11 no guest that was sent whole is thrown away, unless it is to be stopped, its source was lost before it could say so (nobody
        else can: it starts anew), or the database was restored meanwhile
    S10 no guest goes on with a memory that is older than itself
    S3  generations only rise: in the log, on every agent's disk, in the lease records; also over a restore of the database
    S7  the log has no gap, positions and versions count up by one
    S8  one command id has one answer in one incarnation of the log
    S13 no guest is given other disks than those that it was known to run with, wherever they are
    S12 no guest has less than its reservation, nor a critical one less than all, once its agent had time to hear of it
    S4  what is never taken back from the guests that a node has fits into its memory (looked at when one was started or moved)
    S9  what the ledgers promise is there, and no critical VM is reclaimed from (libs/memory/prove.py)
    B1 … B6 backups, and what is recovered from them (backup_checks.py)
Liveness and truth, at the end (`settled`):
    L1  every VM is running where the log says (one that stood still for want of room too, now that there is some), or stopped with
        no process anywhere; a VM that a restored log does not know runs
        on, and the log names it a stranger
    T1  what each service holds in memory is what the log folds to
    T2  memory is reserved for exactly the VMs that have a node
    T4  what a running VM's ledger promises it is what its definition says; nobody waits for a ledger's answer
    T3  each node's plan holds exactly the VMs that run there, under their generations, and each is scheduled as it says
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from libs.common.host.core import Host, state_bytes
from libs.common.messages import Recorded, Reply
from libs.common.registry import Registry
from libs.memory.promise import guaranteed_mib, promise_of
from libs.memory.prove import Proof
from libs.world.backup_checks import BackupChecks
from libs.world.decoding import registries
from libs.world.lease_checks import LeaseChecks
from proto.compute import GoneCause, VmDeleted
from services.node.drivers import NO_SPACE
from services.node.model import Kept

if TYPE_CHECKING:
    from libs.world.memory import Guest
    from libs.world.world import World

SHORT_US_MAX = 30_000_000
"""how long a larger reservation may take to reach a guest, with everything late and the agent dead for a while"""

EVERYTHING = False
"""look at all there is at every step, whatever has changed: slow, and a test holds it equal to the quick way"""


class Checker:
    def __init__(self, world: World) -> None:
        self.world = world
        self.position = 0
        self.versions: dict[str, int] = {}
        self.generations: dict[str, int] = {}
        self.leases: dict[tuple[str, str], int] = {}
        self.proof = Proof()
        self.known = 0
        self.stops: set[tuple[str, int]] = set()
        self.replies: dict[tuple[str, int], Reply] = {}
        self.short_us: dict[tuple[str, str], int] = {}
        self.registries: dict[str, Registry] = {}
        """kind of stream -> the events of its service"""
        self.nodes = LeaseChecks(world)
        self.backups = BackupChecks(world)
        self.types: Counter[str] = Counter()
        """of events, since the story began"""
        self.touched = self.news = True
        self.full = EVERYTHING

    def restored(self, position: int) -> None:
        """The log was cut there: what followed is forgotten, but for the generations that were given."""
        self.position, self.known = 0, position
        self.news = True
        self.versions, self.proof = {}, Proof()
        self.world.pool.known.clear()
        self.nodes.restored()
        self.backups.restored()

    def fail(self, what: str) -> None:
        raise AssertionError(f"seed {self.world.seed}, step {self.world.net.steps}: {what}")

    # --- at every step --------------------------------------------------------------------------------------------

    def step(self) -> None:
        """What can have changed is looked at: `touched` (processes, disks, leases), `news` (the log)."""
        if self.touched or self.full:
            self.touched = False
            self._one_copy()
            self._leases()
            self.backups.look()
        if (self.news or self.full) and self.world.log.available:
            self.news = False
            for recorded in self.world.log.read_all_now(self.position, 10_000):
                self._record(recorded)

    def _leases(self) -> None:
        if self.world.incarnation == 1 and (thrown := set(self.world.pool.thrown) - self.stops):
            self.fail(f"S11: sent whole and thrown away: {sorted(thrown)}")
        for pool in {pool.id: pool for pool in self.world.pools.values()}.values():
            for vm, (generation, _) in pool.leases.items():
                if generation < self.leases.get((pool.id, vm), 0):
                    self.fail(f"S3: the lease of {vm} fell to generation {generation}")
                self.leases[pool.id, vm] = generation

    def _one_copy(self) -> None:
        agents = self.world.agents.values()
        copies = [name for agent in agents for name, vm in agent.host.vms.items() if vm.status != "incoming"]
        if len(set(copies)) < len(copies):
            self.fail(f"S1: two processes of {[vm for vm, n in Counter(copies).items() if n > 1]}")
        if self.world.pool.double_opens:
            self.fail(f"S1: a disk is open twice: {self.world.pool.double_opens}")
        if self.world.pool.lost_opens:
            self.fail(f"S13: a guest's disks are not those that it had: {self.world.pool.lost_opens}")
        if self.world.pool.stale_runs:
            self.fail(f"S10: went on with an old memory: {self.world.pool.stale_runs}")

    def _record(self, recorded: Recorded) -> None:
        if recorded.position != self.position + 1:
            self.fail(f"S7: position {recorded.position} after {self.position}")
        self.position = recorded.position
        if recorded.version != self.versions.get(recorded.stream, 0) + 1:
            self.fail(f"S7: {recorded.stream} has version {recorded.version} twice or out of order")
        self.versions[recorded.stream] = recorded.version
        event = self.event(recorded)
        self.types[recorded.type] += 1
        self.nodes.record(event)
        self.backups.record(event, new=recorded.position > self.known)
        if self.world.guests is not None:
            self.world.guests.record(event)
        self.world.recorded(recorded, event)
        if recorded.type in ("vm_started", "vm_deleted"):
            self._disks(event)
        if recorded.type in ("vm_started", "vm_migrated"):
            self._room(event.node)
        if recorded.type == "vm_stop_requested":
            self.stops.add((event.vm, event.generation))
        if recorded.type == "vm_migration_failed" and event.cause == GoneCause.NODE_LOST:
            self.stops.add((event.vm, event.incoming))
        if recorded.type in ("vm_start_requested", "vm_migration_requested") and recorded.position > self.known:
            given = event.generation if recorded.type == "vm_start_requested" else event.incoming
            if given <= self.generations.get(event.vm, 0):
                self.fail(f"S3: {event.vm} is given generation {given} again")
            self.generations[event.vm] = given
        self._ledger(recorded.position, event)

    def _room(self, name: str) -> None:
        """In truth, whatever the ledgers say."""
        node = self.world.agents.get(name)
        if node is None:
            return
        specs = [vm.spec for vm in node.host.vms.values()]
        own_mib = sum(guaranteed_mib(promise_of(s.shape.memory_mib, s.priority, s.allotment)) for s in specs)
        if own_mib > node.memory.total_mib:
            self.fail(f"S4: {own_mib} MiB are the own of the guests on {name}, and it has {node.memory.total_mib}")

    def _disks(self, event: Any) -> None:
        """From here on its guest is to find what it has written."""
        known, here = self.world.pool.known, self.world.agents.get(event.node)
        if isinstance(event, VmDeleted):
            for key in [key for key in known if key[0] == event.vm]:
                del known[key]
        elif here and (vm := here.host.vms.get(event.vm)) and vm.spec.generation == event.generation:
            known |= {(event.vm, disk.name): here.host.pool.on(disk) for disk in vm.spec.disks}

    def fared(self, node: str, guests: Mapping[str, Guest]) -> None:
        """What the guests of a node really have, once a second."""
        ledger = self.proof.nodes.get(node)
        for vm, guest in guests.items():
            held = ledger.vms.get(vm) if ledger is not None else None
            if held is None or held.generation != guest.generation or guest.has_mib >= held.promise.reservation_mib:
                self.short_us.pop((node, vm), None)
                continue
            since_us = self.short_us.setdefault((node, vm), self.world.net.now_us)
            if self.world.net.now_us - since_us > SHORT_US_MAX:
                self.fail(f"S12: {vm} on {node} has {guest.has_mib} of the {held.promise.reservation_mib} MiB that are its own")

    def event(self, recorded: Recorded) -> Any:
        kind = recorded.stream.partition("-")[0]
        if (known := self.registries.get(kind)) is None:
            owner = next((p.service for p in self.world.services.values() if kind in {d.kind for d in p.service.deciders}), None)
            if owner is None:
                raise AssertionError(f"nobody owns {recorded.stream}")
            known = self.registries[kind] = registries(owner)[1]
        return known.event(recorded)

    def _ledger(self, position: int, event: Any) -> None:
        self.proof.look(position, event)
        if self.proof.faults:
            self.fail(f"S9: {self.proof.faults}")

    def kept(self, node: str, before: Kept | None, after: Kept) -> None:
        if before is not None and after.generation < before.generation:
            self.fail(f"S3: {node} keeps a lower generation of {after.vm}")

    def answered(self, id: str, reply: Reply, incarnation: int) -> None:
        before = self.replies.setdefault((id, incarnation), reply)
        if (before.status, before.reason) != (reply.status, reply.reason):
            self.fail(f"S8: {id} was answered {before} and then {reply}")

    # --- at the end -----------------------------------------------------------------------------------------------

    def settled(self) -> None:
        """Faults have stopped for long enough."""
        self.nodes.settled()
        self.backups.settled()
        if self.world.guests is not None:
            self.world.guests.settled()
        running: set[tuple[str, str]] = set()
        for name, process in self.world.services.items():
            host = process.host
            if host is None:
                raise AssertionError(f"{name} is not up")
            if not host.idle():
                self.fail(f"L1: {name} has work left: {host.reactions.todo or host.reactions.inbox}")
            if host.book.unheard():
                self.fail(f"L1: {name} has {host.book.unheard()} orders that nobody heard")
            if self._folded(name) != state_bytes(host):
                self.fail(f"T1: {name} holds another state than the log folds to")
        for stream, state in self._host("compute").states().items():
            if stream.startswith("vm-"):
                running |= self._vm(stream.removeprefix("vm-"), state)
        self._plans(running)
        reserved = {(vm, node) for node, ledger in self.proof.nodes.items() for vm in ledger.vms}
        if reserved != running:
            self.fail(
                f"T2: memory is reserved for {sorted(reserved - running)}, missing for {sorted(running - reserved)}"
            )

    def _plans(self, running: set[tuple[str, str]]) -> None:
        states = self._host("compute").states()
        for name, node in self.world.agents.items():
            plan = states.get(f"plan-{name}")
            planned = plan.vms if plan is not None else {}
            here = {vm for vm, where in running if where == name}
            if set(planned) != here:
                self.fail(f"T3: the plan of {name} holds {sorted(planned)}, {sorted(here)} run there")
            for vm in here:
                process = node.host.vms[vm]
                if node.host.cpu.plans.get(process.pid) != planned[vm]:
                    self.fail(f"T3: {vm} on {name} is scheduled by {node.host.cpu.plans.get(process.pid)}, not {planned[vm]}")
            if plan is not None and here and (plan.applied, plan.faults) != (plan.revision, ()):
                self.fail(f"T3: plan {plan.revision} of {name} is not known to be applied: {plan.applied}, {plan.faults}")

    def _vm(self, vm: str, state: Any) -> set[tuple[str, str]]:
        word = type(state).__name__
        where = [n for n, a in self.world.agents.items() if vm in a.host.vms]
        if word in ("Stopped", "Absent"):
            if where != ([state.stranger] if word == "Absent" and state.stranger else []):
                self.fail(f"L1: {vm} is {word} and has a process on {where}")
            return set()
        if word != "Running" or where != [state.node]:
            self.fail(f"L1: {vm} is {state} and has processes on {where}")
        still = self.world.agents[state.node].host.vms[vm].status == NO_SPACE
        if not state.pause_wanted and (still or state.full):
            self.fail(f"L1: {vm} is to run, its pool has room, and it is said to wait for {state.full} (stands still: {still})")
        wanted, held = state.definition, self.proof.nodes[state.node].vms.get(vm)
        promise = promise_of(wanted.shape.memory_mib, wanted.priority, wanted.allotment)
        if state.wish is not None or held is None or held.promise != promise:
            self.fail(f"T4: {vm} is defined to have {promise} and has {held}; it waits for {state.wish}")
        return {(vm, state.node)}

    def _folded(self, name: str) -> bytes:
        service = self.world.services[name].service
        fresh = Host(service, registries=registries(service))
        fresh.fold(self.world.log.read_all_now(0, 10**9), 0)
        return state_bytes(fresh)

    def _host(self, name: str) -> Host:
        host = self.world.services[name].host
        assert host is not None
        return host
