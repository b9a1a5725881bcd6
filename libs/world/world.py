"""The world itself: everything wired, stepped one thing at a time, with the invariants looked at after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec

from libs.common.bus import Published
from libs.common.host.service import Service
from libs.common.log.memory import MemoryLog
from libs.common.messages import Command, Envelope, Recorded, Reply, decode_delivered, encode
from libs.world import checks
from libs.world.area import Area
from libs.world.befall import befall
from libs.world.control import HostProcess, RelayProcess
from libs.world.fencing import Bmc
from libs.world.granting import PAUSE_US, HaProcess
from libs.world.net import START_US, Net, Weather
from libs.world.nodes import NodeProcess
from libs.world.paths import Paths
from libs.world.pulse import Guests
from libs.world.story import Step
from proto.compute import JoinNode
from proto.io import ImageFormat, ImportImage
from proto.machine import DirectBoot
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import SimFile, SimPool
from services.node.model import Kept


class World:
    """A cluster. `uses`: what guests use of their memory, MiB by the second.
    `ask` sends a command as a user would, and repeats it until it is answered; answers are in `replies`."""

    def __init__(
        self,
        seed: int,
        nodes: Sequence[str] = ("n1", "n2", "n3"),
        params: SimParams | None = None,
        weather: Weather | None = None,
        services: Sequence[Service] = (COMPUTE, MEMORY, IO),
        apart: bool = False,
        two: bool = False,
        ha: int = 0,
        fences: bool = False,
        vitals: bool = False,
        start_us: int = START_US,
    ) -> None:
        """apart: each node has a pool of its own; two: there is a second one that all reach. ha: how many processes of high
        availability there are; 0: none, and no watchdogs either. fences: each node has a fence device. vitals: guests' signs of
        life are looked at. start_us: the time of day at which it begins."""
        self.seed = seed
        self.random = Random(seed)
        self.net = Net(self.random, start_us, weather or Weather())
        self.checker = checks.Checker(self)
        self.log = MemoryLog(lambda: self.net.now_us)
        self.pool = SimPool()
        self.services = {s.name: HostProcess(self, s) for s in services}
        self.ha = ha
        self.grantor_us = PAUSE_US
        self.figures_s = 5 if ha else 1
        """how often nodes tell what is no sign of life: CPU times, pools"""
        for n in range(ha):
            name = f"ha{n + 1}" if n else "ha"
            self.services[name] = HaProcess(self, HA, name)
        self.paths = Paths(self)
        self.relay = RelayProcess(self)
        self.pools: dict[str, SimPool] = {n: self.pool.beside(n) if apart else self.pool for n in nodes}
        self.names = ("default", "second") if two else ("default",)
        """of each node's pools"""
        self.agents = {n: NodeProcess(self, n, params or SimParams()) for n in nodes}
        self.areas = {word: Area(self.net) for node in self.agents.values() for word in node.pool_words}
        self.bmcs = {n: Bmc(node) for n, node in self.agents.items()} if fences else {}
        """fence devices, by node"""
        self.guests = Guests(self) if vitals else None
        self.peace = False
        """nothing befalls any more (play.calm)"""
        self.replies: dict[str, Reply] = {}
        self.seen = 0
        self.incarnation = 1
        self.uses: dict[str, Callable[[int], int]] = {}
        self.born_us = self.start_us = self.net.now_us
        self.oldest = 0
        """no backup is older than this position"""
        self.holding: dict[tuple[str, str], int] = {}
        self.held: dict[tuple[str, str], Step] = {}
        self.waiting: list[Step] = []
        """what befalls now (kinds.py); once an event is committed"""
        self.befallen: list[tuple[int, Step]] = []
        self.guards: Counter[str] = Counter()
        """what kept something from happening since the story began, by a few words, and how often"""
        self.ran: dict[str, tuple[str, ...]] = {}
        """node -> the VMs that ran there when the story began"""
        self._asked = 0

    def begin(self, within_us: int = 0) -> None:
        """Start everything, each thing within that time, join the nodes, import the image `tiny`."""
        self.relay.begin()
        for process in self.services.values():
            self.net.after(self.random.randrange(within_us), process.begin) if within_us else process.begin()
        self.pool.incoming["tiny.qcow2"] = SimFile(ImageFormat.QCOW2, 256, "0" * 64)
        for name, agent in self.agents.items():
            self.ask("compute", f"node-{name}", JoinNode(node=name, key=f"key-{name}"))
            self.net.after(50_000 + (self.random.randrange(within_us) if within_us else 0), agent.begin)
        if self.guests is not None:
            self.guests.begin()
        apart = len({pool.id for pool in self.pools.values()}) > 1  # a kernel beside the image would tie its VMs to one node
        boot = None if apart else DirectBoot(kernel="vmlinux", initrd="initrd")
        tiny = ImportImage(image="tiny", file="tiny.qcow2", format=ImageFormat.QCOW2, boot=boot)
        self.net.after(3_000_000, lambda: self._discard(self.ask("io", "image-tiny", tiny)))

    def _discard(self, _: str) -> None:
        return None

    def restore(self, position: int) -> None:
        """The database is lost and a backup of about that position is restored: what was decided since is forgotten, all control
        processes start over, agents and VMs run on."""
        self.relay.crash()
        for process in self.services.values():
            process.crash()
        available = self.log.available
        self.log = self.log.restored(position)
        head = self.log.head_now()
        self.log.available = available
        self.incarnation = head.incarnation
        self.seen = min(self.seen, head.position)
        self.checker.restored(head.position)
        self.net.after(self.random.randrange(200_000, 2_000_000), self.relay.begin)
        for process in self.services.values():
            self.net.after(self.random.randrange(200_000, 2_000_000), process.begin)

    # --- users ----------------------------------------------------------------------------------------------------

    def ask(self, service: str, stream: str, command: Command) -> str:
        """The command's id; its answer will be in `replies`. Repeated every 2 s until it is there."""
        self._asked += 1
        id = f"ask-{self._asked}"
        envelope = Envelope(id=id, data=msgspec.Raw(encode(command)), actor="user:world", at_us=self.net.now_us, seen=self.seen)
        self._ask(service, stream, envelope)
        return id

    def _ask(self, service: str, stream: str, envelope: Envelope) -> None:
        id = envelope.id
        if id in self.replies:
            return
        data = encode(msgspec.structs.replace(envelope, seen=min(envelope.seen, self.seen)))

        def answered(reply: Reply) -> None:
            incarnation = self.incarnation

            def back() -> None:
                if reply.status != "unavailable":
                    self.checker.answered(id, reply, incarnation)
                    self.replies[id] = reply
                    if incarnation == self.incarnation:
                        self.seen = max(self.seen, reply.position)

            self.net.send("control", "user", back)

        process = self.services[service]
        self.net.send("user", "control", lambda: process.command(data, "", stream, answered), service)
        self.net.after(2_000_000, lambda: self._ask(service, stream, envelope))

    # --- what passes through --------------------------------------------------------------------------------------

    def publish(self, published: Published) -> None:
        """To every service, by the bus."""
        delivered = decode_delivered(published.data)
        for process in self.services.values():
            self.net.send("bus", process.name, lambda p=process: p.delivered(delivered), process.name)  # type: ignore[misc]

    def committed(self) -> None:
        """There is something new in the log."""
        self.checker.news = True
        self.relay.wake()
        for process in self.services.values():
            process.wake()

    def befell(self, step: Step) -> None:
        self.befallen.append((self.net.now_us, step))
        self.checker.nodes.befell(step)

    def kinds(self) -> tuple[str, ...]:
        """What has befallen it, by kind."""
        return tuple(step.do for _, step in self.befallen)

    def recorded(self, recorded: Recorded, event: Any) -> None:
        """It was seen in the log: what waited for it befalls."""
        for step in [one for one in self.waiting if one.on == recorded.type]:
            if step.on_who in ("", getattr(event, "vm", ""), getattr(event, "node", "")):
                self.waiting.remove(step)
                self.net.after(round(step.at * 1e6), partial(befall, self, step))

    def telemetry(self, node: str, subject: str, data: bytes) -> None:
        for process in self.services.values():
            if process.listens(subject):
                heard = lambda p=process: p.telemetry(subject, data)  # noqa: E731
                self.net.send(node, "control", heard, process.name)

    def note_kept(self, node: str, before: Kept | None, after: Kept) -> None:
        self.checker.kept(node, before, after)

    def begun(self) -> None:
        """A story begins here: what was before is none of it."""
        self.start_us, self.oldest = self.net.now_us, self.log.head_now().position
        self.net.deliveries = self.net.steps = 0
        self.checker.types.clear()
        self.befallen.clear()
        self.guards.clear()
        self.ran = {name: tuple(sorted(node.host.vms)) for name, node in self.agents.items()}
        self.checker.nodes.begun()

    @property
    def second(self) -> int:
        """Since the beginning."""
        return (self.net.now_us - self.born_us) // 1_000_000

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Raises AssertionError with the seed when an invariant does not hold."""
        self.net.run(self.net.now_us + round(seconds * 1e6), self.checker)

    def run_to(self, seconds: float) -> None:
        """Of the story (`begun`)."""
        self.net.run(self.start_us + round(seconds * 1e6), self.checker)
