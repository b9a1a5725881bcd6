"""A cluster around one grantor, for its tests: nodes whose own clocks drift, records in pools, a log that commits at once, and a
new grantor whenever it is asked for. It watches the one thing that matters: nobody is declared lost whose own lease runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId
from proto.lease import (
    AskGrant,
    AskLetter,
    AskProbe,
    AskRecords,
    Granted,
    LeaseBeat,
    NodeLost,
    Probes,
    Records,
    ReportReturned,
    Sighting,
    SuspectNode,
)
from services.ha.effects import Ask, Effect, FenceNode, Member, Picture, Reply, Tell
from services.ha.grantor import Grantor
from services.ha.lease import LEASE
from services.ha.main import HA
from services.ha.states import Ha, Lease, Trusted

STEP_US = 50_000
S = 1_000_000
WALL_US = 1_700_000_000_000_000
WHOLE_S = 6.65
"""from the loss of power to NodeLost"""


@dataclass
class RigNode:
    """control, storage: whether that path of it works. drift: its clock runs so much faster than the grantor's. end_us: of its own
    lease, by the grantor's clock: what no real grantor can know."""

    name: str
    boot_id: str
    phase_us: int
    drift: float = 0.0
    alive: bool = True
    control: bool = True
    storage: bool = True
    epoch: int = 0
    sequence: int = 0
    end_us: int = 0
    span_us: int = 0
    tolerant: bool = False
    pools: tuple[str, ...] = ()
    slow: bool = False
    own: str = "held"
    letters: dict[int, AskLetter] = field(default_factory=dict)
    acknowledged: int = 0
    reachable: bool = True
    refused: str = ""
    held: tuple[str, ...] = ("web-1",)
    done: tuple[str, ...] = ()

    def own_us(self, span_us: int) -> int:
        """What a span of its own clock is by the grantor's."""
        return round(span_us / (1 + self.drift))


