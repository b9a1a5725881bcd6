"""High availability and the leases of nodes, as the events tell of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded
from proto.fence import FenceConfirmed, FenceDoubted, FenceDropped, FenceFailed, FencePoweredOn, FenceRequested
from proto.lease import (
    HaArmed,
    HaDisarmed,
    HaHeld,
    HaReleased,
    HaSet,
    HaSettings,
    LeaseForgotten,
    NodeIsolated,
    NodeLost,
    NodeOffProven,
    NodePathsNoted,
    NodeReturned,
    NodeSuspected,
    NodeTrusted,
    TermBegan,
)
from services.gateway.why.leases import said_silences

LEASE = "lease-"
TOLD_MAX = 100
LED_MAX = 1000
CUTS = (FenceRequested, FenceConfirmed, FenceFailed, FenceDropped, FenceDoubted, FencePoweredOn)
"""what of a fence device belongs to its node's story"""
BEFORE_A_LOSS = (NodeSuspected, NodeIsolated, FenceRequested, FenceConfirmed, FenceFailed)


class Standing(msgspec.Struct):
    """Of a node that has a lease, or had one. standing: `trusted`, `suspected`, `isolated`, `lost`. stuck,
    networks: as NodePathsNoted said last."""

    standing: str = "trusted"
    since_us: int = 0
    sentence: str = ""
    epoch: int = 1
    asked: bool = False
    stuck: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    faults_us: int = 0
    unread: tuple[str, ...] = ()
    mute: bool = False

    def waits(self, names: Mapping[str, str]) -> str:
        """Why it cannot be proven lost, of one that is suspected; "": it can. names: of pools, by their words."""
        if self.standing != "suspected" or not self.unread:
            return ""
        pools = ", ".join(sorted(names.get(pool, pool) for pool in self.unread))
        return f"its lease cannot be proven to be spent, as nobody can read its record in pool {pools}"

    def remarks(self, names: Mapping[str, str]) -> tuple[str, ...]:
        """What there is to say of it beside its sentence."""
        waits = self.waits(names)
        said = f"{waits}: bring the pool back, or say that it is off (asvctl ha confirm-off)"
        return (*self.faults(names), *([said] if waits else []))

    def faults(self, names: Mapping[str, str]) -> tuple[str, ...]:
        """What is wrong with its paths, though it is heard, a sentence each. names: of pools, by their words."""
        lost = "that path of its lease is gone"
        pools = sorted(names.get(pool, pool) for pool in self.stuck)
        said = [f"its record in pool {pool} is not written, or nobody can read it: {lost}" for pool in pools]
        mute = ["its watchdog does not answer: nobody there pauses or ends what it guards"] if self.mute else []
        return (*mute, *said, *self.networks)


@dataclass(slots=True)
class HaView:
    """changed_us: when it was armed, disarmed, held or released last."""

    settings: HaSettings = field(default_factory=HaSettings)
    armed: bool = True
    reason: str = ""
    until_us: int = 0
    held: str = ""
    remedy: str = ""
    changed_us: int = 0
    term: int = 0
    holder: str = ""
    term_us: int = 0
    nodes: dict[str, Standing] = field(default_factory=dict)
    told: dict[str, list[int]] = field(default_factory=dict)
    """by node, the positions of the newest events of its lease, and of its fence device's cuts: they belong to its story"""
    leading: dict[str, list[int]] = field(default_factory=dict)
    """by node, the positions of what was seen and done since it was trusted last"""
    led: dict[int, list[int]] = field(default_factory=dict)
    """by NodeLost (position), those that led to it"""

    def apply(self, recorded: Recorded, event: Any) -> None:
        if recorded.stream.startswith(LEASE) or isinstance(event, CUTS):
            name = recorded.stream.removeprefix(LEASE) if not isinstance(event, CUTS) else event.node
            self.told[name] = [*self.told.get(name, [])[1 - TOLD_MAX :], recorded.position]
        self._lead(recorded.position, event)
        match event:
            case HaSet():
                self.settings = event.settings
            case HaDisarmed():
                self.armed, self.reason, self.until_us, self.changed_us = False, event.reason, event.until_us, recorded.at_us
            case HaArmed():
                self.armed, self.reason, self.until_us, self.changed_us = True, "", 0, recorded.at_us
            case HaHeld():
                self.held, self.remedy, self.changed_us = event.sentence, event.remedy, recorded.at_us
            case HaReleased():
                self.held, self.remedy, self.changed_us = "", "", recorded.at_us
            case TermBegan():
                self.term, self.holder, self.term_us = event.term, event.holder, event.at_us
            case LeaseForgotten():
                self.nodes.pop(event.node, None)
            case (
                NodeSuspected() | NodeTrusted() | NodeIsolated() | NodeLost() | NodeOffProven() | NodeReturned() | NodePathsNoted()
            ):  # fmt: skip
                self._node(self.nodes.setdefault(event.node, Standing()), event)

    def _lead(self, position: int, event: Any) -> None:
        match event:
            case NodeTrusted() | NodeReturned() | LeaseForgotten():
                self.leading.pop(event.node, None)
            case NodeLost():
                self.led[position] = self.leading.pop(event.node, [])
                while len(self.led) > LED_MAX:
                    self.led.pop(next(iter(self.led)))
            case _ if isinstance(event, BEFORE_A_LOSS):
                self.leading[event.node] = [*self.leading.get(event.node, [])[1 - TOLD_MAX :], position]

    def _node(self, node: Standing, event: Any) -> None:
        if isinstance(event, NodePathsNoted):
            node.stuck, node.networks, node.mute, node.faults_us = event.pools, event.networks, event.mute, event.at_us
            return
        node.since_us, node.sentence, node.asked, node.unread = event.at_us, "", False, ()
        match event:
            case NodeSuspected():
                node.standing, node.sentence, node.unread = "suspected", said_silences(event.silences), event.unread
            case NodeTrusted():
                node.standing = "trusted"
            case NodeIsolated():
                node.standing, node.sentence = "isolated", said_silences(event.silences)
                node.asked = bool(event.letter)
            case NodeLost() | NodeOffProven():
                node.standing, node.sentence, node.epoch = "lost", event.proof.sentence, event.epoch
            case NodeReturned():
                node.standing, node.epoch = "trusted", event.epoch
