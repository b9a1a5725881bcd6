"""A VM's devices are changed, at rest or while it runs. Pure; a part of model.py.

At rest a change is done with its event. A running VM is wanted so from then on, and what its agent sees ends the change
(seeing.py). While it starts, stops, is paused or moves, nothing of its devices is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from proto.io import (
    AttachDisk,
    AttachNic,
    Change,
    ChangeCommand,
    ChangeKind,
    DetachDisk,
    DetachNic,
    DevicesChanged,
    DevicesEvent,
    Known,
    LimitDisk,
    ReattachDisk,
    Refusal,
    ResizeDisk,
    SetMedium,
    SetNic,
    SnapshotCommand,
    VmPhase,
)
from proto.machine import DISKS_MAX, NICS_MAX, SLOTS_MAX, Disk, DiskWish, Nic
from proto.models import DISKS
from services.io import drives, keeping, nics, pools, snapshots
from services.io.devices import SLOT_FIRST, make_disk, make_disks
from services.io.states import Granted, Made, NoDevices, Removing, Revoked, SnapshotState, State

AT_REST = (VmPhase.STOPPED, VmPhase.RUNNING)
REMEDIES = {
    VmPhase.PAUSED: "resume it first",
    VmPhase.OUT_OF_SPACE: "free space in its pool: it goes on by itself then",
}


def change(command: ChangeCommand, state: State) -> Sequence[DevicesEvent]:
    """Raises Refused."""
    made = made_of(command, state)
    if any(s.state is not SnapshotState.TAKEN for s in made.snapshots):
        snapshots.check_idle(made)
    match command:
        case AttachDisk():
            return [_attach_disk(command, made)]
        case ReattachDisk():
            disk = keeping.again(command, made, _slot(made))
            _check_count(made)
            _check_guard(disk, made, command.known)
            return [_attached(disk, made)]
        case DetachDisk():
            return [_detach_disk(command, made)]
        case ResizeDisk():
            return _resize_disk(command, made)
        case LimitDisk():
            disk = _disk(made, command.name)
            if disk.limits == command.limits:
                return ()
            return [_disk_changed(made, ChangeKind.LIMIT_DISK, replace(disk, limits=command.limits))]
        case SetMedium():
            return drives.set_medium(command, made)
        case AttachNic():
            return [_attach_nic(command, made)]
        case DetachNic():
            nic = _nic(made, command.name)
            _check_there(made, nic.name, nic.slot)
            rest = replace(made, nics=tuple(n for n in made.nics if n is not nic))
            return [_changed(rest, Change(kind=ChangeKind.DETACH_NIC, name=nic.name, slot=nic.slot))]
        case SetNic():
            nic = _nic(made, command.name)
            after = nics.set_nic(made.vm, nic, command, running=isinstance(made, Granted))
            if after == nic:
                return ()
            change = Change(kind=ChangeKind.SET_NIC, name=nic.name, slot=nic.slot)
            return [_changed(replace(made, nics=tuple(after if n is nic else n for n in made.nics)), change)]


def made_of(command: ChangeCommand | SnapshotCommand, state: State) -> Granted | Revoked:
    """What there is to change; of a VM that was never started, what its definition wishes."""
    vm, known = VmId(command.vm), command.known
    if isinstance(state, Removing) or known.phase is VmPhase.UNKNOWN:
        raise Refused(Refusal.NOT_DEFINED, f"there is no VM named {vm}", "define it first")
    running = isinstance(state, Granted)
    if known.phase not in AT_REST or running is not (known.phase is VmPhase.RUNNING):
        remedy = REMEDIES.get(known.phase, "wait until it runs, or has stopped")
        word = known.phase if known.phase not in AT_REST else "starting or stopping"
        raise Refused(Refusal.BUSY, f"{vm} is {word}: its devices stay as they are meanwhile", remedy)
    if isinstance(state, NoDevices):
        _check_images(vm, known.disks, known.sizes_mib)
        disks = make_disks(vm, known.disks, known.sizes_mib, state.first, known.uefi)
        made = nics.make_nics(vm, known.nics, len(disks), nics.by_name(known.networks))
        return Revoked(
            vm=vm, node=NodeId(""), disks=disks, nics=made, generation=state.generation,
            disks_made=state.first + len(disks), nics_made=len(made),
        )  # fmt: skip
    assert isinstance(state, Granted | Revoked)
    return state


def _check_images(vm: str, wishes: Sequence[DiskWish], sizes_mib: dict[str, int]) -> None:
    missing = sorted({w.image for w in wishes if w.image and w.image not in sizes_mib})
    if missing:
        said = f"the image {', '.join(missing)}, on which a disk of {vm} is to stand, is not there"
        raise Refused(Refusal.IMAGE_UNKNOWN, said, "import it first, or name another (asvctl image ls)")


def _attach_disk(command: AttachDisk, made: Granted | Revoked) -> DevicesChanged:
    wish, sizes_mib = command.disk, command.known.sizes_mib
    _check_count(made)
    _check_images(made.vm, (wish,), sizes_mib)
    if isinstance(made, Granted) and not DISKS[wish.bus].plugs:
        said = f"a {wish.bus} is on a controller of the board, which nothing is plugged into while {made.vm} runs"
        raise Refused(Refusal.NOT_STOPPED, said, f"stop {made.vm} first, or take another bus")
    drives.check_kind(wish, command.known)
    if not wish.size_mib and not wish.image and not wish.bus.is_cd:
        raise Refused(Refusal.BAD_DEVICE, "a disk of neither size nor image is asked for", "give a size, an image or both")
    least = sizes_mib.get(wish.image, 0)
    if 0 < wish.size_mib < least:
        said = f"{wish.size_mib} MiB asked for; its image {wish.image} is of {least} MiB"
        raise Refused(Refusal.BAD_DEVICE, said, f"at least {least} MiB, or leave the size out")
    disk = make_disk(made.vm, wish, sizes_mib, made.disks_made, _slot(made))
    if not disk.bus.is_cd:
        pools.check(command.known.rooms, disk.pool, disk.size_mib)
    there = command.known.pool_ids.get(disk.pool, "") if isinstance(made, Granted) else ""
    disk = replace(disk, pool_id=there)
    _check_guard(disk, made, command.known)
    return _attached(disk, made)


def _check_guard(disk: Disk, made: Made, known: Known) -> None:
    """Where its guard promises to start it elsewhere, nothing is taken that would break that promise."""
    said = known.fast.get(f"{disk.pool}@{disk.pool_id}" if disk.pool_id else disk.pool, "")
    if said and not disk.bus.is_cd:
        remedy = "take a pool that other nodes reach too, or give that promise up: asvctl vm guard"
        raise Refused(
            Refusal.LOCAL_DISK, f"{made.vm} is to be started elsewhere when its node is lost, and could not be once {said}",
            f"{remedy} {made.vm} --mode auto (it is then started again where its disks are)",
        )  # fmt: skip


def _check_count(made: Made) -> None:
    if len(made.disks) >= DISKS_MAX:
        said = f"{made.vm} has {len(made.disks)} disks; a VM has at most {DISKS_MAX}"
        raise Refused(Refusal.TOO_MANY, said, "detach one first")


def _attached(disk: Disk, made: Granted | Revoked) -> DevicesChanged:
    change = Change(kind=ChangeKind.ATTACH_DISK, name=disk.name, slot=disk.slot, file=disk.file, pool=disk.pool)
    return _changed(replace(made, disks=(*made.disks, disk)), change)


def _detach_disk(command: DetachDisk, made: Granted | Revoked) -> DevicesChanged:
    disk = _disk(made, command.name)
    if disk is made.disks[0] and not disk.bus.is_cd:
        raise Refused(
            Refusal.BOOT_DISK, f"{disk.name} is what {made.vm} boots from: it stays", "delete the VM to be rid of it"
        )
    _check_there(made, disk.name, disk.slot)
    if isinstance(made, Granted) and not DISKS[disk.bus].plugs:
        said = f"{disk.name} is on a controller of the board, which nothing is unplugged from while {made.vm} runs"
        raise Refused(Refusal.NOT_STOPPED, said, f"stop {made.vm} first; what is in it can be ejected")
    if disk.layers and not command.delete:
        said = f"{disk.name} is in {len(disk.layers)} snapshots of {made.vm}: its file alone would be of no use"
        raise Refused(Refusal.HAS_SNAPSHOTS, said, "delete those first, or detach it with --delete: it leaves them, too")
    change = Change(
        kind=ChangeKind.DETACH_DISK, name=disk.name, slot=disk.slot,
        file=disk.file, pool=disk.pool, delete=(command.delete and not disk.bus.is_cd) or disk.seed is not None,
    )  # fmt: skip
    return _changed(replace(made, disks=tuple(d for d in made.disks if d is not disk)), change)


def _resize_disk(command: ResizeDisk, made: Granted | Revoked) -> Sequence[DevicesChanged]:
    disk, size_mib = _disk(made, command.name), command.size_mib
    if disk.bus.is_cd:
        raise Refused(Refusal.BAD_DEVICE, f"{disk.name} of {made.vm} is a CD drive, and has no size", "name a disk")
    if size_mib < disk.size_mib:
        said = f"{size_mib} MiB asked for; {disk.name} of {made.vm} has {disk.size_mib} MiB, and disks only grow"
        raise Refused(Refusal.SHRINKING, said, f"at least {disk.size_mib} MiB")
    if size_mib == disk.size_mib:
        return ()
    _check_there(made, disk.name, disk.slot)
    pools.check(command.known.rooms, disk.pool, size_mib - disk.size_mib)
    if isinstance(made, Granted) and not DISKS[disk.bus].grows:
        said = f"{disk.name} is an {disk.bus} disk: its guest would not see {size_mib} MiB in place of {disk.size_mib}"
        raise Refused(Refusal.NOT_STOPPED, said, f"stop {made.vm} first")
    return [_disk_changed(made, ChangeKind.RESIZE_DISK, replace(disk, size_mib=size_mib))]


def _attach_nic(command: AttachNic, made: Granted | Revoked) -> DevicesChanged:
    if len(made.nics) >= NICS_MAX:
        said = f"{made.vm} has {len(made.nics)} NICs; a VM has at most {NICS_MAX}"
        raise Refused(Refusal.TOO_MANY, said, "detach one first")
    wish, networks = nics.wanted(command), nics.by_name(command.known.networks)
    nics.check_known(made.vm, [wish], networks, command.known.others)
    nic = nics.make_nic(made.vm, wish, made.nics_made, _slot(made), networks)
    change = Change(kind=ChangeKind.ATTACH_NIC, name=nic.name, slot=nic.slot)
    return _changed(replace(made, nics=(*made.nics, nic)), change)


# --- what there is -------------------------------------------------------------------------------------------------------


def _disk(made: Made, name: str) -> Disk:
    found = next((d for d in made.disks if d.name == name), None)
    if found is None:
        raise _unknown(made, "disk", name, [d.name for d in made.disks])
    return found


def _nic(made: Made, name: str) -> Nic:
    found = next((n for n in made.nics if n.name == name), None)
    if found is None:
        raise _unknown(made, "NIC", name, [n.name for n in made.nics])
    return found


def _unknown(made: Made, what: str, name: str, there: Sequence[str]) -> Refused:
    going = isinstance(made, Granted) and any(one.name == name for one in made.leaving)
    if going:
        said = f"{name} of {made.vm} is still being unplugged"
        return Refused(Refusal.BUSY, said, "wait until its guest has let go of it, or restart the guest")
    has = ", ".join(there) or "none"
    return Refused(Refusal.DEVICE_UNKNOWN, f"{made.vm} has no {what} {name}; it has {has}", f"name a {what} that it has")


def _check_there(made: Made, name: str, slot: int) -> None:
    if isinstance(made, Granted) and any(one.slot == slot for one in made.coming):
        raise Refused(Refusal.BUSY, f"{name} of {made.vm} is being attached or resized", "wait until that is done")


def _slot(made: Granted | Revoked) -> int:
    used = {d.slot for d in made.disks} | {n.slot for n in made.nics}
    if isinstance(made, Granted):
        used |= {one.slot for one in made.leaving}
        room: Sequence[int] = [s for s in sorted(made.ports) if s >= SLOT_FIRST]
    else:
        room = range(SLOT_FIRST, SLOTS_MAX)
    for slot in room:
        if slot not in used:
            return slot
    said = f"{made.vm} was started with {len(room)} PCI slots for disks and NICs, and {len(used)} are taken"
    raise Refused(Refusal.TOO_MANY, said, "detach one and wait until it is gone, or stop it, attach, and start it")


def _disk_changed(made: Made, kind: ChangeKind, disk: Disk) -> DevicesChanged:
    disks = tuple(disk if d.name == disk.name else d for d in made.disks)
    return _changed(replace(made, disks=disks), Change(kind=kind, name=disk.name, slot=disk.slot))


def _changed(made: Made, change: Change) -> DevicesChanged:
    leaving: tuple[int, ...] = ()
    generation = 0
    if isinstance(made, Granted):
        generation = made.holder
        gone = change.kind in (ChangeKind.DETACH_DISK, ChangeKind.DETACH_NIC)
        leaving = (*(one.slot for one in made.leaving), *((change.slot,) if gone else ()))
    return DevicesChanged(
        vm=made.vm, node=made.node, generation=generation, disks=made.disks, nics=made.nics,
        leaving=leaving, change=change,
    )  # fmt: skip
