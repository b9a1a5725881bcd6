"""A part of io's view of itself: what VMs are defined as, their backups, and what is being done with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from msgspec.structs import replace

from libs.common.host import hearing
from proto.backups import (
    BackupCancelRequested,
    BackupDamaged,
    BackupDeleted,
    BackupDeleteFailed,
    BackupDeleteRequested,
    BackupFailed,
    BackupRequested,
    BackupTaken,
    BackupVerified,
    BackupVerifyRequested,
    Definition,
)
from proto.compute import VmDefined, VmDeleted
from proto.growth import VmReshaped, VmResized
from proto.io import DevicesGranted, DevicesReturned
from proto.plan import VmAllotted


@dataclass(slots=True)
class Saved:
    """Where a backup is, and the image whose files its VM was started from. key: by which it is encrypted."""

    pool: str
    pool_id: str
    boot_image: str = ""
    key: str = ""


@dataclass(slots=True)
class Doing:
    """generation: of the process that a backup is taken of, 0: the VM was at rest; -1: none is taken. deletes: one is deleted."""

    backup: str
    node: str
    generation: int = -1
    deletes: bool = False
    saved: Saved | None = None


@dataclass(slots=True)
class BackupViews:
    """defined: by VM; its disks and NICs as it was defined first: how they are is known of its devices. holders: the generation
    that last might write its disks. saved: VM -> backup; doing: by VM; left: VM -> backup that came to nothing -> the node that is
    to remove what there is of it."""

    defined: dict[str, Definition] = field(default_factory=dict)
    holders: dict[str, int] = field(default_factory=dict)
    saved: dict[str, dict[str, Saved]] = field(default_factory=dict)
    doing: dict[str, Doing] = field(default_factory=dict)
    left: dict[str, dict[str, str]] = field(default_factory=dict)

    def _vm(self, event: Any) -> None:
        match event:
            case VmDefined():
                self.defined[event.vm] = Definition(
                    shape=event.shape, disks=event.disks, nics=event.nics, priority=event.priority, boot=event.boot,
                    boot_image=event.boot_image, allotment=event.allotment,
                )  # fmt: skip
            case VmDeleted():
                self.defined.pop(event.vm, None)
                self.holders.pop(event.vm, None)
            case _ if (now := self.defined.get(event.vm)) is not None:
                self.defined[event.vm] = _changed(now, event)

    def _granted(self, event: DevicesGranted) -> None:
        self.holders[event.vm] = event.generation

    def _returned(self, event: DevicesReturned) -> None:
        self.holders[event.vm] = event.holder

    def _backup(self, event: Any) -> None:
        vm, doing = event.vm, self.doing.get(event.vm)
        match event:
            case BackupRequested():
                saved = Saved(event.pool, event.pool_id, event.definition.boot_image, event.key)
                self.doing[vm] = Doing(event.backup, event.node, event.generation, saved=saved)
            case BackupDeleteRequested() | BackupVerifyRequested():
                self.doing[vm] = Doing(event.backup, event.node, deletes=isinstance(event, BackupDeleteRequested))
            case BackupCancelRequested() if doing is not None and doing.generation >= 0:
                return  # its node is still to remove what there is of it
            case BackupTaken() if doing is not None and doing.saved is not None:
                self.saved.setdefault(vm, {})[event.backup] = doing.saved
                del self.doing[vm]
            case BackupDeleted():
                self._deleted(event)
            case BackupFailed() if event.left and doing is not None:
                self.left.setdefault(vm, {})[event.backup] = doing.node
                del self.doing[vm]
            case _:
                self.doing.pop(vm, None)

    def _deleted(self, event: BackupDeleted) -> None:
        for kept in (self.saved, self.left):
            if kept.get(event.vm, {}).pop(event.backup, None) is not None and not kept[event.vm]:
                del kept[event.vm]
        if (doing := self.doing.get(event.vm)) is not None and doing.backup == event.backup:
            del self.doing[event.vm]

    HEARS: ClassVar[hearing.Heard] = {
        **dict.fromkeys(
            (VmDefined, VmDeleted, VmReshaped, VmResized, VmAllotted), lambda part, recorded, event: part._vm(event)
        ),
        DevicesGranted: lambda part, recorded, event: part._granted(event),
        DevicesReturned: lambda part, recorded, event: part._returned(event),
        **dict.fromkeys(
            (
                *(BackupRequested, BackupCancelRequested, BackupTaken, BackupFailed, BackupDeleteRequested, BackupDeleted),
                *(BackupDeleteFailed, BackupVerifyRequested, BackupVerified, BackupDamaged),
            ),
            lambda part, recorded, event: part._backup(event),
        ),
    }


def _changed(now: Definition, event: VmReshaped | VmResized | VmAllotted) -> Definition:
    match event:
        case VmReshaped():
            return replace(now, shape=event.shape)
        case VmResized():
            return replace(now, shape=replace(now.shape, vcpus=event.vcpus, memory_mib=event.memory_mib))
        case VmAllotted():
            return replace(now, priority=event.priority, allotment=event.allotment)
