"""The asyncio around the agent's steppers: carries orders, facts and results between the bus, the disk and the driver."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from libs.common.bus import Bus, BusError, Incoming
from libs.common.clock import Clock
from libs.common.host.tasks import Tasks, answer
from libs.common.messages import Envelope, Fact, Hello, NodeId, Reply, decode_reply, encode
from libs.common.protocol import PROTOCOL, PROTOCOL_MIN
from libs.common.telemetry import span
from proto.compute import Capabilities, ReportNode, ReportVm
from proto.node import Beat, Heard, OrderGreeting, OrderMemory, OrderVm, VmBeat
from proto.nodes import OrderLeave, ReportLeft
from proto.plan import OrderPlan
from proto.services import ORDERING
from services.node.chores import Chores, GiveUp, Work
from services.node.copies_watch import CopiesWatch
from services.node.drivers import NO_SPACE, Driver, DriverError, Machine
from services.node.figures import Verbs, figures
from services.node.host.memory import available_of
from services.node.keep import Keep
from services.node.lease_asks import LeaseAsks
from services.node.leasing import Leasing, leased
from services.node.memory_keeper import MemoryKeeper
from services.node.model import Act, Agent, AnswerOrder, Greet, Kept, Persist, SendFact
from services.node.pictures import Pictures
from services.node.plan import PLAN_KEY
from services.node.planning import Planning
from services.node.pool_watch import PoolWatch
from services.node.reading import read_order
from services.node.verbs import carried_out
from services.node.vitals_watch import VitalsWatch
from services.node.work import fact_of

log = logging.getLogger(__name__)

TICK_S = 0.5
BEAT_S = 1.0
GUEST_S = 0.1
"""a guest that has booted answers in milliseconds; a report does not wait for one that has not"""
FACT_TIMEOUT_S = 2.0
RETRY_S = 1.0
LEARN_S_MAX = 2.0


type Effect = Persist | Act | AnswerOrder | SendFact | Greet | Work | GiveUp


class AgentRunner:
    """One node's agent on one bus and driver. `load` gives (free MiB, load average) for the heartbeat;
    not_enforced: what is to be said beside the driver's own words; pictures: where those of guests that may be dead are kept.
    watchdog: the folder of the state that this node's has; None: there is none, so nothing here is guarded."""

    def __init__(
        self, node: NodeId, boot_id: str, driver: Driver, keep: Keep, bus: Bus, clock: Clock,
        load: Callable[[], tuple[int, float]], not_enforced: tuple[str, ...] = (),
        pictures: Pictures | None = None, watchdog: Path | None = None,
    ) -> None:  # fmt: skip
        self.node = node
        self.boot_id = boot_id
        self.chores = Chores()
        self.agent = Agent(node, quiet=self.chores.quiet)
        self._capabilities: Capabilities | None = None
        self._driver = driver
        self._keep = keep
        self._bus = bus
        self._clock = clock
        self._load = load
        self._not_enforced = not_enforced
        self._tasks = Tasks()
        self._disk = asyncio.Lock()
        self._verbs = Verbs()
        self._requests_lost = 0
        self.leave_asked = asyncio.Event()
        """the node is to be removed (leaving.py)"""
        self._replied = asyncio.Event()
        self.leasing = (
            Leasing(node, boot_id, watchdog, bus, self._learn, self._to_ha, lambda: self._tasks.start(self.renew()))
            if watchdog is not None
            else None
        )
        self.pools = PoolWatch(node, boot_id, driver, self.agent, bus, clock, self._do)
        self.vitals = VitalsWatch(node, boot_id, driver, bus, clock, lambda: self.agent.vms, pictures)
        self.copies = CopiesWatch(node, boot_id, driver, bus, clock)
        self._working: dict[str, asyncio.Task[None]] = {}
        self._given_up: set[str] = set()
        self.memory = MemoryKeeper(node, driver, clock, self._to_memory)
        self.planning = Planning(
            node, driver, bus, clock, lambda effect: self._do((effect,)), self._tasks.start, self._machines
        )

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Adopt what runs, then hear orders. Raises DriverError, BusError, msgspec.DecodeError (a damaged record)."""
        machines = await self._driver.open()
        kept = self._keep.load()
        if self.leasing is not None:
            await self.leasing.start()
            await LeaseAsks(self.node, self.leasing.line, self._bus).start()
        self._capabilities = await self._able()
        await self._bus.serve(f"order.{self.node}", self._heard)
        await self._bus.serve(f"ask.{self.node}.metrics", self._figures)
        await self.planning.start()
        await self.vitals.start()
        await self.pools.look()
        self._do(self.agent.on_open(kept, machines, self._now()))
        self.chores.incarnation = self.agent.incarnation
        self._tasks.start(self._watch())
        self._tasks.start(self._tick())
        self._tasks.start(self._beat())
        self._tasks.start(self._greet())
        self._tasks.start(self.memory.run())
        self._tasks.start(self.pools.run())
        self._tasks.start(self.vitals.run())
        self._tasks.start(self.copies.run())

    async def stop(self) -> None:
        """The VMs run on."""
        await self._tasks.stop()
        if self.leasing is not None:
            await self.leasing.stop()
        await self._driver.close()

    # --- in -------------------------------------------------------------------------------------------------------

    async def _heard(self, message: Incoming) -> None:
        order = read_order(message.data)
        if isinstance(order, str):
            await message.respond(encode(Heard(accepted=False, sentence=order)))
            return
        if isinstance(order, OrderVm):
            self._do(self.agent.on_order(message, order, self._now()))
        elif isinstance(order, OrderGreeting):
            self._do(self.agent.on_greeting(message, order, self._now()))
        elif isinstance(order, OrderMemory):
            await message.respond(encode(self.memory.on_order(order, self.agent.incarnation)))
        elif isinstance(order, OrderLeave):
            await message.respond(encode(self._on_leave(order)))
        elif isinstance(order, OrderPlan):
            self.planning.on_order(message, order)
        else:
            self._do(self.chores.on_order(message, order, self._now()))
        self.chores.incarnation = max(self.chores.incarnation, self.agent.incarnation)
        self.planning.plans.incarnation = self.chores.incarnation

    def _on_leave(self, order: OrderLeave) -> Heard:
        if order.incarnation < self.agent.incarnation:
            said = f"the order is of incarnation {order.incarnation} of the log; this node has met {self.agent.incarnation}"
            return Heard(accepted=False, sentence=said)
        self.leave_asked.set()
        return Heard(accepted=True)

    def running(self) -> list[str]:
        """VMs with a process here, or that are being started."""
        return sorted(name for name, vm in self.agent.vms.items() if vm.machine is not None or vm.busy)

    async def tell_left(self, fact: ReportLeft) -> Reply | None:
        """Also after `stop`. None: nobody heard it."""
        return await self._request("compute", msgspec.structs.replace(fact, heard=self.agent.met), "", "")

    def _machines(self) -> dict[str, Machine]:
        return {name: vm.machine for name, vm in self.agent.vms.items() if vm.machine is not None}

    async def _figures(self, message: Incoming) -> None:
        await message.respond(encode(figures(self.agent, self.chores, self._verbs, self._requests_lost)))

    async def _watch(self) -> None:
        async for change in self._driver.changes():
            if change.status == NO_SPACE:
                await self.pools.look()
            explained = self.leasing.explained(change) if self.leasing is not None else change
            self._do(self.agent.on_change(explained, self._now()))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._do(self.agent.on_tick(self._now()))
            self._do(self.chores.on_tick(self._now()))
            self.planning.on_tick()

    def _cells(self) -> tuple[int, ...]:
        """What is left in each cell, in the order in which the capabilities name them."""
        can = self._capabilities
        if can is None or can.driver != "qemu" or can.share != 1 or len(can.cells) < 2:
            return ()
        return available_of(can.cells)

    async def _beat(self) -> None:
        while True:
            free_mib, load = self._load()
            vms = tuple(
                VmBeat(v.kept.vm, v.machine.generation, v.machine.status) for v in self.agent.vms.values() if v.machine
            )
            beat = Beat(self.node, self.boot_id, self._now(), free_mib, load, vms, self._cells())
            await self._try_publish(encode(beat))
            await asyncio.sleep(BEAT_S)

    async def _try_publish(self, data: bytes) -> None:
        try:
            await self._bus.publish(f"tel.{self.node}.beat", data)
        except BusError as error:
            log.debug("a heartbeat was not sent: %s", error)

    async def _greet(self, greeting: int = 0) -> None:
        """Say what this node is, and have every order repeated; until each was heard. greeting: the one that is answered so."""
        heard = self.agent.met
        waiting: list[tuple[str, Fact]] = [("compute", self._report(greeting))]
        waiting += [(service, Hello(node=self.node, boot_id=self.boot_id, heard=heard)) for service in ORDERING]
        while waiting:
            waiting = [(s, f) for s, f in waiting if not await self._told(s, f)]
            if waiting:
                await asyncio.sleep(RETRY_S)

    def _report(self, greeting: int = 0) -> ReportNode:
        assert self._capabilities is not None
        return ReportNode(
            node=self.node,
            capabilities=self._capabilities,
            boot_id=self.boot_id,
            greeting=greeting,
            heard=self.agent.met,
        )

    async def renew(self) -> bool:
        """Something of this host may be another than it was: say so where it is. False: nobody heard. Raises DriverError."""
        if self._capabilities is None:
            return False  # it was not said at all yet
        found = await self._able()
        if found == self._capabilities:
            return True
        before, self._capabilities = self._capabilities, found
        heard = await self._told("compute", self._report())
        if not heard:
            self._capabilities = before
        return heard

    async def _able(self) -> Capabilities:
        found = await self._driver.capabilities()
        spoken = {"protocol": PROTOCOL, "protocol_min": PROTOCOL_MIN}
        found = msgspec.structs.replace(found, not_enforced=found.not_enforced + self._not_enforced, **spoken)
        return self.leasing.able(found) if self.leasing is not None else msgspec.structs.replace(found, lease_pools=())

    async def _told(self, service: str, fact: Fact) -> bool:
        reply = await self._request(service, fact, "", "")
        if reply is None or reply.status == "unavailable":
            return False
        if reply.status != "accepted":
            log.error("%s does not take this node: %s %s", service, reply.sentence, reply.remedy)
        return reply.status == "accepted"

    # --- out ------------------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case AnswerOrder(ref, heard):
                    self._tasks.start(answer(ref, encode(heard)))
                case Persist(kept):
                    self._tasks.start(self._persist(kept))
                case Act():
                    self._tasks.start(self._act(effect))
                case SendFact():
                    self._tasks.start(self._send(effect))
                case Greet(greeting):
                    self._tasks.start(self._greet(greeting))
                case Work():
                    self._working[effect.key] = self._tasks.start(self._work(effect))
                case GiveUp(key):
                    self._given_up.add(key)
                    self._working[key].cancel()

    async def _persist(self, kept: Kept) -> None:
        """Nothing is done about this VM until this is on disk; a full disk is waited out."""
        while True:
            try:
                async with self._disk:
                    await asyncio.to_thread(self._keep.store, kept)
                break
            except OSError as error:
                log.error("cannot keep the order for %s: %s", kept.vm, error)
                await asyncio.sleep(RETRY_S)
        self._do(self.agent.on_persisted(kept))

    async def _act(self, act: Act) -> None:
        log.info("%s: %s", act.vm, act.verb)
        machine: Machine | None = None
        error = ""
        begun = time.perf_counter()
        try:
            with span(f"agent {act.verb}", act.trace, vm=act.vm, node=self.node):
                machine = await leased(self.leasing, act, lambda: self._carried_out(act))
        except DriverError as failed:
            error = str(failed) or type(failed).__name__
            log.warning("%s: %s failed: %s", act.vm, act.verb, error)
        except Exception as bug:
            error = f"internal error: {bug!r}"
            log.exception("%s: %s", act.vm, act.verb)
        self._verbs.note(act.verb, bool(error), time.perf_counter() - begun)
        self._do(self.agent.on_done(act.vm, act.verb, error, machine, self._now()))

    async def _carried_out(self, act: Act) -> Machine | None:
        return await (self.vitals.witness(act.vm) if act.verb == "witness" else carried_out(self._driver, act))

    async def _work(self, work: Work) -> None:
        fact = None
        try:
            fact = await fact_of(self._driver, self.node, work.chore)
        except asyncio.CancelledError:
            if work.key not in self._given_up:
                raise
            log.info("%s of version %d is given up", work.key, work.chore.version)
        self._given_up.discard(work.key)
        self._do(self.chores.on_done(work.key, work.chore.version, fact, self._now()))

    async def _send(self, effect: SendFact) -> None:
        fact = effect.fact
        if isinstance(fact, ReportVm):
            fact = await self._filled(fact)
        reply = await self._request(effect.service, fact, effect.correlation, effect.trace)
        if reply is None:
            return
        if effect.key == PLAN_KEY:
            self.planning.plans.on_reply(effect.serial, reply)
        elif effect.service == "compute":
            self._do(self.agent.on_reply(effect.key, effect.serial, reply, self._now()))
            self._replied.set()
        else:
            self.chores.on_reply(effect.key, effect.serial, reply)

    async def _filled(self, fact: ReportVm) -> ReportVm:
        """With the lease's epoch, and what the driver can say at once; a guest that is still booting is not waited for."""
        if self.leasing is not None:
            fact = msgspec.structs.replace(fact, epoch=self.leasing.epoch)
        if not fact.pid:
            return fact
        try:
            info = await asyncio.wait_for(self._driver.info(fact.vm, GUEST_S), 1.0)
        except (DriverError, TimeoutError):
            return fact
        return msgspec.structs.replace(fact, boot_id=info.boot_id, pcpus=info.pcpus, addresses=info.addresses)

    async def _request(self, service: str, fact: Fact, correlation: str, trace: str) -> Reply | None:
        envelope = Envelope(
            id=self._clock.new_id(), data=msgspec.Raw(encode(fact)), actor=f"node:{self.node}",
            correlation=correlation, at_us=self._now(), trace=trace,
        )  # fmt: skip
        try:
            data = await self._bus.request(f"fact.{self.node}.{service}", encode(envelope), timeout_s=FACT_TIMEOUT_S)
            return decode_reply(data)
        except BusError as error:
            self._requests_lost += 1
            log.debug("%s did not hear a fact: %s", service, error)
            return None
        except msgspec.MsgspecError as bad:
            log.error("%s answered what is no reply: %s", service, bad)
            return None

    async def _learn(self, vms: dict[str, int]) -> tuple[str, ...] | None:
        """Those of these VMs that the log has given to another: each is reported anew. None: not all were answered."""
        if any((vm := self.agent.vms.get(name)) is None or vm.busy for name in vms):
            return None
        self._do(self.agent.on_connected())
        serials = {name: self.agent.vms[name].serial for name in vms}
        try:
            async with asyncio.timeout(LEARN_S_MAX):
                while any(self.agent.vms[name].heard < serial for name, serial in serials.items()):
                    self._replied.clear()
                    await self._replied.wait()
        except TimeoutError:
            return None
        return tuple(sorted(name for name in vms if self.agent.vms[name].disowned))

    async def _to_ha(self, fact: Fact) -> Reply | None:
        return await self._request("ha", msgspec.structs.replace(fact, heard=self.agent.met), "", "")

    async def _to_memory(self, fact: Fact) -> Reply | None:
        return await self._request("memory", msgspec.structs.replace(fact, heard=self.agent.met), "", "")

    def _now(self) -> int:
        return self._clock.now_us()
