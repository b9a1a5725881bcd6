"""What ha knows beside its own decisions about fence devices: which nodes there are, when each was heard last, whose machine is
whose. Folded from the log; beats from telemetry. Pure.

enrich  who else has this device or this machine, when the node was heard, what time it is
react   what is confirmed off is lost, in the epoch in which it was asked for; a device goes with its node, and is asked nothing
        any more for one that shows itself; of two for one machine the later one is doubted
look    about once a second: a node that speaks on after its device said that it is off
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from libs.common.host import hearing
from libs.common.messages import Command, Recorded
from proto.fence import (
    DeviceKind,
    DoubtFence,
    DropFence,
    FenceConfirmed,
    FenceNode,
    FenceTested,
    NoteFence,
    NoteTest,
    OrderFence,
    PowerOnNode,
    RemoveFence,
    SetFence,
)
from proto.lease import (
    DeclareLost,
    LeaseForgotten,
    NodeReturned,
    NodeTrusted,
    Proof,
    ProofKind,
    TermBegan,
)
from proto.node import Beat
from proto.nodes import NodeJoined, NodeRemoved, NodeReported
from services.ha.fencing import judge, machine
from services.ha.fencing.model import FENCE, GRANTOR
from services.ha.fencing.states import Fence

LATE_US = 1_500_000
"""a beat that comes so much later was sent by a node that lives"""
SAME_BOOT_US = 5_000_000
"""containers share their host's boot: heard later than this after they were killed, they were started again"""
FOLLOWS = (NodeJoined, NodeReported, NodeRemoved)
"""events of others that this is made of"""
TELEMETRY = ("tel.*.beat",)

_decode = msgspec.msgpack.Decoder(Beat).decode


@dataclass(slots=True)
class FenceViews:
    """drivers: of the nodes that there are; "": it has not said yet. machines: UUIDs of their hosts, by
    firmware. spoke: when each was heard last, boots: in which boot.
    off: the boot in which a node was, when its device said that it is off. term: the grantor's, as the log has it. version:
    changes with the devices. waiting: nodes whose device is to be asked something, now or soon."""

    NOT_OF_LOG: ClassVar = frozenset({"spoke", "boots", "off"})

    fences: dict[str, Fence] = field(default_factory=dict)
    drivers: dict[str, str] = field(default_factory=dict)
    machines: dict[str, str] = field(default_factory=dict)
    spoke: dict[str, int] = field(default_factory=dict)
    boots: dict[str, str] = field(default_factory=dict)
    off: dict[str, str] = field(default_factory=dict)
    term: int = 0
    version: int = 0
    waiting: set[str] = field(default_factory=set)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case NodeJoined():
                self.drivers.setdefault(event.node, "")
            case NodeReported(capabilities=can):
                self.drivers[event.node], self.machines[event.node] = can.driver, can.machine_uuid
            case NodeRemoved():
                for known in (self.drivers, self.machines, self.spoke, self.boots, self.off):
                    known.pop(event.node, None)
            case TermBegan():
                self.term = event.term
            case _ if type(event) in FENCE.events:
                self.fences[event.node] = FENCE.evolve(self.fences.get(event.node, FENCE.initial), event)
                self.version = recorded.position
                (self.waiting.add if self.fences[event.node].waits else self.waiting.discard)(event.node)
                if isinstance(event, FenceConfirmed):
                    self.off[event.node] = self.boots.get(event.node, "")

    HEARS: ClassVar[hearing.Heard] = dict.fromkeys((*FOLLOWS, TermBegan, *FENCE.events), apply)

    def hear(self, subject: str, data: bytes, now_us: int) -> None:
        """`tel.NODE.beat`, only in the node's own name."""
        beat = _decode(data)
        if subject == f"tel.{beat.node}.beat":
            self.spoke[beat.node] = now_us
            self.boots[beat.node] = beat.boot_id

    def device(self, node: str) -> str:
        """For the grantor: the node's device, where it is in order; "": it has none that proves."""
        fence = self.fences.get(node)
        if fence is None or fence.device is None or not fence.ready:
            return ""
        return f"{fence.device.kind} {fence.device.address} {fence.device.system}".rstrip()

    def twin_of_place(self, node: str, place: tuple[str, str, str]) -> str:
        """Another node whose device is there."""
        return next(
            (
                n
                for n, f in sorted(self.fences.items())
                if n != node and f.device is not None and f.device.place == place
            ),
            "",
        )

    def twin_of_machine(self, node: str, identity: str) -> str:
        """Another node whose device answers for that machine, or that runs on it by its own word."""
        held = ((n, f) for n, f in sorted(self.fences.items()) if n != node and f.device is not None)
        if twin := next((n for n, f in held if identity and f.identity == identity), ""):
            return twin
        names = machine.names(identity)
        if self.machines.get(node, "") in names:
            return ""
        return next((n for n, uuid in sorted(self.machines.items()) if n != node and uuid in names), "")


