"""A VM whose class changes while it runs: its process, with all threads, goes over to a group in the area of the new class.

    vms-normal/web-1.HASH ──process──▶ vms-critical/web-1.HASH
            └─ former: what the process holds stays charged here, where the kernel lets no charge move; it is kept until the VM ends

Version 1 moved charges as well up to Linux 6.12 (`memory.move_charge_at_immigrate`), and then refuses a process for whose memory
the new area has no room. Later kernels, and version 2, leave them: only what the process takes from then on counts in the new area.
So a former group is held to what the VM may be swapped now, or pages of a critical VM would go by the words of its old class.

The new group has its limits before the process comes, so that at no moment it is without. Nothing here lowers a limit that
something stands under: nobody is killed on the way. Said again after an agent died anywhere in between, it goes on.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from services.node.host import cgroup_memory
from services.node.host.cgroup import Groups
from services.node.host.text import read

MOVE_CHARGES = "memory.move_charge_at_immigrate"
ALL_CHARGES = "3"
"""anonymous memory, and files that are mapped"""
OWN_LIMITS = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness"),
    2: ("cpu.weight", "cpu.max", "pids.max", "memory.max", "memory.high", "memory.swap.max"),
}
"""what a VM's own group says, whatever its class; in this order, for memory and swap together may not be less than memory"""
STAYS = (
    "class-change (this kernel leaves what a process holds charged to the group it was in: of a VM whose class is changed while it"
    " runs, only what it takes from then on counts in its new class's area, until it is migrated or started anew)"
)


class CannotChange(Exception):
    """Its text is a sentence. The process stands where it stood."""


class Group(msgspec.Struct, frozen=True):
    """handle: the VM's group, a folder a line; former: those that it came from and that are still charged."""

    handle: str
    former: tuple[str, ...] = ()

    @property
    def all(self) -> str:
        return "\n".join((self.handle, *self.former))


def differs(handle: str, area: str) -> bool:
    """Whether the VM stands in another area; not where memory is not divided."""
    return cgroup_memory.area_name(handle) not in ("", area)


def change(groups: Groups, group: Group, pid: int, area: str, swapped: bool) -> tuple[Group, list[str]]:
    """The group that the VM stands in now, and what did not hold. swapped: its class may be swapped; else it is not from here on,
    wherever it is charged. Raises CannotChange."""
    old = cgroup_memory.folder_of(group.handle)
    if old is None or not differs(group.handle, area):
        return group, []
    try:
        top = groups.area(area)
        if top is None:
            return group, []
        new = _ready(top / old.name, old, swapped)
        moves = _charges_move(new)
        _put(pid, new, moves)
    except OSError as error:
        raise CannotChange(f"no group can be made for it in area {area}: {error.strerror or error}") from error
    former = tuple(f for f in (*group.former, str(old)) if f != str(new))
    faults = [] if swapped else [f"its former group, where what it holds stays charged: {text}" for text in follow(former, 0)]
    left = tuple(f for f in former if not (moves and _removed(Path(f))))
    return Group(group.handle.replace(str(old), str(new)), left), faults


def follow(former: tuple[str, ...], swap_max_mib: int) -> list[str]:
    """What stays charged to former groups may be swapped as far as the VM may, as far as their areas let it. A sentence each."""
    return [text for folder in former if Path(folder).is_dir() for text in cgroup_memory.set_vm(folder, 0, swap_max_mib)]


def former_kib(former: tuple[str, ...]) -> int:
    return sum(used.used_kib for folder in former if (used := cgroup_memory.used(folder)) is not None)


def charges_stay(groups: Groups) -> bool:
    """Whether what a process holds stays charged where it was; found by asking the kernel with a group of no process."""
    with suppress(OSError):
        folder = groups.area("")
        if folder is None or cgroup_memory.version_of(folder) == 0:
            return False
        return not _charges_move(folder)
    return True


def _ready(new: Path, old: Path, swapped: bool) -> Path:
    """The group, with the limits that the process has now. Raises OSError, CannotChange."""
    new.mkdir(exist_ok=True)
    version = cgroup_memory.version_of(old)
    for name in OWN_LIMITS[version]:
        word = read(old / name)
        if not word or word == read(new / name):
            continue
        (new / name).write_text(_word(word))
        if (seen := read(new / name)) != word:
            raise CannotChange(f"{name} of its group in {new.parent.name} is {seen} after {word} was written")
    if not swapped and (faults := cgroup_memory.set_vm(str(new), 0, 0)):
        raise CannotChange("; ".join(faults))
    return new


def _word(seen: str) -> str:
    """Version 1 shows `no limit` as a number, and takes it as one."""
    return "-1" if seen.isdigit() and int(seen) >= cgroup_memory.UNLIMITED else seen


def _charges_move(folder: Path) -> bool:
    try:
        if not (folder / MOVE_CHARGES).exists():
            return False
        (folder / MOVE_CHARGES).write_text(ALL_CHARGES)
    except OSError:
        return False
    return read(folder / MOVE_CHARGES) == ALL_CHARGES


def _put(pid: int, new: Path, moves: bool) -> None:
    """Raises CannotChange."""
    try:
        (new / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        around = cgroup_memory.used_by(new.parent)
        room = f"; {around.used_kib >> 10} of {around.max_kib >> 10} MiB are in use there" if moves and around.max_kib else ""
        said = f"process {pid} is not let into area {new.parent.name}: {error.strerror or error}{room}"
        with suppress(OSError):
            new.rmdir()
        raise CannotChange(said) from error
    if str(pid) not in read(new / "cgroup.procs").split():
        raise CannotChange(f"process {pid} does not stand in area {new.parent.name} after it was put there")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
