"""Tasks about a VM's devices: begun by the wish, ended by what is seen. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import io

if TYPE_CHECKING:
    from services.gateway.tasks.stories import _Story

KIND = "device"
AT_ONCE = (io.ChangeKind.LIMIT_DISK, io.ChangeKind.SET_NIC)
"""nothing is seen of these: the agent is told, and tells what it could not do"""


def devices(s: _Story) -> bool:
    match s.event:
        case io.DevicesChanged(vm=vm, change=change) if change.kind is not io.ChangeKind.UNDO:
            what = change.kind.value.replace("-", " ")
            s.begin(KIND, f"{vm}/{change.name}", f"{what}: {change.name} in slot {change.slot}")
            if not s.event.generation:
                s.done(KIND, f"{vm}/{change.name}", f"{change.name} of {vm}: done, for its next start")
            elif change.kind in AT_ONCE:
                s.done(KIND, f"{vm}/{change.name}", f"{change.name} of {vm}: its node is told")
        case io.DevicesChanged() | io.DiskFilesRemoved():
            pass
        case io.DeviceAttached(vm=vm, name=name, sentence=said):
            s.done(KIND, f"{vm}/{name}", said or f"{vm} has {name}")
        case io.DeviceDetached(vm=vm, name=name):
            s.done(KIND, f"{vm}/{name}", f"{vm} has {name} no more")
        case io.DiskResized(vm=vm, name=name, size_mib=size_mib):
            s.done(KIND, f"{vm}/{name}", f"{name} of {vm} has {size_mib} MiB")
        case io.MediumChanged(vm=vm, name=name, image=image, sentence=said):
            s.done(KIND, f"{vm}/{name}", said or f"{name} of {vm} {f'holds {image}' if image else 'is empty'}")
        case io.DeviceMisfit(vm=vm, name=name, sentence=said, pending=True):
            s.step(KIND, f"{vm}/{name}", f"pending: {said}")
        case io.DeviceMisfit(vm=vm, name=name, sentence=said):
            s.failed(KIND, f"{vm}/{name}", said)
        case _:
            return False
    return True
