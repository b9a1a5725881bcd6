"""A host in memory: VMs that start, run, crash and end by parameters, without clock, loop or I/O. A simulator runs it verbatim;
`SimulatedDriver` (simulated.py) puts real time around it.

    host = SimHost("n1", SimParams(), Random(7), pool)
    host.begin(act, now_us)         any object with `vm`, `verb` (see begin), `spec`, `address` and `move`
    host.next_us()                  when to ask again
    host.due(now_us)                what has ended or happened by then: SimDone (a verb) and MachineChanged, in order of time

Processes belong to the host, not to the agent: `drop_agent` forgets verbs under way and nothing else, `adopt` is what the next
agent finds. Faults come by chance (SimParams) or by hand: `crash`, `panic`, `hang`, `freeze`/`thaw`, `power_off`/`power_on`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from random import Random
from typing import Protocol

from proto.compute import GoneCause
from proto.machine import MachineSpec
from proto.networks import Bridge
from proto.node import SwapNow
from proto.plan import PlanFault, VmPlan
from services.node.drivers import (
    AT_HAND,
    NO_SPACE,
    CannotMove,
    CannotStart,
    DriverError,
    Machine,
    MachineChanged,
    Move,
    NoSuchVm,
    VmCpu,
    simbackups,
    simfit,
    simhome,
    simnet,
    simpulse,
)
from services.node.drivers import simmoves as moves
from services.node.drivers.simcpu import SimCpu, SimWish
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import Holder, SimPool
from services.node.drivers.simvm import Due, SimDone, SimVm
from services.node.drivers.vitals import VitalCount

HOUR_US = 3_600_000_000


class Verb(Protocol):
    """What `begin` takes; the agent's own `Act` is one."""

    @property
    def vm(self) -> str: ...
    @property
    def verb(self) -> str: ...
    @property
    def spec(self) -> MachineSpec | None: ...
    @property
    def address(self) -> str: ...
    @property
    def move(self) -> Move: ...


@dataclass(frozen=True, slots=True)
class SimAct:
    vm: str
    verb: str
    spec: MachineSpec | None = None
    address: str = ""
    move: Move = AT_HAND


