"""The asyncio around the node's plan: applies it by the driver, looks at the CPU counters once a second, answers about one VM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import msgspec

from libs.common.bus import Bus, BusError, Incoming
from libs.common.clock import Clock
from libs.common.messages import NodeId, encode
from proto.plan import AskSchedule, OrderPlan, PlanFault, VmSchedule
from services.node.cpu import Meter, schedule
from services.node.drivers import Driver, DriverError, Machine, NoSuchVm
from services.node.effects import AnswerOrder, SendFact
from services.node.host.threads import host_ticks
from services.node.plan import ApplyPlan, Plans

log = logging.getLogger(__name__)

LOOK_S = 1.0

_ask = msgspec.msgpack.Decoder(AskSchedule).decode


class Planning:
    """`send` carries answers and facts out; `spawn` starts a task of the agent's; machines: the VMs with a process, by name."""

    def __init__(
        self, node: NodeId, driver: Driver, bus: Bus, clock: Clock, send: Callable[[AnswerOrder | SendFact], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], object], machines: Callable[[], Mapping[str, Machine]],
    ) -> None:  # fmt: skip
        self.plans = Plans(node)
        self.meter = Meter(node)
        self._driver = driver
        self._bus = bus
        self._clock = clock
        self._send = send
        self._spawn = spawn
        self._machines = machines

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self.plans.node}.schedule", self._on_ask)
        self._spawn(self._look())

    def on_order(self, ref: object, order: OrderPlan) -> None:
        self._do(self.plans.on_order(ref, order, self._machines(), self._clock.now_us()))

    def on_tick(self) -> None:
        self._do(self.plans.on_tick(self._machines(), self._clock.now_us()))

    def _do(self, effects: Iterable[AnswerOrder | ApplyPlan | SendFact]) -> None:
        for effect in effects:
            if isinstance(effect, ApplyPlan):
                self._spawn(self._apply(effect))
            else:
                self._send(effect)

    async def _apply(self, effect: ApplyPlan) -> None:
        """A VM that does not answer is no fault of the plan: it is tried again."""
        plan = effect.plan
        faults: tuple[PlanFault, ...] | None
        try:
            faults = await self._driver.schedule(plan)
        except NoSuchVm:
            faults = None
        except DriverError as error:
            faults = (PlanFault(vm=plan.vm, part="vcpu-pcpus", sentence=str(error) or type(error).__name__),)
        for fault in (fault for fault in faults or () if not self.plans.known(fault)):
            log.warning("%s: %s: %s", "all VMs" if fault.node_wide else fault.vm, fault.part, fault.sentence)
        self.plans.on_applied(plan, effect.revision, faults)
        self.on_tick()

    async def _look(self) -> None:
        while True:
            try:
                seen = await self._driver.cpu()
                beat = self.meter.look(seen, host_ticks(), self._clock.now_us())
                for vm in seen:
                    self.plans.on_threads(vm.vm, len(vm.vcpus))
                if beat is not None:
                    await self._bus.publish(f"tel.{self.plans.node}.cpu", encode(beat))
            except (BusError, DriverError) as error:
                log.debug("CPU times were not told: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _on_ask(self, message: Incoming) -> None:
        try:
            vm = _ask(message.data).vm
            seen = {each.vm: each for each in await self._driver.cpu()}
            if vm in seen:
                plans = self.plans
                answer = schedule(seen[vm], self.meter.beat, plans.plan_of(vm), plans.faults_of(vm), plans.node)
            else:
                answer = VmSchedule(vm=vm, error=f"no process of {vm} answers on {self.plans.node}")
        except DriverError as error:
            answer = VmSchedule(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            answer = VmSchedule(error=f"not a question: {bad}")
        await message.respond(encode(answer))
