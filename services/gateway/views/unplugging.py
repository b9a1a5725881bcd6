"""Devices that a running VM's guest was asked to let go of, and has not. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from proto import io
from proto.compute import VmStopped

HEARD = frozenset({io.DevicesChanged, io.DeviceMisfit, io.DeviceDetached, VmStopped, io.DevicesRevoked})
LEAVES = (io.ChangeKind.DETACH_DISK, io.ChangeKind.DETACH_NIC, io.ChangeKind.UNDO)


class Unplugging(msgspec.Struct, frozen=True):
    """pending: its time is over; it is asked again, and lets go at its guest's next restart at the latest."""

    name: str
    slot: int
    since_us: int
    pending: bool = False
    sentence: str = ""


def after(known: tuple[Unplugging, ...], event: Any, at_us: int) -> tuple[Unplugging, ...]:
    match event:
        case io.DevicesChanged(change=change) if event.generation and change.kind in LEAVES:
            others = tuple(one for one in known if one.slot != change.slot)
            return (*others, Unplugging(change.name, change.slot, at_us))
        case io.DeviceMisfit(slot=slot, pending=pending, sentence=said):
            return tuple(
                msgspec.structs.replace(one, pending=pending, sentence=said) if one.slot == slot else one for one in known
            )
        case io.DeviceDetached(slot=slot):
            return tuple(one for one in known if one.slot != slot)
        case VmStopped() | io.DevicesRevoked():
            return ()
        case _:
            return known
