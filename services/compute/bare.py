"""VMs that run under no lease though they might: started before their node had one, before another node reached their pools,
found after a restore, or with a disk that one node alone reaches, until that is gone. They are guarded as soon as that can be.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from libs.common.host import hearing
from libs.common.messages import Command, Recorded
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

    def _launched(self, recorded: Recorded, event: VmLaunchRequested) -> None:
        self._note(event.vm, event.spec.protected)

    def _devices(self, recorded: Recorded, event: VmDevicesNoted) -> None:
        if event.changed and not event.protected:
            self.vms.add(event.vm)

    def _found(self, recorded: Recorded, event: VmFound) -> None:
        self.vms.add(event.vm)

    def _comes(self, recorded: Recorded, event: VmIncomingRequested) -> None:
        self.coming[event.vm] = event.spec.protected

    def _arrived(self, recorded: Recorded, event: VmMigrationEnded) -> None:
        if event.vm in self.coming:
            self._note(event.vm, self.coming.pop(event.vm))

    def _gone(self, recorded: Recorded, event: VmGuardRequested | VmStopped | VmStartFailed | VmDeleted) -> None:
        self.vms.discard(event.vm)
        self.coming.pop(event.vm, None)

    HEARS: ClassVar[hearing.Heard] = {
        VmLaunchRequested: _launched,
        VmDevicesNoted: _devices,
        VmFound: _found,
        VmIncomingRequested: _comes,
        VmMigrationEnded: _arrived,
        **dict.fromkeys((VmGuardRequested, VmStopped, VmStartFailed, VmDeleted), _gone),
    }

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
