"""What a VM's process has right now, as QEMU says; beside it lies what its order says (services/node/drift.py)."""

from __future__ import annotations

import msgspec

from proto.machine import DiskLimits


class DiskPresent(msgspec.Struct, frozen=True):
    """model: QEMU's name of its device; file: without its folder, "" where it is none; limits None: of a kind that no order has.
    medium: of a CD drive, the image that lies in it."""

    slot: int
    model: str
    size_mib: int = 0
    file: str = ""
    limits: DiskLimits | None = DiskLimits()
    medium: str = ""


class NicPresent(msgspec.Struct, frozen=True):
    """link None: it cannot be read (an emulated card, or one that its guest has not mapped)."""

    slot: int
    model: str
    mac: str = ""
    link: bool | None = None


class Present(msgspec.Struct, frozen=True):
    """vcpus: plugged ones; memory_mib: what its guest was told to have, taken or not; foreign: id and model of devices that no
    order makes."""

    vcpus: int
    memory_mib: int
    disks: tuple[DiskPresent, ...] = ()
    nics: tuple[NicPresent, ...] = ()
    foreign: tuple[tuple[str, str], ...] = ()
