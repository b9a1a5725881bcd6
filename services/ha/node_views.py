"""What is known of nodes: who is a member and reaches what (from the log), and what was heard of each just now (from telemetry,
which starts anew with the process). Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from libs.common.host import hearing
from libs.common.messages import Command, Recorded
from libs.lease.times import FAST
from proto.compute import NodeCordoned, NodeJoined, NodeRemoved, NodeReported, NodeUncordoned
from proto.lease import (
    MUTE,
    ArmHa,
    ConfirmOff,
    ForgetNode,
    LeaseBeat,
    LeaseForgotten,
    LeaseTaken,
    NodePathsNoted,
    NodeReturned,
    ReportReturned,
    SetHa,
)
from proto.networks import faults_of, unlinked
from services.ha.signs import BACK_US

FOLLOWS = (NodeJoined, NodeReported, NodeRemoved, NodeCordoned, NodeUncordoned)
UNREAD_US = 3_000_000
"""witnesses read every second"""
LIVES_US = 2 * FAST.suspect_us
"""what showed itself so lately is not taken for off"""

_decode = msgspec.msgpack.Decoder(LeaseBeat).decode


@dataclass(slots=True)
class MemberView:
    """pools: words. networks: what is wrong with its bridges' ways out; unlinked: one of them has none left. address: of its
    watchdog."""

    pools: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    address: str = ""
    watched: bool = False
    unlinked: bool = False


@dataclass(slots=True)
class Heard:
    """By the service's wall clock: for people, and against a fence device's word; never for a proof. moved: by pool, the last
    sequence and when it was first seen, so that it may have been written then; lived: when it was seen to be another than a moment
    before, so that it was; read: when it was read last; boot_id: in the boot that wrote it. reached_us: when a peer that reached it
    was asked to."""

    control_us: int = 0
    reached_us: int = 0
    beat_us: int = 0
    own: str = ""
    left_us: int = 0
    slow: bool = False
    moved: dict[str, tuple[int, int]] = field(default_factory=dict)
    lived: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    boot_id: str = ""


@dataclass(slots=True)
class NodeViews:
    """version: changes with the members. leases: epoch and boot of each node's lease; pools: by which it may renew that. names: of
    pools, by their words. cordoned: by people; drained: by policy, for a network that was lost."""

    NOT_OF_LOG: ClassVar = frozenset({"heard", "now_us"})

    members: dict[str, MemberView] = field(default_factory=dict)
    version: int = 0
    leases: dict[str, tuple[int, str]] = field(default_factory=dict)
    pools: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    now_us: int = 0
    cordoned: set[str] = field(default_factory=set)
    drained: set[str] = field(default_factory=set)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case NodeJoined():
                self.members.setdefault(event.node, MemberView())
            case NodeReported(capabilities=can):
                faults = tuple(said for bridge in can.bridges for said in faults_of(bridge))
                words = tuple(sorted(set(can.pool_ids.values())))
                self.names |= {word: name for name, word in can.pool_ids.items()}
                cut = any(map(unlinked, can.bridges))
                self.members[event.node] = MemberView(words, faults, can.watch_at, can.watchdog, cut)
            case NodeRemoved():
                self.members.pop(event.node, None)
                self.heard.pop(event.node, None)
                self.cordoned.discard(event.node)
                self.drained.discard(event.node)
            case NodeCordoned() | NodeUncordoned() | NodePathsNoted():
                self._cordon(event)
                return
            case LeaseTaken() | NodeReturned():
                epoch = event.epoch if isinstance(event, NodeReturned) else self.leases.get(event.node, (1, ""))[0]
                self.leases[event.node] = (epoch, event.boot_id)
                if isinstance(event, LeaseTaken):
                    self.pools[event.node] = event.pools
                return
            case LeaseForgotten():
                self.leases[event.node] = (event.epoch, "")
                return
            case _:
                return
        self.version = recorded.position

    HEARS: ClassVar[hearing.Heard] = dict.fromkeys(
        (*FOLLOWS, NodePathsNoted, LeaseTaken, NodeReturned, LeaseForgotten), apply
    )

    def _cordon(self, event: NodeCordoned | NodeUncordoned | NodePathsNoted) -> None:
        match event:
            case NodePathsNoted(move=True) if event.node not in self.cordoned:
                self.drained.add(event.node)
            case NodeCordoned() if event.node not in self.drained:
                self.cordoned.add(event.node)
            case NodeUncordoned():
                self.cordoned.discard(event.node)
                self.drained.discard(event.node)

    def planned(self, node: str, busy: Collection[str]) -> str:
        """Why its silence is no surprise, in a sentence; "": it is one. busy: where VMs run."""
        if node in self.cordoned:
            return f"somebody had cordoned {node}"
        return "" if node in busy else f"no VM ran on {node}"

    def asked(self, node: str, now_us: int) -> None:
        """It wants its lease renewed."""
        if node in self.members:
            self._heard(node).control_us = now_us

    def reached(self, node: str, asked_us: int) -> None:
        """A peer says so, which was asked then."""
        if node in self.members:
            heard = self._heard(node)
            heard.reached_us = max(heard.reached_us, asked_us)

    def hear(self, subject: str, data: bytes, now_us: int) -> None:
        """`tel.NODE.leases`, only in the node's own name."""
        beat = _decode(data)
        if subject != f"tel.{beat.node}.leases" or beat.node not in self.members:
            return
        own = self._heard(beat.node)
        own.own, own.left_us, own.slow = beat.own, beat.left_us, beat.slow
        own.beat_us = own.beat_us if beat.own == MUTE else now_us
        for sighting in beat.sightings:
            if sighting.error or sighting.node == beat.node or sighting.node not in self.members or sighting.sequence < 0:
                continue
            heard = self._heard(sighting.node)
            watched = now_us - heard.read.get(sighting.pool, now_us - BACK_US - 1) <= BACK_US
            heard.read[sighting.pool] = now_us
            if sighting.sequence != heard.moved.get(sighting.pool, (-1, 0))[0]:
                if watched:
                    heard.lived[sighting.pool] = now_us
                heard.moved[sighting.pool], heard.boot_id = (sighting.sequence, now_us), sighting.boot_id

    def _heard(self, node: str) -> Heard:
        known = self.heard.get(node)
        if known is None:
            known = self.heard[node] = Heard()
        return known

    def moved_us(self, node: str) -> int:
        """When its record in any pool was seen to be another last, and may have been written; 0: never."""
        heard = self.heard.get(node)
        return max((at_us for _, at_us in heard.moved.values()), default=0) if heard is not None else 0

    def lived_us(self, node: str) -> int:
        """When its record in any pool was seen to move last; 0: never."""
        heard = self.heard.get(node)
        return max(heard.lived.values(), default=0) if heard is not None else 0

    def watched(self, node: str, now_us: int) -> bool:
        """Its record is read, in every pool by which it may renew its lease."""
        read = self.heard.get(node, Heard()).read
        return all(now_us - read.get(pool, 0) < UNREAD_US for pool in self.pools.get(node, ()))

    def alive(self, node: str, now_us: int) -> str:
        """What it showed of itself just now, in a sentence; "": nothing."""
        heard = self.heard.get(node)
        if heard is None:
            return ""
        signs = [("it asked for its lease", heard.control_us), ("its watchdog spoke", heard.beat_us)]
        for pool, at_us in sorted(heard.lived.items()):
            signs.append((f"its record in pool {self.names.get(pool, pool)} moved", at_us))
        for said, at_us in signs:
            if at_us and now_us - at_us < LIVES_US:
                return f"{said} {max(0, now_us - at_us) / 1e6:.1f} s ago"
        return ""


def react(event: Any) -> Sequence[Command]:
    return [ForgetNode(node=event.node)] if isinstance(event, NodeRemoved) else ()


def enrich(command: Any, views: NodeViews, now_us: int) -> Any:
    """Overwrites what only ha's own views may say, whoever sent the command."""
    match command:
        case ConfirmOff(node=node):
            return replace(command, known=node in views.members, alive=views.alive(node, now_us), at_us=now_us)
        case ArmHa() | ReportReturned():
            return replace(command, at_us=now_us)
        case SetHa():
            return replace(command, nodes=len(views.members))
        case _:
            return command
