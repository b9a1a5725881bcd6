"""A part of io's view of itself: which snapshots VMs have, and the files that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from libs.common.host import hearing
from proto.io import (
    DevicesRemoved,
    DisksRemovalRequested,
    SnapshotDeleted,
    SnapshotDeleteRequested,
    SnapshotFailed,
    SnapshotFound,
    SnapshotRequested,
    SnapshotReverted,
    SnapshotTaken,
)


@dataclass(slots=True)
class TakenViews:
    """VM -> snapshot -> files. asked: not taken yet, so its files may still be written."""

    asked: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    taken: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    def apply(self, event: Any) -> None:
        match event:
            case SnapshotRequested():
                self.asked.setdefault(event.vm, {})[event.name] = tuple(held.file for held in event.disks)
            case SnapshotTaken():
                if (files := self.asked.get(event.vm, {}).pop(event.name, None)) is not None:
                    self.taken.setdefault(event.vm, {})[event.name] = files
            case SnapshotFound() if not event.leaving:
                self.taken.setdefault(event.vm, {})[event.name] = tuple(held.file for held in event.disks)
            case SnapshotFailed() | SnapshotDeleteRequested() | SnapshotDeleted():
                self._drop(event.vm, (event.name,))
            case SnapshotReverted():
                self._drop(event.vm, event.lost)
            case DisksRemovalRequested() | DevicesRemoved():
                self.asked.pop(event.vm, None)
                self.taken.pop(event.vm, None)

    HEARS: ClassVar[hearing.Heard] = dict.fromkeys(
        (
            *(SnapshotRequested, SnapshotTaken, SnapshotFound, SnapshotFailed, SnapshotDeleteRequested, SnapshotDeleted),
            *(SnapshotReverted, DisksRemovalRequested, DevicesRemoved),
        ),
        lambda part, recorded, event: part.apply(event),
    )

    def _drop(self, vm: str, names: tuple[str, ...]) -> None:
        for name in names:
            self.asked.get(vm, {}).pop(name, None)
            self.taken.get(vm, {}).pop(name, None)
