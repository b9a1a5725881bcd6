"""The nodes as placement sees them: facts made of the views, kept in the index, and renewed only where something changed.

All of it follows from the views, the time and heartbeats; it is made anew when a snapshot is read, and no part of one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from libs.common.messages import NodeId
from libs.memory.promise import charged_mib, guaranteed_mib, ratio_pct
from proto.compute import Capabilities, NodeReported, Placement
from proto.ladder import MemoryPolicy
from proto.machine import Priority
from proto.memory import Promise
from proto.placement import PlacementRules
from services.compute.cells import Planned, Taken, left
from services.compute.index import NodeIndex
from services.compute.lifetime_outlook import HORIZONS, Outlook
from services.compute.lifetime_table import Life, LifetimeTable
from services.compute.policy import PRIORITIES, NodeFacts, Weights, Wishes
from services.compute.reach import reached
from services.compute.waits import Waits

SILENCE_US_MAX = 5_000_000
"""A node not heard for longer is offline for placement: five missed heartbeats, as long as a node's lease."""

HINT_US_MAX = 5_000_000
"""How long a choice counts that the log does not yet show in full: starts that are asked for in one burst then spread over the
nodes instead of all meeting on the one that was emptiest. Longer than any log takes to come back to its own writer."""

LOAD_STEPS = 4
"""A node's load counts in quarters of a thread, so that not every heartbeat changes its facts."""


class Share(msgspec.Struct, frozen=True, gc=False):
    """What a VM takes of its node, its class, and the groups that keep it near to or away from others."""

    vcpus: int
    cpu_reserved_pct: int = 0
    together: str = ""
    apart: str = ""
    priority: Priority = Priority.NORMAL
    memory_mib: int = 0


@dataclass(slots=True)
class NodeView:
    """A node in the views. VMs are counted from the choice of the node until the end of the process was seen."""

    NOT_OF_LOG: ClassVar = frozenset({"heard_us", "load", "cells_free_mib", "waits", "told", "pool_rooms"})

    reported: NodeReported | None = None
    cordoned: bool = False
    capacity_mib: int = 0
    """what may be promised to starts: the ledger's capacity without the failover share"""
    failover_mib: int = 0
    moves_mib: int = 0
    """of that, what high availability keeps by itself"""
    reserved_mib: int = 0
    charged_mib: int = 0
    ratios: MemoryPolicy = field(default_factory=MemoryPolicy)
    heard_us: int = 0
    load: float = 0.0
    waits: Waits = field(default_factory=Waits)
    told: tuple[float, int, int] = (0.0, 0, 0)
    """of `waits`, in steps"""
    cells_free_mib: tuple[int, ...] = ()
    """measured in each NUMA cell; empty: not told"""
    health_pct: int = 100
    health_reason: str = ""
    no_storage: str = ""
    """why it is not to be used though its agent is heard: it cannot write to a shared pool"""
    planned: dict[str, Planned] = field(default_factory=dict)
    lost: bool = False
    spoken: int = 1
    """the latest incarnation of the log in which it told all that it runs"""
    pool_rooms: tuple[tuple[str, int], ...] = ()
    """as in NodeFacts"""
    vms: dict[str, Share] = field(default_factory=dict)


class Hint(msgspec.Struct, frozen=True, gc=False):
    """A VM on its way to a node: chosen, its memory not yet seen reserved."""

    node: str
    share: Share
    promise: Promise
    until_us: int


def _cells(
    node: NodeView, can: Capabilities, ratio: float, vms: Mapping[str, Share], measured: bool = True
) -> tuple[tuple[int, int], ...]:
    if len(can.cells) < 2:
        return ()
    taken = {vm: Taken(share.vcpus, share.memory_mib) for vm, share in vms.items()}
    return left(can, node.capacity_mib, ratio, taken, node.planned, node.cells_free_mib if measured else ())


