"""The disks and NICs of a VM that is recovered: those that it has, or anew from its definition. Pure; a part of recovering.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from msgspec.structs import replace

from libs.common.decider import Refused
from proto.io import RecoverDisks, RecoveredDisk, Refusal
from proto.machine import DISKS_MAX, SLOTS_MAX, Disk, DiskFormat, DiskWish, Firmware, Nic
from services.io import nics as cards
from services.io.devices import SLOT_FIRST, make_disk, number_of


def in_place(command: RecoverDisks, disks: Sequence[Disk], nics: Sequence[Nic], token: str) -> tuple[Disk, ...]:
    """Those that are in the backup in new files, the others as they are; then those that it lacks. Raises Refused: TOO_MANY."""
    saved = {one.disk: one for one in command.disks}
    found = [_on_backup(command, disk, saved.pop(disk.name), token) if disk.name in saved else disk for disk in disks]
    used = {*(disk.slot for disk in disks), *(nic.slot for nic in nics)}
    free = (slot for slot in range(SLOT_FIRST, SLOTS_MAX) if slot not in used)
    wishes = _wishes(command)
    for name, one in saved.items():
        slot = next(free, None)
        if slot is None or len(found) >= DISKS_MAX:
            said = f"{name} is in the backup, and {command.vm} has {len(disks)} disks and {len(nics)} NICs: there is no slot for it"
            raise Refused(Refusal.TOO_MANY, said, "detach some first, or recover it under another name")
        made = make_disk(command.vm, wishes[name], {}, number_of(name), slot)
        found.append(_on_backup(command, made, one, token))
    return tuple(found)


def anew(command: RecoverDisks, first: int, token: str) -> tuple[tuple[Disk, ...], tuple[Nic, ...]]:
    """What it had when it was backed up: its disks by the names that they had. A seed lies in no backup: its drive is empty.
    first: the number of the first disk that is in none."""
    vm, known, saved, wishes = command.vm, command.known, {one.disk: one for one in command.disks}, _wishes(command)
    taken = {number_of(name) for name in saved}
    numbers = (number for number in count(first) if number not in taken)
    names, disks = iter(wishes), list[Disk]()
    for slot, wish in enumerate(command.definition.disks, SLOT_FIRST):
        if wish.bus.is_cd:
            disks.append(make_disk(vm, replace(wish, seed=None), {}, next(numbers), slot))
        elif (name := next(names, None)) is not None:
            disks.append(_on_backup(command, make_disk(vm, wish, {}, number_of(name), slot), saved[name], token))
        else:
            disks.append(make_disk(vm, wish, known.sizes_mib, next(numbers), slot))
    for name in names:
        disks.append(
            _on_backup(command, make_disk(vm, wishes[name], {}, number_of(name), SLOT_FIRST + len(disks)), saved[name], token)
        )
    if command.definition.shape.firmware is Firmware.UEFI:
        at = next((i for i, disk in enumerate(disks) if not disk.bus.is_cd), None)
        if at is not None and not disks[at].vars:
            disks[at] = replace(disks[at], vars=_variables(vm, disks[at], token))
    nics = cards.make_nics(vm, command.definition.nics, len(disks), cards.by_name(known.networks))
    return tuple(disks), nics


def _wishes(command: RecoverDisks) -> dict[str, DiskWish]:
    """Of each disk in the backup, as its VM was defined then: both are in order."""
    wished = [wish for wish in command.definition.disks if not wish.bus.is_cd]
    wished += [DiskWish()] * (len(command.disks) - len(wished))
    return {one.disk: wish for one, wish in zip(command.disks, wished, strict=False)}


def _on_backup(command: RecoverDisks, disk: Disk, saved: RecoveredDisk, token: str) -> Disk:
    """The same disk to its guest, in a file of its own: of a name that no log, and no lost timeline of one, gives again. In which
    pool of that name it comes to lie, its first start decides."""
    variables = _variables(command.vm, disk, token) if disk.vars or saved.vars else ""
    return replace(
        disk, file=f"{command.vm}-{disk.name}.r{token}.qcow2", format=DiskFormat.QCOW2, image="", size_mib=saved.size_mib,
        layers=tuple(replace(layer, leaving=True) for layer in saved.layers), made=False, vars=variables, vars_of=saved.vars,
        pool=command.pool or disk.pool, pool_id="", home_mibps=command.rate_mibps,
    )  # fmt: skip


def _variables(vm: str, disk: Disk, token: str) -> str:
    return f"{vm}-{disk.name}.r{token}-vars.fd"
