"""ha's fencing in one process: commands, decider, executor and simulated devices, on an in-memory log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from libs.common.clock import SystemClock
from libs.common.host.core import Host
from libs.common.host.effects import Answer, Append, Effect, ReadStream
from libs.common.host.service import Service
from libs.common.log import Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Command, Envelope, NodeId, Reply, encode
from libs.common.secrets import Keys, MemorySecrets
from proto.families import REGISTRY
from proto.fence import Device, DeviceKind, SetFence
from proto.lease import BeginTerm, TakeLease
from proto.node import Beat
from proto.nodes import Capabilities, NodeReported
from proto.upcasts import DOWNCASTS, UPCASTS
from services.ha.fencing import views
from services.ha.fencing.executor import Executor
from services.ha.fencing.kinds import Kinds
from services.ha.fencing.model import FENCE
from services.ha.fencing.simulated import Machine
from services.ha.fencing.states import Fence
from services.ha.lease import LEASE
from services.ha.main import HA

MOVED: dict[str, int] = {}
"""when records were seen to move, by node"""


def enrich(command: Any, known: views.FenceViews, now_us: int) -> Any:
    return views.enrich(command, known, now_us, (1, "b"), views.Shown(moved_us=MOVED.get(getattr(command, "node", ""), 0)))


SERVICE = Service(
    "ha",
    deciders=(FENCE, LEASE, HA),
    follows=views.FOLLOWS,
    react=views.react,
    views=views.FenceViews,
    enrich=enrich,
)
PASSWORD = "s3cret, of all"


class Desk:
    """ha's fencing in one process."""

    def __init__(self, keys: Keys) -> None:
        self.clock = SystemClock()
        self.log = MemoryLog(self.clock.now_us)
        self.kinds = Kinds()
        self.secrets = MemorySecrets(keys)
        self.host = Host(SERVICE, dict(UPCASTS), dict(DOWNCASTS))
        self.replies: list[Reply] = []
        self.host.ready(1, self.clock.now_us())
        self.executor = Executor(
            fences=lambda: self.views.fences,
            waiting=lambda: self.views.waiting,
            say=self.say,
            open=self.kinds.open,
            secrets=self.secrets,
            clock=self.clock,
            try_s=1.0,
        )

    @property
    def views(self) -> views.FenceViews:
        known: views.FenceViews = self.host.views
        return known

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Append(token, group):
                    self.do(self.host.on_appended(token, self.log.append_now(group)))
                case ReadStream(stream, after):
                    self.do(self.host.on_stream_read(stream, self.log.read_stream_now(stream, after)))
                case Answer(_, reply):
                    self.replies.append(reply)
        after = self.host.reactions.next_position - 1
        if fresh := self.log.read_all_now(after, 1000):
            self.do(self.host.on_events(fresh, self.clock.now_us()))

    def say(self, command: Command) -> None:
        self.do(self.host.on_own([command], self.clock.now_us(), iter([self.clock.new_id()])))

    def ask(self, command: Command) -> Reply:
        data = encode(Envelope(id=self.clock.new_id(), data=encode_raw(command), actor="user:ada"))
        self.do(self.host.on_command("r", data, self.clock.now_us()))
        return self.replies[-1]

    def happens(self, stream: str, kind: str, event: Any) -> None:
        """An event of others."""
        version = sum(1 for one in self.log.read_all_now(0, 10_000) if one.stream == stream)
        self.log.append_now(Group((Unit(stream, version, (NewEvent(kind, 1, encode(event), META),)),)))
        self.do([])

    def joins(self, node: str, driver: str = "simulated") -> None:
        can = Capabilities(
            accelerator="", cpu_model="", pcpus=1, memory_mib=1, qemu_version="", machine="", driver=driver
        )
        reported = NodeReported(node=NodeId(node), capabilities=can, boot_id="b")
        self.happens(f"node-{node}", "node_reported", reported)

    def beats(self, node: str, boot_id: str = "b") -> None:
        beat = Beat(node, boot_id, self.clock.now_us(), 1, 0.0)
        views_now = self.views
        views_now.hear(f"tel.{node}.beat", encode(beat), self.clock.now_us())

    async def set(self, node: str, machine: Machine | None = None, address: str = "") -> Machine:
        """A node with a device, tested."""
        self.joins(node)
        made = self.kinds.machines.add(address or f"bmc-{node}", machine)
        made.user, made.password = "asv", PASSWORD
        secret = await self.secrets.put(PASSWORD.encode(), 0)
        device = Device(kind=DeviceKind.SIMULATED, address=address or f"bmc-{node}", user="asv", password=secret)
        assert self.ask(SetFence(node=node, device=device)).status == "accepted"
        await self.until(lambda: self.views.fences[node].tested is not None)
        return made

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not holds():
                await asyncio.sleep(0.01)

    def told[E](self, kind: type[E]) -> list[E]:
        found = (REGISTRY.event(one) for one in self.log.read_all_now(0, 10_000))
        return [event for event in found if isinstance(event, kind)]

    def fence(self, node: str = "n1") -> Fence:
        return self.views.fences[node]


def encode_raw(command: Command) -> Any:
    import msgspec

    return msgspec.Raw(encode(command))


META = encode(["c", "", "c", "user:else", 0])


def has_lease(desk: Desk, boot_id: str) -> None:
    desk.say(BeginTerm(holder="one", now_us=desk.clock.now_us()))
    desk.say(TakeLease(node="n1", term=1, boot_id=boot_id, now_us=desk.clock.now_us()))
