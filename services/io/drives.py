"""CD drives of a VM: what may lie in them, and how that is changed. Pure; a part of changing.py."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.io import Change, ChangeKind, DevicesChanged, Known, Refusal, SetMedium
from proto.machine import Disk, DiskWish
from services.io.states import Granted, Revoked


def check_kind(wish: DiskWish, known: Known) -> None:
    """A drive reads ISOs, and no disk stands on one. Raises Refused."""
    if not wish.image or wish.image not in known.sizes_mib:
        return
    iso = wish.image in known.isos
    if wish.bus.is_cd and not iso:
        said = f"the image {wish.image} is one of a disk, and a CD drive reads ISOs"
        raise Refused(Refusal.BAD_DEVICE, said, "import it with --format iso, or name another (asvctl image ls)")
    if iso and not wish.bus.is_cd:
        said = f"the image {wish.image} is an ISO, and a disk stands on an image of a disk"
        raise Refused(Refusal.BAD_DEVICE, said, f"put it into a CD drive: asvctl cd insert VM --image {wish.image}")


def set_medium(command: SetMedium, made: Granted | Revoked) -> Sequence[DevicesChanged]:
    """Raises Refused. What is there already is no change, but for a guest that holds its drive locked."""
    drive, known = _drive(made, command.name), command.known
    if command.image and command.image not in known.sizes_mib:
        said = f"there is no image named {command.image}"
        raise Refused(Refusal.IMAGE_UNKNOWN, said, "import it first, or name another (asvctl image ls)")
    check_kind(DiskWish(image=command.image, bus=drive.bus), known)
    at = known.isos.get(command.image)
    there = known.pool_ids.get(at.pool, "") if at is not None else ""
    if at is not None and isinstance(made, Granted) and at.pool_id and there != at.pool_id:
        said = f"the ISO {command.image} is in the pool {at.pool} {at.pool_id}, which {made.node} does not reach"
        raise Refused(Refusal.BAD_DEVICE, said, "import it into a pool of that node, or move the VM")
    wanted = replace(
        drive, image=command.image, force=command.force, pool=at.pool if at is not None else drive.pool,
        pool_id=there if command.image else "",
    )  # fmt: skip
    if wanted == drive or (wanted.image == drive.image and not command.force):
        return ()
    disks = tuple(wanted if d is drive else d for d in made.disks)
    change = Change(kind=ChangeKind.SET_MEDIUM, name=drive.name, slot=drive.slot)
    generation = made.holder if isinstance(made, Granted) else 0
    leaving = tuple(one.slot for one in made.leaving) if isinstance(made, Granted) else ()
    return [
        DevicesChanged(
            vm=made.vm, node=made.node, generation=generation, disks=disks, nics=made.nics, leaving=leaving, change=change
        )
    ]


def _drive(made: Granted | Revoked, name: str) -> Disk:
    drives = [disk for disk in made.disks if disk.bus.is_cd and disk.seed is None]
    found = next((disk for disk in drives if name in ("", disk.name)), None)
    if found is None:
        has = ", ".join(disk.name for disk in drives) or "none"
        said = f"{made.vm} has no CD drive {name}".rstrip() + f"; it has {has}"
        raise Refused(Refusal.DEVICE_UNKNOWN, said, f"give it one: asvctl cd attach {made.vm}")
    return found