class Rig:
    def __init__(self, names: str = "n1 n2 n3", seed: int = 1, pools: tuple[str, ...] = ("p",)) -> None:
        self.random = Random(seed)
        self.now_us = 50 * S
        self.pools = pools
        self.nodes = {
            name: RigNode(name, f"boot-{name}", self.random.randrange(0, S, STEP_US)) for name in names.split()
        }
        self.members = {name: Member(pools=frozenset(pools)) for name in self.nodes}
        self.readable = set(pools)
        self.records: dict[tuple[str, str], Sighting] = {}
        self.leases: dict[str, Lease] = {}
        self.ha = Ha()
        self.events: list[tuple[int, Any]] = []
        self.refusals: list[Refused] = []
        self.fences: list[FenceNode] = []
        self.asked: list[Ask] = []
        self.grantor = Grantor("g1")
        self.checks = True
        self.led = 1
        self.violations: list[str] = []
        self.planned: dict[str, str] = {}

    # --- time -----------------------------------------------------------------------------------------------------

    @property
    def wall_us(self) -> int:
        return WALL_US + self.now_us

    def run(self, seconds: float) -> None:
        end_us = self.now_us + round(seconds * S)
        while self.now_us < end_us:
            self.now_us += STEP_US
            for node in self.nodes.values():
                if node.alive and self.now_us % S == node.phase_us:
                    self._beat(node)
            if self.checks and self.now_us % 250_000 == 0:
                self.grantor.locked(self.now_us, self.now_us)
            self.do(self.grantor.tick(self.now_us, self.wall_us))

    def until(self, kind: type, seconds: float = 60) -> Any:
        """Runs until such an event is decided; AssertionError where none is."""
        before = len(self.events)
        for _ in range(round(seconds * S / STEP_US)):
            self.run(STEP_US / S)
            for _, event in self.events[before:]:
                if isinstance(event, kind):
                    return event
        raise AssertionError(f"no {kind.__name__} within {seconds} s: {self.events[before:]} {self.refusals[-3:]}")

    def succeed(self) -> None:
        """The grantor dies; another process has its lock at once."""
        self.led += 1
        self.grantor = Grantor(f"g{self.led}")
        self.grantor.see(self.picture())

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _beat(self, node: RigNode) -> None:
        if node.span_us and node.end_us < self.now_us:
            node.span_us = 0  # its lease is over: nothing renews it
        if node.storage:
            for pool in self.pools:
                node.sequence += 1
                self.records[pool, node.name] = Sighting(
                    pool, node.name, node.boot_id, node.epoch, node.sequence, node.acknowledged, node.done
                )
            if node.span_us and set(node.pools) & set(self.pools):
                node.end_us = self.now_us + node.own_us(node.span_us)
            self._mail(node)
        if node.control:
            beat = LeaseBeat(node.name, node.boot_id, self.now_us, node.own, node.epoch, 0, self.read(node, self.nodes), node.slow)
            self.grantor.beat(self.now_us, node.name, beat)
            self.ask(node)

    def ask(self, node: RigNode, late_us: int = 0) -> None:
        """late_us: how long the question was on its way."""
        ask = AskGrant(
            node.name, node.boot_id, node.epoch, self.now_us - late_us, pools=self.pools, renews=node.pools,
            tolerant=node.tolerant, address=node.name,
        )  # fmt: skip
        for effect in self.grantor.ask(self.now_us, node, ask):
            assert isinstance(effect, Reply)
            self.granted(node, effect.granted)

    def granted(self, node: RigNode, granted: Granted) -> None:
        node.refused = granted.refused
        if granted.refused == "lost":
            node.span_us, node.pools, node.epoch = 0, (), 0
            node.held = ()
            back = ReportReturned(node=NodeId(node.name), boot_id=node.boot_id, epoch=granted.epoch, at_us=self.wall_us)
            self.decide(back)
        elif not granted.refused:
            node.epoch, node.span_us, node.pools = granted.epoch, granted.lease_us, granted.pools
            node.tolerant = granted.tolerant
            node.end_us = max(node.end_us, granted.sent_us + node.own_us(granted.lease_us))

    def _mail(self, node: RigNode) -> None:
        for number, letter in sorted(node.letters.items()):
            if number > node.acknowledged and letter.epoch == node.epoch:
                node.acknowledged, node.done, node.held, node.span_us, node.end_us = number, node.held, (), 0, 0

    def read(self, witness: RigNode, names: Any) -> tuple[Sighting, ...]:
        """All pools, others' records."""
        out = []
        for pool in self.pools:
            for name in names:
                if name == witness.name:
                    continue
                bad = "" if pool in self.readable and witness.storage else "no answer within a second"
                known = self.records.get((pool, name), Sighting(pool, name))
                out.append(Sighting(pool, name, error=bad) if bad else known)
        return tuple(out)

    # --- what the grantor wants done ------------------------------------------------------------------------------

    def picture(self) -> Picture:
        return Picture(self.ha, dict(self.leases), self.members)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Tell(command):
                    self.decide(command)
                case Ask():
                    self.asked.append(effect)
                    self._answer(effect)
                case FenceNode():
                    self.fences.append(effect)

    def decide(self, command: Any) -> None:
        if isinstance(command, SuspectNode):
            command = replace(command, planned=self.planned.get(command.node, ""))
        main = type(command) in HA.commands
        state: Any = self.ha if main else self.leases.get(command.node, Trusted())
        decider: Any = HA if main else LEASE
        try:
            events = decider.decide(command, state)
        except Refused as refused:
            self.refusals.append(refused)
            return
        for event in events:
            self.events.append((self.now_us, event))
            state = decider.evolve(state, event)
            if isinstance(event, NodeLost):
                self._watch(event)
        if main:
            self.ha = state
        else:
            self.leases[command.node] = state
        self.grantor.see(self.picture())

    def _watch(self, lost: NodeLost) -> None:
        node = self.nodes[lost.node]
        holds = node.held and node.boot_id == lost.boot_id and node.span_us and node.end_us > self.now_us
        if node.alive and holds and lost.proof.kind in ("lease", "acknowledged", "clean"):
            self.violations.append(f"{lost.node} declared lost {(node.end_us - self.now_us) / S} s before its lease ends")

    def _answer(self, ask: Ask) -> None:
        to = self.nodes[ask.node]
        if not (to.alive and to.control):
            self.grantor.unanswered(ask.id)
            return
        match ask.message:
            case AskRecords(nodes=nodes):
                self.grantor.answered(self.now_us, ask.id, Records(sightings=self.read(to, nodes)))
            case AskLetter(node=name):
                if to.storage:
                    self.nodes[name].letters[ask.message.number] = ask.message
                self.grantor.answered(self.now_us, ask.id, Records(sightings=self.read(to, (name,))))
            case AskProbe(addresses=addresses):
                reached = {n: 1.0 if self.nodes[n].alive and self.nodes[n].reachable else -1.0 for n in addresses}
                self.grantor.answered(self.now_us, ask.id, Probes(answered_ms=reached))


def kinds(rig: Rig) -> list[str]:
    return [type(event).__name__ for _, event in rig.events]


def settled(names: str = "n1 n2 n3", seed: int = 1, **more: Any) -> Rig:
    """Everybody has a lease, and the grantor has led for long enough."""
    rig = Rig(names, seed, **more)
    rig.run(10)
    assert all(node.span_us for node in rig.nodes.values()), "all have a lease"
    return rig


def cut(rig: Rig, name: str) -> None:
    rig.nodes[name].control = rig.nodes[name].reachable = False
