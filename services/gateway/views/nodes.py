"""Nodes as the events tell of them. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded
from proto import compute as c
from proto import memory
from proto.guard import reaching


class Node(msgspec.Struct):
    """A node. Memory is what the ledger promised and may promise; `online`: a heartbeat came lately. vcpus: promised to VMs there,
    vcpus_max: that may be, -1: not known just now; over_limit: where more are promised, in a sentence. leaving: its
    agent takes away what it made of its host, and then it is removed. standing: `suspected`, `isolated` or `lost`; empty: it is
    trusted, as far as it has a lease."""

    name: str
    key: str = ""
    joined_us: int = 0
    cordoned: bool = False
    cordon_reason: str = ""
    health_pct: int = 100
    health_reason: str = ""
    capabilities: c.Capabilities | None = None
    boot_id: str = ""
    address: str = ""
    reserved_mib: int = 0
    capacity_mib: int = 0
    online: bool = False
    vms: tuple[str, ...] = ()
    vcpus: int = -1
    vcpus_max: int = -1
    leaving: bool = False
    over_limit: str = ""
    standing: str = ""


@dataclass(slots=True)
class NodesView:
    all: dict[str, Node] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    """of all that ever joined, in that order: placements tell of nodes by them"""

    def pool_names(self) -> dict[str, str]:
        """By the pools' words."""
        known = [node.capabilities.pool_ids for node in self.all.values() if node.capabilities is not None]
        return {word: name for ids in known for name, word in ids.items()}

    def reaching(self) -> dict[str, Counter[str]]:
        """Of each pool, how many nodes reach it by which word."""
        return reaching(node.capabilities.pool_ids for node in self.all.values() if node.capabilities is not None)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if type(event) not in HEARD:
            return
        match event:
            case memory.MemoryReserved() | memory.MemoryReleased():
                if (known := self.all.get(event.node)) is not None:
                    known.reserved_mib = event.reserved_mib
            case c.NodeJoined():
                self.numbers.setdefault(event.node, len(self.numbers))
                node = self.all.setdefault(event.node, Node(event.node))
                node.key, node.joined_us = event.key, recorded.at_us
            case c.NodeRemoved():
                self.all.pop(event.node, None)
            case (
                c.NodeReported() | c.NodeHealthChanged() | c.NodeCordoned() | c.NodeUncordoned() | c.NodeLeaveRequested()
                | c.NodeLeaveRefused()
            ):  # fmt: skip
                _noted(self.all.get(event.node), event)
            case memory.CapacitySet():
                if (known := self.all.get(event.node)) is not None:
                    known.capacity_mib = event.capacity_mib


HEARD = frozenset({
    c.NodeJoined, c.NodeRemoved, c.NodeReported, c.NodeHealthChanged, c.NodeCordoned, c.NodeUncordoned, c.NodeLeaveRequested,
    c.NodeLeaveRefused, memory.CapacitySet, memory.MemoryReserved, memory.MemoryReleased,
})  # fmt: skip


def _noted(node: Node | None, event: Any) -> None:
    if node is None:
        return
    match event:
        case c.NodeReported():
            node.capabilities, node.boot_id, node.address = event.capabilities, event.boot_id, event.address
        case c.NodeCordoned():
            node.cordoned, node.cordon_reason = True, event.reason
        case c.NodeUncordoned():
            node.cordoned, node.cordon_reason = False, ""
        case c.NodeLeaveRequested() | c.NodeLeaveRefused():
            node.leaving = isinstance(event, c.NodeLeaveRequested)
        case c.NodeHealthChanged():
            node.health_pct, node.health_reason = event.health_pct, event.reason