class SimHost:
    def __init__(self, node: str, params: SimParams, random: Random, pool: SimPool | None = None) -> None:
        self.node = node
        self.params = params
        self.pool = pool if pool is not None else SimPool()
        self.vms: dict[str, SimVm] = {}
        self.boots = 1
        self.first = ""
        """the boot that it was in when somebody began to look at it, by another name"""
        self.cpu = SimCpu(params.pcpus_of_cells)
        self.swaps: tuple[SwapNow, ...] = ()
        self.keys: set[str] = set()
        """of backups, that it has"""
        self.bridges: tuple[Bridge, ...] = (Bridge(name="lan"),)
        self.random = random
        self._heap: list[Due] = []
        self._serial = 0
        self._pid = 1000
        self._agent = 1
        self.frozen = False

    @property
    def boot_id(self) -> str:
        if not self.first:
            return f"{self.node}-boot-{self.boots}"
        return self.first if self.boots == 1 else f"{self.first}+{self.boots - 1}"

    # --- the agent's side -----------------------------------------------------------------------------------------

    def begin(self, act: Verb, now_us: int) -> None:
        """Starts a verb; its SimDone comes by `due`. One verb of a VM at a time is the caller's care."""
        vm = self.vms.get(act.vm)
        match act.verb:
            case "start":
                assert act.spec is not None, "a start needs a spec"
                self.plan(now_us + self.params.lease_us, "spawn", act.vm, agent=self._agent, spec=act.spec)
            case "receive":
                assert act.spec is not None, "receiving needs a spec"
                start_us = self.params.start_us
                self.plan(now_us + start_us, "receive", act.vm, agent=self._agent, spec=act.spec, move=act.move)
            case "fit":
                assert act.spec is not None, "fitting needs a spec"
                self.plan(now_us + self.params.verb_us, "fit", act.vm, agent=self._agent, spec=act.spec)
            case "send":
                verb_us = self.params.verb_us
                self.plan(now_us + verb_us, "send", act.vm, agent=self._agent, address=act.address, move=act.move)
            case "kill":
                self.plan(now_us + self.params.kill_us, "kill", act.vm, agent=self._agent)
            case "shutdown" if vm is not None and self.random.random() >= self.params.ignores_shutdown:
                self.plan(now_us + self.params.shutdown_us, "guest-shutdown", act.vm, pid=vm.pid)
                self.plan(now_us + self.params.verb_us, "shutdown", act.vm, agent=self._agent)
            case "shutdown" | "pause" | "resume" | "reset" | "look" | "recall" | "activate" | "witness":
                self.plan(now_us + self.params.verb_us, act.verb, act.vm, agent=self._agent)
            case unknown:
                raise ValueError(f"no such verb: {unknown!r}")

    def due(self, now_us: int) -> list[SimDone | MachineChanged]:
        out: list[SimDone | MachineChanged] = []
        while not self.frozen and self._heap and self._heap[0].at_us <= now_us:
            due = heapq.heappop(self._heap)
            vm = self.vms.get(due.vm)
            if (due.agent and due.agent != self._agent) or (due.pid and (vm is None or vm.pid != due.pid)):
                continue
            out += self._happen(due, vm)
        return out

    def next_us(self) -> int | None:
        """When something is due; None: nothing is under way, or the host is frozen."""
        return None if self.frozen or not self._heap else self._heap[0].at_us

    def adopt(self) -> list[Machine]:
        """What a fresh agent finds. A process that never ran its guest is ended, as the qemu driver does."""
        for name in [n for n, vm in self.vms.items() if vm.starting]:
            self._end(name)
        return [self.vms[name].machine() for name in sorted(self.vms)]

    def drop_agent(self) -> None:
        """The agent died: its verbs under way are forgotten, processes run on."""
        self._agent += 1

    def booted(self, vm: str, now_us: int) -> bool:
        """Whether the guest agent of that VM answers by now. Raises NoSuchVm."""
        found = self.vms.get(vm)
        if found is None or found.starting:
            raise NoSuchVm(f"no process of {vm} on {self.node}")
        lives = found.status == "running" and not found.hung_us and found.boots > 0
        return lives and now_us >= found.running_us + self.params.boot_us

    # --- CPU time -------------------------------------------------------------------------------------------------

    def schedule(self, plan: VmPlan, now_us: int) -> tuple[PlanFault, ...]:
        """Raises NoSuchVm."""
        found = self.vms.get(plan.vm)
        if found is None or found.starting or found.spec.generation != plan.generation:
            raise NoSuchVm(f"no generation {plan.generation} of {plan.vm} on {self.node}")
        self.cpu.advance(self._wishes(), now_us)
        self.cpu.plans[found.pid] = plan
        return ()

    def cpu_times(self, now_us: int) -> tuple[VmCpu, ...]:
        wishes = self._wishes()
        self.cpu.advance(wishes, now_us)
        return tuple(self.cpu.look(wish) for wish in wishes)

    def _wishes(self) -> list[SimWish]:
        return [
            SimWish(name, vm.pid, vm.spec, vm.busy_pct * vm.spec.shape.vcpus * (vm.status == "running"))
            for name, vm in sorted(self.vms.items())
            if not vm.starting
        ]

    # --- faults by hand -------------------------------------------------------------------------------------------

    def crash(self, vm: str, now_us: int) -> None:
        """The VM's process dies by itself."""
        self.plan(now_us, "crash", vm, pid=self.vms[vm].pid)

    def panic(self, vm: str, now_us: int) -> None:
        """The guest's kernel panics; the process stays."""
        self.plan(now_us, "panic", vm, pid=self.vms[vm].pid)

    def hang(self, vm: str, now_us: int) -> None:
        """The guest answers nothing and does nothing any more but turn round, until it is reset or ended."""
        self.vms[vm].hung_us = now_us

    def vitals(self, vm: str, now_us: int) -> VitalCount:
        """Raises NoSuchVm."""
        booted = self.booted(vm, now_us)
        return simpulse.count(self.vms[vm], booted, now_us)

    def answers(self, vm: str, now_us: int) -> bool:
        """Whether its guest's agent does. Raises NoSuchVm."""
        return self.booted(vm, now_us) and not (self.vms[vm].agentless or self.vms[vm].stuck)

    def write(self, vm: str, now_us: int) -> None:
        """The guest writes to its first disk: with no room in the pool it stands still."""
        self.plan(now_us, "write", vm, pid=self.vms[vm].pid)

    def halt(self, vm: str) -> None:
        """Its vCPUs stand still, whatever else is ordered (SIGSTOP, as a watchdog's); its locks are kept."""
        if (found := self.vms.get(vm)) is not None:
            found.halted = True

    def go_on(self, vm: str) -> None:
        if (found := self.vms.get(vm)) is not None:
            found.halted = False

    def slay(self, vm: str, now_us: int) -> None:
        """Its process is killed, by somebody else than its agent."""
        if (found := self.vms.get(vm)) is not None:
            self.plan(now_us + self.params.kill_us, "slain", vm, pid=found.pid)

    def freeze(self) -> None:
        """Nothing happens any more, locks are kept (SIGSTOP to all, or a stopped host)."""
        self.frozen = True

    def thaw(self) -> None:
        """What became due meanwhile happens at the next `due`."""
        self.frozen = False

    def power_off(self) -> None:
        """All processes and the agent are gone, locks with them; leases stay."""
        for name in list(self.vms):
            self._end(name)
        self._heap.clear()
        self._agent += 1

    def power_on(self) -> None:
        self.boots += 1
        self.frozen = False

    # --- what happens ---------------------------------------------------------------------------------------------

    def plan(
        self, at_us: int, what: str, vm: str, *, pid: int = 0, agent: int = 0, spec: MachineSpec | None = None,
        address: str = "", sending: int = 0, move: Move = AT_HAND,
    ) -> None:  # fmt: skip
        self._serial += 1
        heapq.heappush(self._heap, Due(at_us, self._serial, what, vm, pid, agent, spec, address, sending, move))

    def next_pid(self) -> int:
        self._pid += 1
        return self._pid

    def _happen(self, due: Due, vm: SimVm | None) -> list[SimDone | MachineChanged]:
        match due.what:
            case "spawn":
                return self._spawn(due, vm)
            case "run" | "hung":
                return self._run(due, vm)
            case "kill":
                done = SimDone(due.vm, "kill")
                moves.killed(self, vm)
                return [done] if vm is None else [self._end(due.vm, _cause(vm, GoneCause.ORDERED)), done]
            case "receive":
                return [moves.receive(self, due, vm)]
            case "fit":
                return [simfit.fit(self, due, vm)]
            case "look":
                return [simfit.look(self, due, vm)]
            case "send" | "recall" | "activate":
                return [moves.act(self, due, vm)]
            case "moved" if vm is not None and vm.sending == due.sending and vm.sent_to and vm.status != "sent":
                return [moves.moved(self, due, vm)]
            case "home" if vm is not None:
                return [simhome.came(vm)]
            case "crash" if vm is not None:
                return [self._end(due.vm, _cause(vm, GoneCause.CRASHED), "the process ended by itself")]
            case "slain" if vm is not None:
                said, starting = "the watchdog ended it", vm.starting
                gone = self._end(due.vm, _cause(vm, GoneCause.CRASHED), said)
                return [SimDone(due.vm, "start", CannotStart(said))] if starting else [gone]
            case "write" if vm is not None and vm.status == "running" and not self.pool.room(vm.spec):
                return [stalled(vm)]
            case "guest-shutdown" | "panic" if vm is not None and vm.status == "running" and not vm.hung_us:
                vm.status = "panicked" if due.what == "panic" else "shutdown"
                return [_changed(vm)]
            case "shutdown" | "pause" | "resume" | "reset" | "witness":
                writes = vm is not None and vm.status == NO_SPACE and due.what == "resume"
                done = self._verb(due, vm)
                return [done, stalled(vm)] if vm is not None and writes and not self.pool.room(vm.spec) else [done]
        return []

    def _spawn(self, due: Due, vm: SimVm | None) -> list[SimDone | MachineChanged]:
        spec = due.spec
        assert spec is not None
        if vm is not None:
            if vm.spec.generation == spec.generation:
                return [SimDone(due.vm, "start", machine=vm.machine())]
            error: DriverError = CannotStart(
                f"generation {vm.spec.generation} of {due.vm} still runs here; kill it first"
            )
            return [SimDone(due.vm, "start", error)]
        try:
            self.pool.take(spec, self.node)
            if self.random.random() < self.params.start_fails:
                raise CannotStart(f"QEMU ended at once: {due.vm}: simulated failure")
            simnet.check(spec.nics, self.bridges)
            simhome.check_keys(self, spec.disks)
            self.pool.find(spec)
            self.pool.open(spec, Holder(self.node, spec.vm, spec.generation))
        except CannotStart as refused:
            return [SimDone(due.vm, "start", refused)]
        vm = self.vms[due.vm] = SimVm(spec, self.next_pid(), busy_pct=self.params.busy_pct)
        hangs = self.random.random() < self.params.start_hangs
        wait_us = (
            self.params.hang_us if hangs else self.params.start_us + self.random.randrange(self.params.jitter_us + 1)
        )
        self.plan(due.at_us + wait_us, "hung" if hangs else "run", due.vm, pid=vm.pid, agent=self._agent)
        return []

    def _run(self, due: Due, vm: SimVm | None) -> list[SimDone | MachineChanged]:
        assert vm is not None
        if due.what == "hung":
            self._end(due.vm)
            return [
                SimDone(due.vm, "start", CannotStart(f"QEMU of {due.vm} said nothing for {self.params.hang_us} us"))
            ]
        vm.starting, vm.running_us, vm.boots = False, due.at_us, 1
        if self.params.crashes_per_hour > 0:
            life_us = round(self.random.expovariate(self.params.crashes_per_hour) * HOUR_US)
            self.plan(due.at_us + life_us, "crash", due.vm, pid=vm.pid)
        return [SimDone(due.vm, "start", machine=vm.machine())]

    def _verb(self, due: Due, vm: SimVm | None) -> SimDone:
        if vm is None:
            return SimDone(due.vm, due.what, NoSuchVm(f"no process of {due.vm} on {self.node}"))
        if vm.status in ("incoming", "sent"):
            return SimDone(due.vm, due.what, CannotMove(f"{due.vm} is {vm.status}: no {due.what} of it"))
        match due.what:
            case "pause" if vm.status == "running":
                vm.status = "paused"
            case "resume" if vm.status in ("paused", NO_SPACE):
                vm.status = "running"
            case "witness":
                return SimDone(due.vm, due.what, machine=vm.machine())
            case "reset":
                vm.status = "paused" if vm.status == "paused" else "running"
                vm.resets, vm.boots, vm.running_us, vm.hung_us = vm.resets + 1, vm.boots + 1, due.at_us, 0
                vm.stuck = vm.blue = False
                simfit.emptied(self, vm)
        return SimDone(due.vm, due.what)

    def _end(self, name: str, cause: GoneCause = GoneCause.UNKNOWN, sentence: str = "") -> MachineChanged:
        vm = self.vms.pop(name)
        if vm.address:
            moves.gone(self, vm)
        self.pool.close(Holder(self.node, name, vm.spec.generation))
        simbackups.forget(self.pool, vm.spec.disks, crashed=cause in (GoneCause.CRASHED, GoneCause.UNKNOWN))
        return MachineChanged(name, vm.spec.generation, "gone", cause, sentence)


def _cause(vm: SimVm, otherwise: GoneCause) -> GoneCause:
    """A guest that had powered off ended itself, whoever reaps the process."""
    return GoneCause.GUEST if vm.status == "shutdown" else otherwise


def stalled(vm: SimVm) -> MachineChanged:
    """Its guest stands still, with a write that has no room."""
    vm.status = NO_SPACE
    return MachineChanged(vm.spec.vm, vm.spec.generation, NO_SPACE, full=vm.machine().full)


def _changed(vm: SimVm) -> MachineChanged:
    cause = GoneCause.GUEST if vm.status == "shutdown" else GoneCause.UNKNOWN
    return MachineChanged(vm.spec.vm, vm.spec.generation, vm.status, cause)
