"""A node in the world: the agent's steppers around a SimHost. Its disk survives the agent; its processes survive it too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from libs.common.messages import Envelope, Fact, Hello, NodeId, Reply, encode
from libs.world.chores import worked
from libs.world.clocks import Clock
from libs.world.leasing import GUARDED, LeaseClient
from libs.world.memory import NodeMemory
from libs.world.watch import Watch
from proto.compute import Capabilities, ReportNode
from proto.node import Beat, Heard, Order, OrderGreeting, OrderMemory, OrderVm
from proto.plan import OrderPlan, PlanFault
from proto.pools import PoolsBeat
from proto.services import ORDERING
from proto.space import PoolNow
from services.node.chores import Chores, GiveUp, Work
from services.node.cpu import Meter
from services.node.drivers import NO_SPACE, CannotStart, LeaseRefused, Locked, Machine, MachineChanged, NoSuchVm
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simvm import SimDone
from services.node.model import Act, Agent, AnswerOrder, Greet, Kept, Persist, SendFact
from services.node.plan import PLAN_KEY, ApplyPlan, Plans

if TYPE_CHECKING:
    from libs.world.world import World

TICK_US = 500_000
CALM_US = 2_000_000
BEAT_US = 1_000_000
PERSIST_US = (200, 4_000)
_order = msgspec.msgpack.Decoder(Order).decode

type Effect = Persist | Act | AnswerOrder | SendFact | Greet | Work | GiveUp | ApplyPlan


class NodeProcess:
    def __init__(self, world: World, name: str, params: SimParams) -> None:
        self.world = world
        self.name = name
        self.owner = f"agent:{name}"
        self.clock = Clock(world.net)
        self.host = SimHost(name, params, world.random, world.pools[name])
        id = self.host.pool.id
        self.reaches({name: f"{id}-{name}" if n else id for n, name in enumerate(world.names)}, world.names)
        self.leased = bool(world.ha)
        """it has a watchdog"""
        self.says: Capabilities | None = None
        """what it can do, where that was recorded (fork)"""
        self.address, self.health = "", (100, "")
        self.disk: dict[str, Kept] = {}
        self.agent: Agent | None = None
        self.chores = Chores()
        self.plans = Plans(NodeId(name))
        self.meter = Meter(name)
        self.memory = NodeMemory(self, params.memory_mib, params.swap_mib)
        self.watchdog = Watch(self)
        self.lease = LeaseClient(self, self.watchdog)
        self.life = 0
        self.powered = True
        self.frozen = False
        self._facts = 0
        self._beats = 0
        self._stirred = True

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
        if self.leased:
            self.watchdog.begin()
        self.greet()
        self.later(TICK_US, self._tick)
        self.later(BEAT_US, self._beat)
        if self.leased:
            self.lease.begin()

    def greet(self, greeting: int = 0) -> None:
        assert self.agent is not None
        node, heard = NodeId(self.name), self.agent.met
        report = ReportNode(
            node=node, capabilities=self._can(), boot_id=self.host.boot_id, address=self.address, greeting=greeting, heard=heard,
            health_pct=self.health[0], health_reason=self.health[1],
        )  # fmt: skip
        self._tell([("compute", report), *((s, Hello(node=node, heard=heard)) for s in ORDERING)])

    def _can(self) -> Capabilities:
        params, total_mib = self.host.params, self.memory.total_mib
        if self.says is not None:
            return replace(self.says, memory_mib=total_mib, watchdog=self.lease.guards if self.leased else self.says.watchdog)
        return Capabilities(
            accelerator="tcg", cpu_model="sim", pcpus=params.pcpus, memory_mib=total_mib,
            qemu_version="0", machine="sim", driver="simulated", pools=self.world.names, cells=params.pcpus_of_cells,
            balloon=params.balloon, memory_areas="v2" if params.balloon else "", swap_mib=params.swap_mib,
            pool_ids=self.pool_ids, watchdog=self.lease.guards, watch_at=f"{self.name}:1",
            lease_pools=self.lease_pools if self.leased else (), backup_keys=tuple(sorted(self.host.keys)),
        )  # fmt: skip

    def crash(self) -> None:
        """The agent dies; processes run on."""
        if self.agent is not None:
            self.agent = None
            self.life += 1
            self.host.drop_agent()
            self.world.net.resume(self.owner)
            self.watchdog.left()

    def power_off(self) -> None:
        self.crash()
        self.watchdog.crash()
        self.world.checker.touched = True
        self.powered = False
        self.host.power_off()

    def power_on(self) -> None:
        if not self.powered:
            self.powered = True
            self.host.power_on()
            self.clock.restart()
            self.begin()

    @property
    def owners(self) -> tuple[str, ...]:
        """Its processes, as the net knows them."""
        return self.owner, self.watchdog.owner

    def reaches(self, pool_ids: dict[str, str], lease_pools: tuple[str, ...]) -> None:
        """Of its pools, by name, the words that no other pool has; and by which it may hold a lease (pool_words: their words)."""
        self.pool_ids, self.lease_pools = pool_ids, lease_pools
        self.pool_words = tuple(dict.fromkeys(pool_ids[name] for name in lease_pools if name in pool_ids))

    def _pools_now(self, files: bool = False) -> tuple[PoolNow, ...]:
        pool = self.host.pool
        now = pool.now(files)
        return tuple(replace(now, name=name, id=id, free_mib=pool.free(name)) for name, id in self.pool_ids.items())

    @property
    def now_us(self) -> int:
        """What its agent takes the time of day to be."""
        return self.clock.wall_us

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
        """A tick that finds nothing to do, with nothing said to it since the one before, is not repeated for a while."""
        assert self.agent is not None
        if self.agent.short_of_space:
            self._pools()
        effects = [
            *self.agent.on_tick(self.now_us),
            *self.chores.on_tick(self.now_us),
            *self.plans.on_tick(self._machines(), self.now_us),
        ]
        calm = not (effects or self._stirred)
        self._stirred = False
        self._do(effects)
        self.later(CALM_US if calm else TICK_US, self._tick)

    def _beat(self) -> None:
        beat = encode(Beat(self.name, self.host.boot_id, self.now_us, 0, 0.0))
        self.world.telemetry(self.name, f"tel.{self.name}.beat", beat)
        self._beats += 1
        if self._beats % self.world.figures_s == 0:
            self._figures()
        if self.host.params.balloon:
            self.memory.second()
        self.later(BEAT_US, self._beat)

    def _figures(self) -> None:
        pools = PoolsBeat(self.name, self.host.boot_id, self.now_us, self._pools_now(files=True))
        self.world.telemetry(self.name, f"tel.{self.name}.pools", encode(pools))
        fared = self.meter.look(self.host.cpu_times(self.world.net.now_us), (0, 0), self.world.net.now_us)
        if fared is not None:
            self.world.telemetry(self.name, f"tel.{self.name}.cpu", encode(fared))

    def _look(self) -> None:
        """What the host has to tell by now; an agent that is dead hears nothing of it, and one that is stopped when it goes on."""
        net = self.world.net
        self.world.checker.touched = True
        for said in self.host.due(net.now_us):
            if self.owner in net.paused:
                self.later(0, lambda said=said: self._told(said) if self.agent is not None else None)  # type: ignore[misc]
            elif self.agent is not None:
                self._told(said)
        self.watchdog.processes()
        self.watch()

    def _told(self, said: SimDone | MachineChanged) -> None:
        assert self.agent is not None
        if isinstance(said, SimDone):
            if said.verb in GUARDED or said.verb == "fit":
                self.watchdog.processes()
                self.watchdog.over(said.vm)
            error = "" if said.error is None else str(said.error)
            if isinstance(said.error, Locked | LeaseRefused):
                self.world.guards[f"{said.verb} refused by the storage: {type(said.error).__name__}"] += 1
            self._do(self.agent.on_done(said.vm, said.verb, error, said.machine, self.now_us))
            return
        if said.status == NO_SPACE:
            self._pools()
        self._do(self.agent.on_change(said, self.now_us))

    def _pools(self) -> None:
        assert self.agent is not None
        self._do(self.agent.on_pools(self._pools_now(), self.now_us))

    def watch(self) -> None:
        """Look again when something is due."""
        net, at_us = self.world.net, self.host.next_us()
        if at_us is not None:
            net.after(max(0, at_us - net.now_us), self._look_if_due)

    def _look_if_due(self) -> None:
        at_us = self.host.next_us()
        if at_us is not None and at_us <= self.world.net.now_us:
            self._look()

    # --- out ------------------------------------------------------------------------------------------------------

    def later(self, delay_us: int, thunk: Callable[[], None]) -> None:
        life = self.life
        self.world.net.after(delay_us, lambda: thunk() if self.life == life else None, self.owner)

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._stirred = True
            match effect:
                case AnswerOrder(ref, heard):
                    assert callable(ref)
                    ref(heard)
                case Persist(kept):
                    self._persist(kept)
                case Act():
                    self._act(effect)
                case SendFact():
                    self._send(effect)
                case Greet(greeting):
                    self.greet(greeting)
                case ApplyPlan():
                    self.later(1_000, lambda e=effect: self._apply(e))  # type: ignore[misc]
                case Work():
                    self.later(20_000, lambda e=effect: self._work(e))  # type: ignore[misc]
                case GiveUp():
                    pass  # it is done by then, and what comes next undoes it

    def _act(self, act: Act) -> None:
        """What a guarded VM may do under a lease only, the watchdog is asked about first."""
        machine = self.host.vms.get(act.vm)
        spec = act.spec or (machine.spec if machine is not None else None)
        if spec is not None and (why := self.lease.may(act.vm, "start" if act.guards else act.verb, spec)):
            self.world.guards[f"no {act.verb} without a lease"] += 1
            refused = SimDone(act.vm, act.verb, CannotStart(why), machine.machine() if machine is not None else None)
            self.later(1_000, lambda: self._told(refused))
            return
        self.host.begin(act, self.world.net.now_us)
        self.watch()

    def _persist(self, kept: Kept) -> None:
        life = self.life

        def written() -> None:
            if self.life != life:
                return
            self.world.note_kept(self.name, self.disk.get(kept.vm), kept)
            self.disk[kept.vm] = kept
            assert self.agent is not None
            self._do(self.agent.on_persisted(kept))

        self.world.net.after(self.world.net.between(*PERSIST_US), written, self.owner)

    def _work(self, work: Work) -> None:
        self.world.checker.touched = True
        fact = worked(work.chore, NodeId(self.name), self.host, self.world.net.now_us, self.now_us)
        self._do(self.chores.on_done(work.key, work.chore.version, fact, self.now_us))

    def _machines(self) -> dict[str, Machine]:
        assert self.agent is not None
        return {name: vm.machine for name, vm in self.agent.vms.items() if vm.machine is not None}

    def _apply(self, effect: ApplyPlan) -> None:
        try:
            faults: tuple[PlanFault, ...] | None = self.host.schedule(effect.plan, self.world.net.now_us)
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

        self._fact(effect.service, self.lease.dated(effect.fact), effect.correlation, answered)

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
                self.later(1_000_000, again)

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
            self.world.net.send("control", self.name, step, self.owner)

        data = encode(envelope)
        target = self.world.services[service]
        self.world.net.send(self.name, "control", lambda: target.command(data, self.name, "", back), service)
