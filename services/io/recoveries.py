"""A part of io's view of itself: which recoveries are under way, and what becomes of them upon what others, and we, have decided.

    RecoveryRequested ──▶ (compute) ──▶ VmRecoveryPrepared ──▶ RecoverDisks
    VmRecoveryRefused, DisksNotRecovered, DisksHome, DevicesRemoved ──▶ EndRecovery: its backup is held no more
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Command
from proto.compute import VmFound, VmRecoveryPrepared, VmRecoveryRefused, VmStrangerGone, VmStrangerSeen
from proto.io import (
    DevicesChanged,
    DevicesGranted,
    DevicesRemoved,
    DevicesReturned,
    DisksHome,
    DisksNotRecovered,
    DisksRecovered,
    EndKind,
    EndRecovery,
    RecoverDisks,
    RecoveryEnded,
    RecoveryRequested,
)
from proto.machine import Disk
from proto.pools import PoolRoom


@dataclass(slots=True)
class RecoveryViews:
    """asked: source -> recovery -> what was asked for, until it has ended. standing: target -> the recoveries that put its disks on
    a backup, as (source, recovery), until they have ended. former: VM -> images on which the disks stand that it had before."""

    asked: dict[str, dict[str, RecoveryRequested]] = field(default_factory=dict)
    standing: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    former: dict[str, tuple[str, ...]] = field(default_factory=dict)
    on: dict[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    """VM -> the backups, as (VM, backup), on which its disks stand, whatever the log still says of a recovery"""

    def apply(self, event: Any) -> None:
        match event:
            case RecoveryRequested():
                self.asked.setdefault(event.vm, {})[event.recovery] = event
            case RecoveryEnded():
                self.asked.get(event.vm, {}).pop(event.recovery, None)
                if not self.asked.get(event.vm, True):
                    del self.asked[event.vm]
                left = tuple(one for one in self.standing.pop(event.target, ()) if one != (event.vm, event.recovery))
                if left:
                    self.standing[event.target] = left
            case DisksRecovered():
                self.standing[event.vm] = (*self.standing.get(event.vm, ()), (event.source, event.recovery))
                images = tuple(disk.image for disk in event.former if disk.image)
                if images:
                    self.former[event.vm] = (*self.former.get(event.vm, ()), *images)
            case DisksHome() | DevicesRemoved():
                self.former.pop(event.vm, None)

    def stands(self, vm: str, disks: Sequence[Disk]) -> None:
        origins = [layer.origin for disk in disks if disk.layers for layer in disk.layers if layer.origin is not None]
        if origins:
            self.on[vm] = frozenset((origin.vm, origin.backup) for origin in origins)
        else:
            self.on.pop(vm, None)

    def stood_on(self, vm: str) -> dict[str, str]:
        """backup -> a VM whose disks stand on it."""
        return {backup: by for by, on in sorted(self.on.items()) for of, backup in sorted(on) if of == vm}

    def _found(self, event: VmFound | VmStrangerSeen) -> None:
        if event.has_disks:
            self.stands(event.vm, event.has_disks)

    def _removed(self, event: DevicesRemoved) -> None:
        self.stands(event.vm, ())
        self.apply(event)

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys(
            (RecoveryRequested, RecoveryEnded, DisksRecovered, DisksHome), lambda part, recorded, event: part.apply(event)
        ),
        **dict.fromkeys(
            (DevicesGranted, DevicesChanged, DevicesReturned), lambda part, recorded, event: part.stands(event.vm, event.disks)
        ),
        **dict.fromkeys((VmFound, VmStrangerSeen), lambda part, recorded, event: part._found(event)),
        VmStrangerGone: lambda part, recorded, event: part.stands(event.vm, ()),
        DevicesRemoved: lambda part, recorded, event: part._removed(event),
    }

    def of(self, target: str) -> Iterator[RecoveryRequested]:
        """Those under way to a VM, the oldest first."""
        return (one for _, asked in sorted(self.asked.items()) for one in asked.values() if one.target == target)


def react(event: Any, views: Any) -> Sequence[Command]:
    """views: io's own."""
    match event:
        case VmRecoveryPrepared():
            return _disks(event, views.recoveries)
        case VmRecoveryRefused() | DisksNotRecovered():
            return [_end(event.source, event.recovery, EndKind.REFUSED, event.sentence)] if event.recovery else []
        case DisksRecovered():
            said = f"{event.vm} was recovered again, by {event.recovery}"
            others = (one for one in views.recoveries.standing.get(event.vm, ()) if one != (event.source, event.recovery))
            return [_end(source, recovery, EndKind.GONE, said) for source, recovery in others]
        case DisksHome(recovery=""):
            return [_end(one.vm, one.recovery, EndKind.INDEPENDENT) for one in views.recoveries.of(event.vm)]
        case DisksHome():
            return [_end(event.source, event.recovery, EndKind.INDEPENDENT)]
        case DevicesRemoved():
            said = f"{event.vm} was deleted"
            return [_end(source, recovery, EndKind.GONE, said) for source, recovery in views.recoveries.standing.get(event.vm, ())]
        case _:
            return ()


def rooms(command: RecoverDisks, has: Sequence[Disk], views: Any, now_us: int) -> tuple[PoolRoom, ...]:
    """Of the pools in which its disks are to lie, each as some node that has it sees it."""
    pools = {disk.pool for disk in has if not disk.bus.is_cd} | {w.pool for w in command.definition.disks if not w.bus.is_cd}
    at = ((name, views.node_with({name: ""}, now_us, command.node)) for name in sorted({command.pool} if command.pool else pools))
    return tuple(views.pools.room(node, name, now_us) for name, node in at if node)


def _disks(event: VmRecoveryPrepared, views: RecoveryViews) -> Sequence[Command]:
    asked = views.asked.get(event.source, {}).get(event.recovery)
    if asked is None:
        return ()
    return [
        RecoverDisks(
            vm=event.vm, source=event.source, recovery=event.recovery, disks=asked.disks, definition=asked.definition,
            node=asked.node, pool=asked.pool, start=asked.start, isolated=asked.isolated,
            rate_mibps=asked.rate_mibps,
        )
    ]  # fmt: skip


def _end(source: str, recovery: str, end: EndKind, sentence: str = "") -> EndRecovery:
    return EndRecovery(vm=source, recovery=recovery, end=end, sentence=sentence)