@dataclass(frozen=True, slots=True)
class Shown:
    """What the node showed of itself on other paths than by its beats. asked_us: when it asked for its lease last, or peers reached
    it; moved_us: when its record in any pool was seen to be another, in boot `boot_id`, and so may have moved: a reason to wait;
    lived_us: when it was seen to move: a reason to accuse; watched: its records in all pools of its lease are read just now, so
    that one that moved would have been seen to."""

    asked_us: int = 0
    moved_us: int = 0
    boot_id: str = ""
    watched: bool = True
    lived_us: int = 0


NOTHING = Shown()


def enrich(command: Any, views: FenceViews, now_us: int, lease: tuple[int, str] = (1, ""), shown: Shown = NOTHING) -> Any:
    """lease: epoch and boot of the node's, as the log has it. A record that nobody can read may move."""
    match command:
        case SetFence():
            node, driver = command.node, views.drivers.get(command.node)
            twin = views.twin_of_place(node, command.device.place)
            return replace(command, known=driver is not None, driver=driver or "", twin=twin)
        case FenceNode():
            epoch, boot_id = lease
            return replace(command, now_us=now_us, epoch=epoch, boot_id=boot_id, **_signs(command.node, views, now_us, shown))
        case PowerOnNode():
            return replace(command, now_us=now_us)
        case OrderFence():
            return replace(command, **_signs(command.node, views, command.now_us, shown))
        case NoteTest():
            twin = views.twin_of_machine(command.node, command.identity)
            return replace(command, twin=twin, spoke_us=views.spoke.get(command.node, 0))
        case NoteFence():
            job = views.fences.get(command.node, FENCE.initial).job
            twin = views.twin_of_machine(command.node, job.identity if job is not None else "")
            spoke_us = max(views.spoke.get(command.node, 0), shown.asked_us, shown.moved_us - judge.MOVED_LATE_US)
            return replace(command, twin=twin, spoke_us=spoke_us, moved_us=shown.moved_us)
        case _:
            return command


def _signs(node: str, views: FenceViews, now_us: int, shown: Shown) -> dict[str, int]:
    spoke_us = max(views.spoke.get(node, 0), shown.asked_us)
    return {"spoke_us": spoke_us, "moved_us": shown.moved_us if shown.watched else now_us}


def react(event: Any, recorded: Recorded, views: FenceViews) -> Sequence[Command]:
    match event:
        case FenceConfirmed():
            device = views.device(event.node) or "fence device"
            proof = Proof(
                kind=ProofKind.FENCE, at_us=event.at_us, term=views.term, device=device, sentence=event.sentence
            )
            lost = DeclareLost(
                node=event.node, boot_id=event.boot_id, epoch=event.epoch, proof=proof, now_us=recorded.at_us
            )
            return [lost]
        case NodeRemoved() if views.fences.get(event.node, FENCE.initial).device is not None:
            return [RemoveFence(node=event.node)]
        case NodeTrusted() | NodeReturned() | LeaseForgotten():
            job = views.fences.get(event.node, FENCE.initial).job
            said = f"{event.node} shows itself again"
            return (
                [DropFence(node=event.node, now_us=recorded.at_us, sentence=said)] if job and job.by == GRANTOR else ()
            )
        case FenceTested(ok=True) if twin := views.twin_of_machine(event.node, event.identity):
            said = f"the device of {event.node} answers for {event.identity}, which is the machine of {twin}"
            return [DoubtFence(node=event.node, now_us=recorded.at_us, sentence=said)]
        case _:
            return ()


def look(now_us: int, views: FenceViews, shown: Callable[[str], Shown] = lambda node: NOTHING) -> Iterator[Command]:
    for node, boot_id in views.off.items():
        fence = views.fences[node]
        if not fence.off_us or fence.doubt:
            continue
        spoke_us = _since(node, boot_id, views, shown(node))
        if spoke_us <= fence.off_us + LATE_US:
            continue
        shared = fence.device is None or fence.device.kind in (DeviceKind.DOCKER, DeviceKind.SIMULATED)
        if shared and spoke_us > fence.off_us + SAME_BOOT_US:
            continue
        late_s = (spoke_us - fence.off_us) / 1e6
        said = f"its device confirmed that {node} is off, and {node} was heard {late_s:.1f} s after: the device lies"
        yield DoubtFence(node=node, now_us=now_us, sentence=said)


def _since(node: str, boot_id: str, views: FenceViews, shown: Shown) -> int:
    """When it showed itself last in that boot, by its beats or its record; 0: never."""
    spoke_us = views.spoke.get(node, 0) if views.boots.get(node) == boot_id else 0
    return max(spoke_us, shown.lived_us - judge.MOVED_LATE_US if shown.boot_id == boot_id else 0)