class Fleet:
    """`changed`, `heard` and `hinted` say what is to be looked at again, `renew` looks, `place` decides."""

    def __init__(
        self, nodes: dict[str, NodeView], hints: dict[str, Hint], numbers: Mapping[str, int], rules: PlacementRules
    ) -> None:
        """The first three are the views' own, and are looked at whenever facts are made."""
        self._rules = rules
        self._nodes, self._hints, self._numbers = nodes, hints, numbers
        self._index = NodeIndex(horizons=HORIZONS)
        self._changed: set[str] = set(nodes)
        self.on: dict[str, tuple[str, ...]] = {}
        """VM -> the nodes on which it counts"""
        for name, node in nodes.items():
            for vm in node.vms:
                self.on[vm] = (*self.on.get(vm, ()), name)
        self._outlook: Outlook | None = None
        self._coming: dict[str, dict[str, Hint]] = {}
        self._expiring: list[tuple[int, str]] = []
        self._online: set[str] = set()
        self._silent: list[tuple[int, str]] = []
        for vm, hint in hints.items():
            self._come(vm, hint)
        for name, node in nodes.items():
            if node.heard_us:
                self.heard(name, node.heard_us)

    def ruled(self, rules: PlacementRules) -> None:
        """Other limits hold for all nodes."""
        self._rules = rules
        self._changed.update(self._nodes)

    def changed(self, node: str) -> None:
        """Something about this node is other than it was, or it is no more."""
        self._changed.add(node)

    def takes(self, node: str, vm: str) -> None:
        """The VM counts there, or for something else than before."""
        on = self.on.get(vm)
        if on is None:
            self.on[vm] = (node,)
        elif node not in on:
            self.on[vm] = (*on, node)
        self._changed.add(node)

    def leaves(self, node: str, vm: str) -> None:
        """It does not any more."""
        on = self.on.pop(vm, ())
        if on and on != (node,):
            self.on[vm] = tuple([other for other in on if other != node])
        self._changed.add(node)

    def heard(self, node: str, now_us: int) -> None:
        """A heartbeat. One that comes in time changes nothing."""
        if node not in self._online:
            self._online.add(node)
            self._changed.add(node)
            heapq.heappush(self._silent, (now_us + SILENCE_US_MAX, node))

    def hinted(self, vm: str, hint: Hint | None) -> None:
        """The VM is expected there, in place of what was expected of it before."""
        before = self._hints.pop(vm, None)
        if before is not None:
            self._coming[before.node].pop(vm, None)
            self._changed.add(before.node)
        if hint is not None:
            self._hints[vm] = hint
            self._come(vm, hint)
            self._changed.add(hint.node)

    @property
    def looks_out(self) -> bool:
        """Whether it looks out for when nodes will empty."""
        return self._outlook is not None

    def lives(self, lives: Mapping[str, tuple[str, Life]], now_us: int) -> None:
        """Begins to look out for when nodes will empty: VM → its node and life."""
        self._outlook = Outlook()
        for vm, (node, life) in lives.items():
            self._outlook.add(vm, node, life, now_us)

    def begun(self, vm: str, node: str, life: Life, now_us: int) -> None:
        """The VM has this node."""
        if self._outlook is not None:
            self._outlook.add(vm, node, life, now_us)

    def ended(self, vm: str) -> None:
        """The VM has no node any more."""
        if self._outlook is not None:
            self._outlook.drop(vm)

    def lasts(self, kind: int) -> tuple[int, ...]:
        """How long a new VM of that class may last; empty where that is not looked at, or not known."""
        return self._outlook.lasts(kind) if self._outlook is not None else ()

    def facts(self, name: str, now_us: int, asking: str = "") -> NodeFacts | None:
        """What placement may know of a node; None where there is none of that name. asking: the VM that is to be placed; what was
        expected of it before (a decision that has to be made again) does not stand in its own way."""
        node = self._nodes.get(name)
        if node is None:
            return None
        if node.reported is None:
            return NodeFacts(
                node=NodeId(name), reported=False, online=False, cordoned=node.cordoned, pcpus=0.0, vcpus_promised=0,
                memory_capacity_mib=0, memory_reserved_mib=0, number=self._numbers.get(name, 0),
            )  # fmt: skip
        can = node.reported.capabilities
        coming = {vm: hint for vm, hint in self._coming.get(name, {}).items() if vm != asking}
        promises = [hint.promise for hint in coming.values()]
        vms = node.vms | {vm: hint.share for vm, hint in coming.items()} if coming else node.vms
        shares = vms.values()
        ratio = self._rules.ratio_on(name, {s.priority for s in shares} if self._rules.classes else frozenset())
        demand, ready_pct, steal_pct = node.told
        return NodeFacts(
            node=NodeId(name),
            online=node.heard_us > 0 and now_us - node.heard_us <= SILENCE_US_MAX,
            cordoned=node.cordoned,
            lost=node.lost,
            pcpus=can.pcpus / max(1, can.share),
            vcpus_promised=sum([s.vcpus for s in shares]),
            memory_capacity_mib=node.capacity_mib,
            memory_reserved_mib=node.reserved_mib + sum(map(guaranteed_mib, promises)),
            memory_charged_mib=node.charged_mib + charged_mib(promises, node.ratios),
            ratios_pct=tuple([ratio_pct(node.ratios, priority) for priority in PRIORITIES]),
            memory_ha_mib=node.failover_mib,
            memory_moves_mib=node.moves_mib,
            pools=reached(can),
            bridges=can.bridges,
            firmware=can.firmware,
            tap_filter=can.tap_filter,
            number=self._numbers.get(name, 0),
            vcpus_per_pcpu=ratio,
            cpu_reserved_pct=sum([s.cpu_reserved_pct for s in shares]),
            cells=_cells(node, can, ratio, vms),
            together=tuple(sorted({s.together for s in shares if s.together})),
            apart=tuple(sorted({s.apart for s in shares if s.apart})),
            health=0 if node.no_storage else node.health_pct,
            health_reason=node.no_storage or node.health_reason,
            load=max(node.load if can.share == 1 else 0.0, demand),
            ready_pct=ready_pct,
            steal_pct=steal_pct,
            ends=self._outlook.ends(name) if self._outlook is not None else (),
            pool_rooms=node.pool_rooms,
        )

    def cells_for(self, name: str, vm: str) -> tuple[tuple[int, int], ...]:
        """vCPUs and MiB that each NUMA cell of a node would hold of a VM that runs there, by what is promised; empty: one cell."""
        node = self._nodes.get(name)
        if node is None or node.reported is None:
            return ()
        can = node.reported.capabilities
        others = {other: share for other, share in node.vms.items() if other != vm}
        ratio = self._rules.ratio_on(name, {s.priority for s in others.values()})
        return _cells(node, can, ratio, others, measured=False)

    def expire(self, now_us: int) -> None:
        """Lets go of what was expected and did not come."""
        while self._expiring and self._expiring[0][0] <= now_us:
            _, vm = heapq.heappop(self._expiring)
            hint = self._hints.get(vm)
            if hint is not None and hint.until_us <= now_us:
                self.hinted(vm, None)

    def place(self, wish: Wishes, tried: tuple[str, ...], weights: Weights, now_us: int, asking: str) -> Placement:
        """The choice on the facts as last renewed."""
        before = self._hints.get(asking)
        if before is not None:
            self._put([before.node], now_us, asking)
            self._changed.add(before.node)
        return self._index.place(wish, tried, weights, len(self._numbers))

    def _come(self, vm: str, hint: Hint) -> None:
        coming = self._coming.get(hint.node)
        if coming is None:
            coming = self._coming[hint.node] = {}
        coming[vm] = hint
        heapq.heappush(self._expiring, (hint.until_us, vm))

    def renew(self, table: LifetimeTable, now_us: int) -> None:
        """Brings all facts to now."""
        self.expire(now_us)
        while self._silent and self._silent[0][0] < now_us:
            _, name = heapq.heappop(self._silent)
            node = self._nodes.get(name)
            if node is not None and now_us - node.heard_us <= SILENCE_US_MAX:
                heapq.heappush(self._silent, (node.heard_us + SILENCE_US_MAX, name))
            else:
                self._online.discard(name)
                self._changed.add(name)
        if self._outlook is not None:
            self._changed.update(self._outlook.learn(table, now_us), self._outlook.age(now_us))
        self._put(self._changed, now_us)
        self._changed.clear()

    def _put(self, names: Iterable[str], now_us: int, asking: str = "") -> None:
        known = []
        for name in names:
            facts = self.facts(name, now_us, asking)
            if facts is not None:
                known.append(facts)
            else:
                self._index.drop(name)
        self._index.put(*known)
