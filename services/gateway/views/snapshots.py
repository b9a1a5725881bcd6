"""The snapshots of VMs, as the events tell of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from libs.common.messages import Recorded
from proto import compute as c
from proto import io
from proto.machine import Freeze


class SnapshotDisk(msgspec.Struct):
    """file: what holds it, with the layers beneath, in the pool's folder of disks."""

    name: str
    file: str
    size_mib: int


class VmSnapshot(msgspec.Struct):
    """consistency: `filesystem`, `crash` or `stopped`; "" until it is taken. frozen_ms: how long the guest's file systems stood
    still; note: why they did not, or what hinders it now. taken_us: microseconds since the epoch."""

    name: str
    state: Literal["taking", "taken", "deleting"]
    description: str
    disks: list[SnapshotDisk]
    asked_us: int
    freeze: Freeze = Freeze.AUTO
    consistency: str = ""
    taken_us: int = 0
    frozen_ms: int = 0
    took_ms: int = 0
    note: str = ""


@dataclass(slots=True)
class SnapshotsView:
    """all: of each VM that has some, the oldest first."""

    all: dict[str, list[VmSnapshot]] = field(default_factory=dict)

    def of(self, vm: str) -> list[VmSnapshot]:
        return self.all.get(vm, [])

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case io.SnapshotRequested(vm=vm):
                self.all.setdefault(vm, []).append(_asked(recorded, event))
            case io.SnapshotFound(vm=vm):
                self.all.setdefault(vm, []).append(_found(recorded, event))
            case io.SnapshotTaken(vm=vm):
                if (one := self._find(vm, event.name)) is not None:
                    one.state, one.consistency, one.taken_us = "taken", event.consistency.value, recorded.at_us
                    one.frozen_ms, one.took_ms, one.note = event.frozen_ms, event.took_ms, event.sentence
            case io.SnapshotFailed(vm=vm, unseen=True) | io.SnapshotDeleteRequested(vm=vm):
                if (one := self._find(vm, event.name)) is not None:
                    one.state, one.note = "deleting", ""
            case io.SnapshotFailed(vm=vm) | io.SnapshotDeleted(vm=vm):
                self._drop(vm, (event.name,))
            case io.SnapshotReverted(vm=vm):
                self._drop(vm, event.lost)
            case io.DeviceMisfit(vm=vm, pending=True):
                if (one := self._find(vm, event.name)) is not None:
                    one.note = event.sentence
            case io.DevicesGranted(vm=vm, disks=disks) if vm in self.all:
                self._only(vm, {layer.file for disk in disks for layer in disk.layers})
            case io.DisksRemovalRequested(vm=vm) | io.DevicesRemoved(vm=vm) | c.VmDeleted(vm=vm):
                self.all.pop(vm, None)

    def _find(self, vm: str, name: str) -> VmSnapshot | None:
        return next((one for one in self.of(vm) if one.name == name), None)

    def _drop(self, vm: str, names: tuple[str, ...]) -> None:
        self.all[vm] = [one for one in self.of(vm) if one.name not in names]
        if not self.all[vm]:
            del self.all[vm]

    def _only(self, vm: str, files: set[str]) -> None:
        """After a restore the VM may have fewer than the log knew."""
        self._drop(vm, tuple(one.name for one in self.of(vm) if not any(disk.file in files for disk in one.disks)))


def _asked(recorded: Recorded, event: io.SnapshotRequested) -> VmSnapshot:
    return VmSnapshot(
        name=event.name, state="taking", description=event.description, asked_us=recorded.at_us, freeze=event.freeze,
        disks=[SnapshotDisk(held.name, held.file, held.size_mib) for held in event.disks],
    )  # fmt: skip


def _found(recorded: Recorded, event: io.SnapshotFound) -> VmSnapshot:
    return VmSnapshot(
        name=event.name, state="deleting" if event.leaving else "taken", description="", asked_us=recorded.at_us,
        disks=[SnapshotDisk(held.name, held.file, held.size_mib) for held in event.disks], consistency="crash",
        note="the database was restored from before it was taken",
    )  # fmt: skip
