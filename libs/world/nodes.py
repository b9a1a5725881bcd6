"""A node in the world: the agent's steppers around a SimHost. Its disk survives the agent; its processes survive it too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from libs.common.messages import Envelope, Fact, Hello, NodeId, Reply, encode
from libs.world.memory import NodeMemory
from proto.compute import Capabilities, ReportNode
from proto.io import ReportDisksRemoved, ReportImage, ReportImageRemoved
from proto.node import (
    Beat,
    Heard,
    Order,
    OrderDisksMerge,
    OrderDisksRemoval,
    OrderGreeting,
    OrderImageImport,
    OrderImageRemoval,
    OrderMemory,
    OrderVm,
)
from proto.plan import OrderPlan, PlanFault
from proto.pools import PoolsBeat
from proto.snapshots import ReportDisksMerged
from services.node.chores import Chores, Work
from services.node.cpu import Meter
from services.node.drivers import NO_SPACE, BadImage, DriverError, Machine, NoSuchVm
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simvm import SimDone
from services.node.model import Act, Agent, AnswerOrder, Greet, Kept, Persist, SendFact
from services.node.plan import PLAN_KEY, ApplyPlan, Plans

if TYPE_CHECKING:
    from libs.world.world import World

TICK_US = 500_000
BEAT_US = 1_000_000
PERSIST_US = (200, 4_000)
_order = msgspec.msgpack.Decoder(Order).decode

type Effect = Persist | Act | AnswerOrder | SendFact | Greet | Work | ApplyPlan


class NodeProcess:
    def __init__(self, world: World, name: str, params: SimParams) -> None:
        self.world = world
        self.name = name
        self.host = SimHost(name, params, world.random, world.pools[name])
        self.disk: dict[str, Kept] = {}
        self.agent: Agent | None = None
        self.chores = Chores()
        self.plans = Plans(NodeId(name))
        self.meter = Meter(name)
        self.memory = NodeMemory(self, params.memory_mib, params.swap_mib)
        self.life = 0
        self.powered = True
        self.frozen = False
        self._facts = 0

    # --- life and faults ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The agent starts: adopts, reads its disk, greets."""
        if self.agent is not None or not self.powered or self.frozen:
            return
        self.life += 1
        self.chores = Chores()
        self.plans = Plans(NodeId(self.name))
        self.meter = Meter(self.name)
        self.world.checker.touched = True
        self.agent = Agent(NodeId(self.name), quiet=self.chores.quiet)
        kept = [self.disk[vm] for vm in sorted(self.disk)]
        self._do(self.agent.on_open(kept, self.host.adopt(), self.now_us))
        self.chores.incarnation = self.agent.incarnation
        self.memory.begin()
        self.greet()
        self._later(TICK_US, self._tick)
        self._later(BEAT_US, self._beat)

    def greet(self, greeting: int = 0) -> None:
        assert self.agent is not None
        params, node, heard = self.host.params, NodeId(self.name), self.agent.met
        capabilities = Capabilities(
            accelerator="tcg", cpu_model="sim", pcpus=params.pcpus, memory_mib=self.memory.total_mib,
            qemu_version="0", machine="sim", driver="simulated", pools=("default",), cells=params.pcpus_of_cells,
            balloon=params.balloon, memory_areas="v2" if params.balloon else "", swap_mib=params.swap_mib,
            pool_ids={"default": self.host.pool.id},
        )  # fmt: skip
        report = ReportNode(
            node=node, capabilities=capabilities, boot_id=self.host.boot_id, greeting=greeting, heard=heard
        )
        self._tell([("compute", report), *((s, Hello(node=node, heard=heard)) for s in ("compute", "memory", "io"))])

    def crash(self) -> None:
        """The agent dies; processes run on."""
        if self.agent is not None:
            self.agent = None
            self.life += 1
            self.host.drop_agent()

    def power_off(self) -> None:
        self.crash()
        self.world.checker.touched = True
        self.powered = False
        self.host.power_off()

    def power_on(self) -> None:
        if not self.powered:
            self.powered = True
            self.host.power_on()
            self.begin()

    @property
    def now_us(self) -> int:
        return self.world.net.now_us

    # --- in -------------------------------------------------------------------------------------------------------

    def order(self, data: bytes, answer: Callable[[Heard], None]) -> None:
        if self.agent is None:
            return
        order = _order(data)
        if isinstance(order, OrderVm):
            self._do(self.agent.on_order(answer, order, self.now_us))
        elif isinstance(order, OrderGreeting):
            self._do(self.agent.on_greeting(answer, order, self.now_us))
        elif isinstance(order, OrderMemory):
            answer(self.memory.order(order, self.agent.incarnation))
        elif isinstance(order, OrderPlan):
            self._do(self.plans.on_order(answer, order, self._machines(), self.now_us))
        else:
            self._do(self.chores.on_order(answer, order, self.now_us))
        self.chores.incarnation = max(self.chores.incarnation, self.agent.incarnation)
        self.plans.incarnation = self.chores.incarnation

    def _tick(self) -> None:
        assert self.agent is not None
        if self.agent.short_of_space:
            self._pools()
        self._do(self.agent.on_tick(self.now_us))
        self._do(self.chores.on_tick(self.now_us))
        self._do(self.plans.on_tick(self._machines(), self.now_us))
        self._later(TICK_US, self._tick)

    def _beat(self) -> None:
        beat = encode(Beat(self.name, self.host.boot_id, self.now_us, 0, 0.0))
        self.world.telemetry(self.name, f"tel.{self.name}.beat", beat)
        pools = PoolsBeat(self.name, self.host.boot_id, self.now_us, (self.host.pool.now(files=True),))
        self.world.telemetry(self.name, f"tel.{self.name}.pools", encode(pools))
        fared = self.meter.look(self.host.cpu_times(self.now_us), (0, 0), self.now_us)
        if fared is not None:
            self.world.telemetry(self.name, f"tel.{self.name}.cpu", encode(fared))
        if self.host.params.balloon:
            self.memory.second()
        self._later(BEAT_US, self._beat)

    def _look(self) -> None:
        """What the host has to tell by now; an agent that is dead hears nothing of it."""
        self.world.checker.touched = True
        for said in self.host.due(self.now_us):
            if self.agent is None:
                continue
            if isinstance(said, SimDone):
                error = "" if said.error is None else str(said.error)
                self._do(self.agent.on_done(said.vm, said.verb, error, said.machine, self.now_us))
            else:
                if said.status == NO_SPACE:
                    self._pools()
                self._do(self.agent.on_change(said, self.now_us))
        self.watch()

    def _pools(self) -> None:
        assert self.agent is not None
        self._do(self.agent.on_pools((self.host.pool.now(),), self.now_us))

    def watch(self) -> None:
        """Look again when something is due."""
        at_us = self.host.next_us()
        if at_us is not None:
            self.world.net.after(max(0, at_us - self.now_us), self._look_if_due)

    def _look_if_due(self) -> None:
        at_us = self.host.next_us()
        if at_us is not None and at_us <= self.now_us:
            self._look()

    # --- out ------------------------------------------------------------------------------------------------------

    def _later(self, delay_us: int, thunk: Callable[[], None]) -> None:
        life = self.life
        self.world.net.after(delay_us, lambda: thunk() if self.life == life else None)

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case AnswerOrder(ref, heard):
                    assert callable(ref)
                    ref(heard)
                case Persist(kept):
                    self._persist(kept)
                case Act():
                    self.host.begin(effect, self.now_us)
                    self.watch()
                case SendFact():
                    self._send(effect)
                case Greet(greeting):
                    self.greet(greeting)
                case ApplyPlan():
                    self._later(1_000, lambda e=effect: self._apply(e))  # type: ignore[misc]
                case Work():
                    self._later(20_000, lambda e=effect: self._work(e))  # type: ignore[misc]

    def _persist(self, kept: Kept) -> None:
        life = self.life

        def written() -> None:
            if self.life != life:
                return
            self.world.note_kept(self.name, self.disk.get(kept.vm), kept)
            self.disk[kept.vm] = kept
            assert self.agent is not None
            self._do(self.agent.on_persisted(kept))

        self.world.net.after(self.world.net.between(*PERSIST_US), written)

    def _work(self, work: Work) -> None:
        node, chore, pool = NodeId(self.name), work.chore, self.host.pool
        fact: Fact | None = None
        try:
            match chore:
                case OrderDisksRemoval():
                    pool.remove(chore.disks)
                    fact = ReportDisksRemoved(
                        node=node, vm=chore.vm, order_version=chore.version, order_incarnation=chore.incarnation
                    )
                case OrderDisksMerge():
                    pool.merge_at_rest(chore.vm, chore.disks)
                    fact = ReportDisksMerged(
                        node=node, vm=chore.vm, order_version=chore.version, order_incarnation=chore.incarnation
                    )
                case OrderImageImport():
                    if chore.source is not None:
                        info = pool.make_image(chore.pool, chore.image, chore.source)
                    else:
                        info = pool.import_image(chore.pool, chore.image, chore.file, chore.format, chore.sha256)
                    fact = ReportImage(
                        node=node,
                        image=chore.image,
                        order_version=chore.version,
                        order_incarnation=chore.incarnation,
                        info=info,
                    )
                case OrderImageRemoval():
                    pool.remove_image(chore.pool, chore.image)
                    fact = ReportImageRemoved(
                        node=node, image=chore.image, order_version=chore.version, order_incarnation=chore.incarnation
                    )
        except BadImage as bad:
            assert isinstance(chore, OrderImageImport)
            fact = ReportImage(
                node=node,
                image=chore.image,
                order_version=chore.version,
                order_incarnation=chore.incarnation,
                sentence=str(bad),
            )
        except DriverError:
            fact = None
        self._do(self.chores.on_done(work.key, chore.version, fact, self.now_us))

    def _machines(self) -> dict[str, Machine]:
        assert self.agent is not None
        return {name: vm.machine for name, vm in self.agent.vms.items() if vm.machine is not None}

    def _apply(self, effect: ApplyPlan) -> None:
        try:
            faults: tuple[PlanFault, ...] | None = self.host.schedule(effect.plan, self.now_us)
        except NoSuchVm:
            faults = None
        self.plans.on_applied(effect.plan, effect.revision, faults)
        self._do(self.plans.on_tick(self._machines(), self.now_us))

    def _send(self, effect: SendFact) -> None:
        def answered(reply: Reply) -> None:
            if effect.key == PLAN_KEY:
                self.plans.on_reply(effect.serial, reply)
            elif effect.service == "compute":
                assert self.agent is not None
                self._do(self.agent.on_reply(effect.key, effect.serial, reply, self.now_us))
            else:
                self.chores.on_reply(effect.key, effect.serial, reply)

        self._fact(effect.service, effect.fact, effect.correlation, answered)

    def tell(self, service: str, fact: Fact, answered: Callable[[Reply], None]) -> None:
        """Once; whoever tells sees to it that it is told again."""
        self._fact(service, fact, "", answered)

    def _tell(self, waiting: list[tuple[str, Fact]]) -> None:
        left = dict(enumerate(waiting))

        def heard(n: int, reply: Reply) -> None:
            if reply.status == "accepted":
                left.pop(n, None)

        def again() -> None:
            for n, (service, fact) in list(left.items()):
                self._fact(service, fact, "", lambda reply, n=n: heard(n, reply))  # type: ignore[misc]
            if left:
                self._later(1_000_000, again)

        again()

    def _fact(self, service: str, fact: Fact, correlation: str, answered: Callable[[Reply], None]) -> None:
        self._facts += 1
        life = self.life
        envelope = Envelope(
            id=f"{self.name}-fact-{self._facts}", data=msgspec.Raw(encode(fact)), actor=f"node:{self.name}",
            correlation=correlation, at_us=self.now_us,
        )  # fmt: skip

        def back(reply: Reply) -> None:
            step = lambda: answered(reply) if self.life == life else None  # noqa: E731
            self.world.net.send("control", self.name, step)

        data = encode(envelope)
        target = self.world.services[service]
        self.world.net.send(self.name, "control", lambda: target.command(data, self.name, "", back))
