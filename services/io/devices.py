"""From wishes to devices: what the guest will see of its disks and NICs. Never by chance, always the same for the same name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256

from msgspec.structs import replace

from proto.machine import Disk, DiskFormat, DiskWish

SLOT_FIRST = 1
"""Slots are PCI root ports, counted from here: disks first, NICs behind them, so that a later hot-plug takes the next."""
NUMBERS_KNOWN_MAX = 1024
"""names of devices whose number is remembered"""


def make_disks(
    vm: str, wishes: Sequence[DiskWish], sizes_mib: Mapping[str, int], first: int = 0, uefi: bool = False
) -> tuple[Disk, ...]:
    """Sizes in MiB; a wish of size 0 is as large as its image, and none is smaller than that. first: the number of the first.
    uefi: beside the first are the variables of its firmware."""
    disks = tuple(make_disk(vm, w, sizes_mib, first + i, SLOT_FIRST + i) for i, w in enumerate(wishes))
    holder = next((disk for disk in disks if uefi and not disk.bus.is_cd), None)
    return tuple(replace(d, vars=f"{vm}-{d.name}-vars.fd") if d is holder else d for d in disks)


def make_disk(vm: str, wish: DiskWish, sizes_mib: Mapping[str, int], number: int, slot: int) -> Disk:
    if wish.bus.is_cd:
        return Disk(
            name=f"cd{number}", pool=wish.pool, file=f"{vm}-cd{number}.iso" if wish.seed else "", size_mib=1,
            format=DiskFormat.RAW, serial=serial_of(vm, number),
            slot=slot, image=wish.image, bus=wish.bus, first=wish.first, seed=wish.seed,
        )  # fmt: skip
    return Disk(
        name=f"disk{number}",
        pool=wish.pool,
        file=f"{vm}-disk{number}.{wish.format}",
        size_mib=max(1, wish.size_mib, sizes_mib.get(wish.image, 0)),
        format=wish.format,
        serial=serial_of(vm, number),
        slot=slot,
        image=wish.image,
        bus=wish.bus,
        limits=wish.limits,
        first=wish.first,
    )


def named_anew(vm: str, disk: Disk, generation: int, pool_id: str) -> Disk:
    """The disk as it is made, or comes along, in another pool than its first: under a name that nothing else ever had."""
    variables = f"{vm}-{disk.name}.{generation}-vars.fd" if disk.vars else ""
    return replace(
        disk, file=f"{vm}-{disk.name}.{generation}.{disk.format}", vars=variables, pool_id=pool_id, made=False
    )


@lru_cache(NUMBERS_KNOWN_MAX)
def number_of(name: str) -> int:
    """Of `disk7`: 7."""
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)


def serial_of(vm: str, index: int) -> str:
    """20 characters, as many as a virtio-blk serial holds."""
    return "asv-" + sha256(f"{vm}/disk{index}".encode()).hexdigest()[:16]


def mac_of(vm: str, index: int) -> str:
    """Locally administered, unicast, 52:54 as QEMU's own; 32 bits of the digest: among 10,000 NICs two meet in 1 % of clusters,
    with the customary 24 bits three pairs would in each."""
    h = sha256(f"{vm}/nic{index}".encode()).hexdigest()
    return ":".join(("52", "54", h[0:2], h[2:4], h[4:6], h[6:8]))
