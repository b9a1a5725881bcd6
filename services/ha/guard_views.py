"""What is known of the VMs that are to run and do not, and of those they wait for: whose turn it is. Folded from the log. Pure.

A turn comes by class, then by who is waiting longest; at most `starts_max` are asked for at once. A VM whose `after` names others
waits until these run, or are no more to run, but not for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from libs.common.host import hearing
from libs.common.messages import Recorded
from proto.compute import (
    NodeHealthChanged,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    VmAllotted,
    VmDefined,
    VmDeleted,
    VmDevicesNoted,
    VmFound,
    VmStarted,
    VmStopped,
)
from proto.drills import DrillStarted
from proto.growth import VmReshaped
from proto.guard import (
    Guard,
    GuardEnded,
    GuardSet,
    Mode,
    RestartWanted,
    VmInHand,
    VmOwed,
    VmRecovered,
    VmUnplaced,
    held_fast,
    reaching,
)
from proto.lease import HaArmed, HaDisarmed, HaSet, HaSettings, NodeLost, NodeReturned, NodeTrusted
from proto.machine import CDS, Priority
from proto.memory import CapacitySet
from proto.migration import VmIncomingGone, VmMigrated, VmMigrationEnded
from proto.pools import PoolSet
from services.ha.guard import can_move

AFTER_US_MAX = 300_000_000
"""how long a VM waits for those in its `after`"""
CHANGED_US_MIN = 2_000_000
"""how soon after an attempt that came to nothing a change leads to the next; an eighth of the pause where that is longer"""
RETURNED_US_MAX = 60_000_000
ORDER = {priority: place for place, priority in enumerate(Priority)}

CHANGES = (
    *(VmStopped, VmDeleted, VmAllotted, VmReshaped, VmIncomingGone, VmMigrationEnded),
    *(NodeReported, NodeReturned, NodeTrusted, NodeUncordoned, NodeHealthChanged, CapacitySet, PoolSet, HaSet),
)
"""upon which a VM that fitted nowhere may fit"""
CHANGING = frozenset(CHANGES)
FOLLOWS = (
    *CHANGES, VmDefined, VmDevicesNoted, VmStarted, VmFound, VmMigrated, NodeRemoved, DrillStarted,
)  # fmt: skip
"""events of others that this is made of (ha's own among CHANGES aside)"""


class Waiting(msgspec.Struct, gc=False):
    """A VM that is owed. at: the position of its last event here."""

    node: str
    since_us: int
    priority: Priority
    try_us: int
    at: int
    tried_us: int = 0
    asked: bool = False
    unplaced: str = ""
    remedy: str = ""


@dataclass(slots=True)
class Known:
    """A VM. node: where it was seen running, until its end; "": it does not; generation: as which it does. disks: what it writes,
    as (pool, word); no word: not known yet; there: what it is to write once its guest has moved."""

    node: str = ""
    generation: int = 0
    disks: tuple[tuple[str, str], ...] = ()
    there: tuple[tuple[str, str], ...] = ()


NOBODY = Known()


class _Derived:
    """Beside the fields of the views, which go into snapshots: what is made of them."""

    __slots__ = ("counted", "told")
    told: tuple[int, dict[str, str]]
    counted: dict[str, Counter[str]] | None


@dataclass(slots=True)
class GuardViews(_Derived):
    """coming: VMs that ended against their will, which are owed in a moment. reach: node -> pool -> word. changed: the
    position of the last of CHANGES."""

    guards: dict[str, Guard] = field(default_factory=dict)
    priorities: dict[str, Priority] = field(default_factory=dict)
    owed: dict[str, Waiting] = field(default_factory=dict)
    coming: set[str] = field(default_factory=set)
    vms: dict[str, Known] = field(default_factory=dict)
    reach: dict[str, dict[str, str]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    returned_us: dict[str, int] = field(default_factory=dict)
    settings: HaSettings = field(default_factory=HaSettings)
    disarmed: bool = False
    disarmed_until_us: int = 0
    changed: int = 0

    def __post_init__(self) -> None:
        self.told = (-1, {})  # type: ignore[misc]  # mypy sees own slots only
        self.counted = None  # type: ignore[misc]

    @property
    def counts(self) -> dict[str, Counter[str]]:
        """Of each pool, how many nodes reach it by which word; counted anew where nodes have said other than before."""
        if self.counted is None:
            self.counted = reaching(self.reach.values())  # type: ignore[misc]
        return self.counted

    def anew(self) -> None:
        """Whose turn it is is to be looked at again."""
        self.told = (-1, {})  # type: ignore[misc]

    def apply(self, recorded: Recorded, event: Any) -> None:
        self.anew()
        if (does := self.HEARS.get(type(event))) is not None:
            does(self, recorded, event)

    def _rare(self, recorded: Recorded, event: Any) -> None:
        if type(event) in CHANGING:
            self.changed = recorded.position
        match event:
            case HaSet() | HaDisarmed() | HaArmed() | NodeLost() | NodeReturned():
                self._whole(recorded, event)
            case NodeRemoved():
                self.reach.pop(event.node, None)
                self.returned_us.pop(event.node, None)
                self.counted = None  # type: ignore[misc]
                self.lost.discard(event.node)
            case _:
                self._others(event)

    def _set(self, recorded: Recorded, event: GuardSet) -> None:
        self.guards[event.vm] = event.guard

    def _reported(self, recorded: Recorded, event: NodeReported) -> None:
        self.changed = recorded.position
        self.reach[event.node] = event.capabilities.pool_ids
        self.counted = None  # type: ignore[misc]

    def _own(
        self, recorded: Recorded, event: VmOwed | RestartWanted | VmInHand | VmUnplaced | VmRecovered | GuardEnded
    ) -> None:
        before = self.owed.get(event.vm)
        self.coming.discard(event.vm)
        if type(event) is VmOwed:
            since_us = before.since_us if before else event.at_us
            self.owed[event.vm] = Waiting(event.node, since_us, event.priority, event.try_us, recorded.position)
        elif type(event) is VmRecovered or type(event) is GuardEnded:
            self.owed.pop(event.vm, None)
        elif before is not None and type(event) is VmUnplaced:
            before.asked, before.at, before.try_us = False, recorded.position, event.try_us
            before.unplaced, before.remedy = event.sentence, event.remedy
        elif before is not None:  # RestartWanted, VmInHand
            before.asked, before.at, before.tried_us = True, recorded.position, recorded.at_us

    def _whole(self, recorded: Recorded, event: Any) -> None:
        match event:
            case HaSet():
                self.settings = event.settings
            case HaDisarmed():
                self.disarmed, self.disarmed_until_us = True, event.until_us
            case HaArmed():
                self.disarmed = False
            case NodeLost():
                self.lost.add(event.node)
            case NodeReturned():
                self.lost.discard(event.node)
                self.returned_us[event.node] = recorded.at_us

    def _others(self, event: Any) -> None:
        match event:
            case VmAllotted():
                self.priorities[event.vm] = event.priority
            case VmIncomingGone():
                self._known(event.vm).there = ()
            case VmDeleted():
                for of_vm in (self.priorities, self.guards, self.vms):
                    of_vm.pop(event.vm, None)
                self.coming.discard(event.vm)

    def _defined(self, recorded: Recorded, event: VmDefined) -> None:
        self.priorities[event.vm] = event.priority
        self._known(event.vm).disks = tuple(sorted({(d.pool, "") for d in event.disks if d.bus not in CDS}))

    def _stopped(self, recorded: Recorded, event: VmStopped) -> None:
        vm, self.changed = event.vm, recorded.position
        if (known := self.vms.get(vm)) is not None:
            known.node, known.generation, known.there = "", 0, ()
        if event.unwished and self.guards.get(vm, Guard()).mode is not Mode.OFF:
            self.coming.add(vm)

    def _wrote(self, recorded: Recorded, event: VmDevicesNoted) -> None:
        """Most have what they had. A recovered disk is also where its backup is, until its data has come home."""
        disks = tuple([(d.pool, d.pool_id) for d in event.disks if d.bus not in CDS])
        if any(d.layers for d in event.disks):
            origins = [layer.origin for d in event.disks for layer in d.layers if layer.origin is not None]
            disks = (*disks, *[(one.pool, one.pool_id) for one in origins])
        if len(disks) > 1:
            disks = tuple(sorted(set(disks)))
        known = self._known(event.vm)
        if known.node and event.generation > known.generation:
            known.there = disks
        elif known.disks != disks:
            known.disks = disks

    def _known(self, vm: str) -> Known:
        found = self.vms.get(vm)
        if found is None:
            found = self.vms[vm] = Known()
        return found

    def _drilled(self, recorded: Recorded, event: DrillStarted) -> None:
        """Nobody wants it to run on: how it ends is what the drill is for."""
        self.guards[event.target] = Guard(mode=Mode.OFF)

    def _change(self, recorded: Recorded, event: Any) -> None:
        self.changed = recorded.position

    def _runs(self, recorded: Recorded, event: VmStarted | VmFound | VmMigrated) -> None:
        known = self._known(event.vm)
        known.node, known.generation = event.node, event.generation
        if known.there:
            if type(event) is VmMigrated:
                known.disks = known.there
            known.there = ()
        self.coming.discard(event.vm)

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys(CHANGES, _change),
        **dict.fromkeys((HaSet, HaDisarmed, HaArmed, NodeLost, NodeReturned, NodeRemoved), _rare),
        GuardSet: _set,
        NodeReported: _reported,
        **dict.fromkeys((VmAllotted, VmIncomingGone, VmDeleted), _rare),
        VmDefined: _defined,
        VmStopped: _stopped,
        **dict.fromkeys((VmOwed, RestartWanted, VmInHand, VmUnplaced, VmRecovered, GuardEnded), _own),
        **dict.fromkeys((VmStarted, VmFound, VmMigrated), _runs),
        VmDevicesNoted: _wrote,
        DrillStarted: _drilled,
    }

    # --- what a decision is to know -----------------------------------------------------------------------------------

    def why_not(self, vm: str) -> str:
        """Why it cannot be started elsewhere than where its disks are; empty: it can. Lost nodes reach what they reached."""
        said = (held_fast(pool, word, self.counts) for pool, word in self.vms.get(vm, NOBODY).disks)
        return next(filter(None, said), "")

    def busy(self) -> set[str]:
        """Nodes where VMs run."""
        return {known.node for known in self.vms.values() if known.node}

    def circle(self, vm: str, after: tuple[str, ...]) -> tuple[str, ...]:
        """VMs that would wait for one another if `vm` waited for these; the first is `vm`. Empty: none."""
        seen: set[str] = set()
        ways: list[tuple[str, ...]] = [(vm, name) for name in sorted(after)]
        while ways:
            way = ways.pop()
            if way[-1] == vm:
                return way[:-1]
            if way[-1] not in seen:
                seen.add(way[-1])
                ways += [(*way, name) for name in sorted(self.guards.get(way[-1], Guard()).after)]
        return ()

    def armed(self, now_us: int) -> bool:
        """Something may be restarted. (While ha is held nothing is declared lost; what ended before starts all the same.)"""
        over = 0 < self.disarmed_until_us <= now_us
        return not self.disarmed or over

    def awaits(self, vm: str) -> list[str]:
        """Those of its `after` that are to run and do not, or whose node is lost."""
        named = self.guards.get(vm, Guard()).after
        down = self.owed.keys() | self.coming
        return [name for name in named if name in down or self.vms.get(name, NOBODY).node in self.lost]

    def was_lost(self, node: str, now_us: int) -> bool:
        """It is, or came back a moment ago: what it says of ends that it did not see is of its loss."""
        return node in self.lost or now_us - self.returned_us.get(node, -RETURNED_US_MAX) < RETURNED_US_MAX

    def knows(self, vm: str) -> bool:
        """There is something of it that its deletion ends."""
        return vm in self.owed or self.guards.get(vm, Guard()) != Guard()

    def is_changed(self, waiting: Waiting) -> bool:
        return self.changed > waiting.at

    def due(self, waiting: Waiting, now_us: int) -> bool:
        """Its pause is over, or something changed since it was tried."""
        if now_us >= waiting.try_us:
            return True
        soon_us = max(CHANGED_US_MIN, (waiting.try_us - waiting.tried_us) // 8)
        return bool(waiting.unplaced) and self.is_changed(waiting) and now_us >= waiting.tried_us + soon_us

    def turns(self, now_us: int) -> dict[str, str]:
        """VMs that may be asked for now, in their order; for each, for whom it does not wait any longer."""
        if self.told[0] != now_us:
            self.told = (now_us, dict(self._turns(now_us)))  # type: ignore[misc]
        return self.told[1]

    def _turns(self, now_us: int) -> Iterator[tuple[str, str]]:
        if not self.armed(now_us):
            return
        free = self.settings.starts_max - sum(waiting.asked for waiting in self.owed.values())
        for vm in sorted(self.owed, key=self._rank) if free > 0 else ():
            waiting = self.owed[vm]
            if waiting.asked or not self.due(waiting, now_us):
                continue
            stuck = waiting.node in self.lost and not self._moves(vm)
            awaited = self.awaits(vm)
            if stuck or (awaited and now_us < waiting.since_us + AFTER_US_MAX):
                continue
            said = f"it waited {AFTER_US_MAX // 60_000_000} minutes for {', '.join(awaited)}, and does not any longer"
            yield vm, said if awaited else ""
            free -= 1
            if free <= 0:
                return

    def _rank(self, vm: str) -> tuple[int, int, str]:
        waiting = self.owed[vm]
        return ORDER[waiting.priority], waiting.since_us, vm

    def _moves(self, vm: str) -> bool:
        return can_move(self.guards.get(vm, Guard()), self.why_not(vm))
