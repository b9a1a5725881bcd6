"""VMs that run under no lease though they might: started before their node had one, before another node reached their pools,
found after a restore, or with a disk that one node alone reaches, until that is gone. They are guarded as soon as that can be.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from libs.common.messages import Command
from proto.compute import (
    NodeReported,
    ProtectVm,
    VmDeleted,
    VmDevicesNoted,
    VmFound,
    VmGuardRequested,
    VmLaunchRequested,
    VmStarted,
    VmStartFailed,
    VmStopped,
)
from proto.migration import VmIncomingRequested, VmMigrationEnded
from services.compute.reach import guardable, lockers

if TYPE_CHECKING:
    from services.compute.views import Views


@dataclass(slots=True)
class Bare:
    """vms: those that run, or are about to, without a guard. coming: of a migration, whether it is one there."""

    vms: set[str] = field(default_factory=set)
    coming: dict[str, bool] = field(default_factory=dict)

    def apply(self, event: Any) -> None:
        match event:
            case VmLaunchRequested():
                self._note(event.vm, event.spec.protected)
            case VmDevicesNoted() if event.changed and not event.protected:
                self.vms.add(event.vm)
            case VmFound():
                self.vms.add(event.vm)
            case VmIncomingRequested():
                self.coming[event.vm] = event.spec.protected
            case VmMigrationEnded() if event.vm in self.coming:
                self._note(event.vm, self.coming.pop(event.vm))
            case VmGuardRequested() | VmStopped() | VmStartFailed() | VmDeleted():
                self.vms.discard(event.vm)
                self.coming.pop(event.vm, None)

    def _note(self, vm: str, guarded: bool) -> None:
        (self.vms.discard if guarded else self.vms.add)(vm)


def react(event: Any, views: Views) -> Sequence[Command]:
    match event:
        case NodeReported():
            return _guard(sorted(views.bare.vms), views)
        case VmStarted() | VmFound() | VmMigrationEnded() | VmDevicesNoted() if event.vm in views.bare.vms:
            return _guard([event.vm], views)
        case _:
            return ()


def _guard(vms: Sequence[str], views: Views) -> Sequence[Command]:
    """Of those that run and are not being moved, whose disks lie where a guarded VM's may."""
    running = [vm for vm in vms if vm in views.at and vm not in views.moves]
    locking = lockers(views.reports()) if running else {}
    safe = {node: guardable(views.can(node), locking) for node in {views.at[vm] for vm in running}}
    out: list[Command] = []
    for vm in running:
        pools, node = safe[views.at[vm]], views.at[vm]
        if pools is not None and all(pools.get(pool) == word for pool, word in views.homes.at.get(vm, {}).items()):
            out.append(ProtectVm(vm=vm, node=node))
    return out
