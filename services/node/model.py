"""Wanted versus seen, on one node. A stepper: orders, results, changes and time in; effects out. No I/O, no clock.

One VM in the eyes of its agent:

    unknown --order(g, v)--> persisted --start--> running <--pause/resume--> paused
                                 |failed             |process ended
                                 v                   v
                              failed              gone (of generation g: never started again under g)

Rules: an order that is older than (generation, incarnation, version) seen is refused; the highest seen, and that a start is about
to be made, are on disk before anything is done; a process of an older generation is killed before a newer one starts; nothing is
reported while something is being done; a report that the service answers with NOT_YOURS kills the VM.

After a restore of the log (a higher incarnation) orders of the older one count no more, not even those that were accepted. A
greeting is answered once that is on disk, nothing is being done any more, and every VM was reported, and heard, since. A
generation is started only by the incarnation that decided it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from libs.common.messages import NodeId, Reply, incarnation_of
from proto.compute import GoneCause
from proto.node import Heard, OrderGreeting, OrderVm, Want
from proto.space import PoolNow
from services.node import drift, fitting, moving, space
from services.node.compare import next_step
from services.node.drivers import AT_HAND, NO_SPACE, PANICKED, Machine, MachineChanged
from services.node.effects import NODE_RECORD as NODE_RECORD
from services.node.effects import Act as Act
from services.node.effects import AnswerOrder as AnswerOrder
from services.node.effects import Greet as Greet
from services.node.effects import Kept as Kept
from services.node.effects import NodeEffect as NodeEffect
from services.node.effects import Persist as Persist
from services.node.effects import SendFact as SendFact
from services.node.reports import report_of
from services.node.vm import REPORT_MAX_US, REPORT_US, Vm, dots, stamp

AGAIN_US = 500_000
"""before a verb that failed is tried again"""


@dataclass(slots=True)
class Agent:
    """The VMs of one node. `addresses` and the like are asked of the driver, never kept here."""

    node: NodeId
    now_us: int = 0
    vms: dict[str, Vm] = field(default_factory=dict)
    incarnation: int = 1
    """the highest that any order named"""
    met: int = 1
    """the highest that is on disk"""
    greeting: int = 0
    """the greeting that is to be answered; 0: none"""
    asked: bool = False
    """every VM was reported since that greeting"""
    pools: dict[str, PoolNow] = field(default_factory=dict)
    """as they were last seen"""
    quiet: Callable[[], bool] = lambda: True
    """nothing else that an older incarnation ordered is being done (Chores.quiet)"""

    # --- coming up ------------------------------------------------------------------------------------------------

    def on_open(self, kept: Iterable[Kept], machines: Iterable[Machine], now_us: int) -> list[NodeEffect]:
        """What lay on disk and what the driver found running. Everything found is reported; nothing is done before orders
        or answers say so."""
        self.now_us = now_us
        for record in kept:
            if record.vm == NODE_RECORD:
                self.incarnation = self.met = record.incarnation
                continue
            self.vms[record.vm] = Vm(record)
        for machine in machines:
            vm = self.vms.setdefault(machine.vm, Vm(Kept(machine.vm, machine.generation, 0, launched=True)))
            vm.machine, vm.resets = machine, machine.resets
            vm.unseen = machine.status == PANICKED
            if machine.status == NO_SPACE:
                space.stopped(vm, self.pools, now_us)
        out: list[NodeEffect] = []
        for vm in self._sorted():
            if vm.unseen:
                out += self._reconcile(vm)
            elif vm.machine is not None or vm.kept.launched:
                out += self._changed(vm)
        return out

    # --- orders ---------------------------------------------------------------------------------------------------

    def on_order(self, ref: object, order: OrderVm, now_us: int) -> list[NodeEffect]:
        self.now_us = now_us
        if order.incarnation < self.incarnation:
            return [_of_the_past(ref, order.incarnation, self.incarnation)]
        out = self._meet(order.incarnation)
        vm = self.vms.get(order.vm)
        if vm is None:
            vm = self.vms[order.vm] = Vm(Kept(order.vm, 0, 0))
        newest = max(vm.kept.stamp, stamp(vm.order))
        if stamp(order) < newest:
            said = f"order {dots(stamp(order))} of {order.vm} is older than {dots(newest)}"
            return [*out, AnswerOrder(ref, Heard(accepted=False, sentence=said))]
        out.append(AnswerOrder(ref, Heard(accepted=True)))
        if vm.order is not None and stamp(vm.order) == stamp(order):
            return out
        if order.generation > vm.kept.generation:
            space.forget(vm)
            vm.failed, vm.sentence, vm.cause = "", "", GoneCause.UNKNOWN
            vm.sent, vm.resumed_us = None, 0
            if vm.machine is None:
                vm.resets = 0
        vm.order, vm.asked_us, vm.disowned = order, 0, False
        vm.unsent, vm.again_us, vm.sending_us = "", 0, 0
        self._dirty(vm)
        return [*out, *self._reconcile(vm)]

    def on_greeting(self, ref: object, order: OrderGreeting, now_us: int) -> list[NodeEffect]:
        """The log was restored and wants to know all that runs here."""
        self.now_us = now_us
        if order.incarnation < self.incarnation:
            return [_of_the_past(ref, order.incarnation, self.incarnation)]
        out = self._meet(order.incarnation)
        self.greeting, self.asked = order.incarnation, False
        return [*out, AnswerOrder(ref, Heard(accepted=True)), *self._greeted()]

    def _meet(self, incarnation: int) -> list[NodeEffect]:
        """A higher incarnation ends all orders of the older ones."""
        if incarnation <= self.incarnation:
            return []
        self.incarnation = incarnation
        for vm in self._sorted():
            vm.order, vm.asked_us, vm.disowned = None, 0, False
        return [Persist(Kept(NODE_RECORD, 0, 0, incarnation=incarnation))]

    def _greeted(self) -> list[NodeEffect]:
        """The next step towards the answer to a greeting, once the incarnation is on disk: report every VM; say so."""
        if (
            not self.greeting
            or self.met < self.greeting
            or any(vm.busy for vm in self.vms.values())
            or not self.quiet()
        ):
            return []
        out: list[NodeEffect] = []
        if not self.asked:
            self.asked = True
            for vm in self._sorted():
                self._dirty(vm)
                out.append(self._report(vm))
        if all(vm.heard == vm.serial for vm in self.vms.values()):
            out.append(Greet(self.greeting))
            self.greeting = 0
        return out

    def on_persisted(self, kept: Kept) -> list[NodeEffect]:
        if kept.vm == NODE_RECORD:
            self.met = max(self.met, kept.incarnation)
            return self._greeted()
        vm = self.vms[kept.vm]
        launching = vm.busy == "launch"
        vm.kept, vm.busy = kept, ""
        order = vm.order
        if launching and order is not None and order.generation == kept.generation and order.spec is not None:
            return self._act(vm, "receive" if order.want is Want.INCOMING else "start")
        return self._reconcile(vm)

    # --- what the driver says -------------------------------------------------------------------------------------

    def on_done(self, name: str, verb: str, error: str, machine: Machine | None, now_us: int) -> list[NodeEffect]:
        """A verb has ended; `error` is the driver's sentence, empty when it was done."""
        self.now_us = now_us
        vm = self.vms[name]
        vm.busy = ""
        if verb == "witness":
            vm.unseen, vm.screen = False, machine.screen if machine is not None else None
            return self._changed(vm)
        if verb == "look":
            return self._changed(vm) if drift.looked(vm, machine, now_us) else self._reconcile(vm)
        if error and verb not in ("start", "receive", "send"):
            vm.again_us = now_us + AGAIN_US
        match verb:
            case "start" | "receive":
                vm.machine, vm.resets = machine, 0
                vm.failed = error if machine is None else ""
                if vm.early is not None and machine is not None:
                    vm.machine, vm.cause, vm.sentence = None, vm.early.cause, vm.early.sentence
                vm.early = None
                fitting.born(vm, vm.fitting, machine, now_us)
            case "fit" if not error:
                fitting.done(vm, machine, now_us)
            case "kill" if not error:
                vm.cause = vm.cause if vm.cause is not GoneCause.UNKNOWN else GoneCause.ORDERED
                vm.machine = None
            case "pause" if not error and vm.machine is not None:
                if vm.machine.status == "running":
                    vm.machine = msgspec.structs.replace(vm.machine, status="paused")
                moving.went_on(vm, now_us)
            case "resume" if not error and vm.machine is not None:
                vm.machine = msgspec.structs.replace(vm.machine, status="running", full=())
                moving.went_on(vm, now_us)
                space.went_on(vm, now_us)
            case "shutdown" if not error:
                space.went_on(vm, now_us)
            case "send" | "recall" | "activate":
                moving.done(vm, verb, error, machine)
            case "reset" if not error:
                vm.resets += 1
                if vm.machine is not None and vm.machine.status == PANICKED:
                    vm.machine = msgspec.structs.replace(vm.machine, status="running")
                space.went_on(vm, now_us)
                fitting.reset(vm, now_us)
        if (stalled := space.taken(vm)) is not None:
            return self.on_change(stalled, now_us)
        return self._changed(vm)

    def on_change(self, change: MachineChanged, now_us: int) -> list[NodeEffect]:
        """Something happened to a VM that no verb of ours did."""
        self.now_us = now_us
        vm = self.vms.get(change.vm)
        if vm is not None and vm.busy in ("start", "receive") and change.status == "gone":
            vm.early = change
            return []
        if vm is None or vm.machine is None or vm.machine.generation != change.generation:
            return []
        if space.keeps(vm, change):
            return []
        if change.status == "gone":
            ordered = vm.asked_us > 0 or (vm.order is not None and vm.order.want is Want.GONE)
            vm.cause = GoneCause.ORDERED if ordered else change.cause
            vm.sentence, vm.machine = change.sentence, None
        elif change.unsent or change.status == "sent":
            moving.changed(vm, change)
        else:
            space.changed(vm, change, self.pools, now_us)
            if change.status == PANICKED:
                vm.panic, vm.screen, vm.unseen = change.sentence, None, True
                if not vm.busy:  # what it shows is kept before anything is said, as it may be ended then
                    return self._act(vm, "witness")
            if change.was_reset:
                fitting.reset(vm, now_us)
        if change.stirred:
            fitting.stirred(vm, now_us)
        return self._changed(vm)

    def on_pools(self, pools: Iterable[PoolNow], now_us: int) -> list[NodeEffect]:
        """They were looked at. VMs that wait for room may have it."""
        self.now_us = now_us
        self.pools = {pool.name: pool for pool in pools}
        return [effect for vm in self._sorted() if space.waits(vm) for effect in self._reconcile(vm)]

    @property
    def short_of_space(self) -> bool:
        return any(space.waits(vm) for vm in self.vms.values())

    # --- what the service says ------------------------------------------------------------------------------------

    def on_reply(self, key: str, serial: int, reply: Reply, now_us: int) -> list[NodeEffect]:
        """The answer to a report. NOT_YOURS: the log says that this generation is not to run here any more."""
        self.now_us = now_us
        vm = self.vms.get(key)
        if vm is None or reply.status == "unavailable" or reply.reason == "RECONCILING":
            return []
        vm.heard = max(vm.heard, serial)
        if reply.status == "refused" and reply.reason == "NOT_YOURS" and serial == vm.serial:
            vm.disowned = True
            return self._reconcile(vm)
        return self._greeted()

    def on_tick(self, now_us: int) -> list[NodeEffect]:
        """About twice a second: repeats unheard reports and looks at deadlines."""
        self.now_us = now_us
        out: list[NodeEffect] = []
        for vm in self._sorted():
            out += self._reconcile(vm)
            if vm.heard < vm.serial and vm.next_us <= now_us and not vm.busy:
                out.append(self._report(vm))
        return out + self._greeted()

    def on_connected(self) -> list[NodeEffect]:
        """The bus is back: everything that runs is reported again (the service may have forgotten nothing, but may have changed
        its mind meanwhile)."""
        out: list[NodeEffect] = []
        for vm in self._sorted():
            if not vm.busy and (vm.machine is not None or vm.heard < vm.serial):
                self._dirty(vm)
                out.append(self._report(vm))
        return out

    # --- the one comparison ---------------------------------------------------------------------------------------

    def _reconcile(self, vm: Vm) -> list[NodeEffect]:
        """The one next thing to do for a VM, if any."""
        if vm.busy or self.now_us < vm.again_us:
            return []
        step = next_step(vm, self.now_us, self.pools)
        if isinstance(step, Kept):
            return self._persist(vm, step)
        if step == "start" and vm.order is not None:
            return self._start(vm, vm.order)
        return self._act(vm, step) if step else []

    def _start(self, vm: Vm, order: OrderVm) -> list[NodeEffect]:
        """Once per generation: where a start was begun before, its process has ended, and only a new generation starts again. A
        start that was decided before the log was restored may have been ended, and followed by another, since."""
        if vm.kept.launched or order.spec is None or vm.failed:
            return []
        if incarnation_of(order.generation) != order.incarnation:
            vm.failed = "its start was decided before the log was restored"
            return self._changed(vm)
        return self._persist(vm, msgspec.structs.replace(vm.kept, launched=True), "launch")

    # --- small things ---------------------------------------------------------------------------------------------

    def _sorted(self) -> list[Vm]:
        return [self.vms[name] for name in sorted(self.vms)]

    def _act(self, vm: Vm, verb: str) -> list[NodeEffect]:
        vm.busy = verb
        order = vm.order
        address = order.address if verb == "send" and order is not None else ""
        spec = order.spec if verb in ("start", "receive", "fit") and order is not None else None
        vm.fitting = spec or vm.fitting
        move = moving.way(order) if order is not None and verb in ("receive", "send") else AT_HAND
        guards = verb == "fit" and spec is not None and fitting.guards(vm, spec)
        return [Act(vm.kept.vm, verb, spec, order.trace if order else "", address, move, guards)]

    def _persist(self, vm: Vm, kept: Kept, busy: str = "persist") -> list[NodeEffect]:
        vm.busy = busy
        return [Persist(kept)]

    def _changed(self, vm: Vm) -> list[NodeEffect]:
        self._dirty(vm)
        return [self._report(vm), *self._reconcile(vm)]

    def _dirty(self, vm: Vm) -> None:
        vm.serial += 1
        vm.next_us, vm.wait_us = 0, REPORT_US

    def _report(self, vm: Vm) -> SendFact:
        vm.next_us = self.now_us + vm.wait_us
        vm.wait_us = min(vm.wait_us * 2, REPORT_MAX_US)
        order, fact = vm.order, report_of(self.node, vm, self.met)
        own = order is None or vm.drifted == vm.serial  # what somebody else did is no part of the order's story
        of = ("", "") if own or order is None else (order.correlation, order.trace)
        return SendFact(vm.kept.vm, vm.serial, "compute", fact, *of)


def _of_the_past(ref: object, incarnation: int, met: int) -> AnswerOrder:
    said = f"the order is of incarnation {incarnation} of the log; this node has met {met}"
    return AnswerOrder(ref, Heard(accepted=False, sentence=said))
