"""What stands on what among the backups of a VM. Pure.

    b1-1 (full) ◀── b1-4 ◀── b1-7        the chain of b1-7: b1-7, b1-4, b1-1; the heirs of b1-1: b1-4
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from libs.common.instants import utc
from proto.backups import CHAIN_MAX
from proto.machine import Disk
from services.io.backups.states import Backup, Hold

NAMES_MAX = 10
"""backups named in one sentence"""


def by_id(backups: Iterable[Backup]) -> Mapping[str, Backup]:
    return {one.id: one for one in backups}


def chain(backups: Sequence[Backup], id: str) -> tuple[Backup, ...]:
    """It and all that it stands on, the newest first. A parent stands before its heirs in the log, so that the walk ends."""
    known, found, at = by_id(backups), list[Backup](), id
    while (one := known.get(at)) is not None and len(found) < len(backups):
        found.append(one)
        at = one.parent
    return tuple(found)


def heirs(backups: Iterable[Backup], id: str) -> tuple[Backup, ...]:
    """Those that stand on it directly."""
    return tuple(one for one in backups if one.parent == id)


def damage(backups: Sequence[Backup], id: str) -> Backup | None:
    """The one that makes it useless: itself, or what it stands on; None: it is sound."""
    return next((one for one in chain(backups, id) if one.damaged), None)


def sound(backups: Sequence[Backup]) -> tuple[Backup, ...]:
    return tuple(one for one in backups if damage(backups, one.id) is None)


def parent_for(
    backups: Sequence[Backup], disks: Iterable[Disk], pool: str, pool_id: str, key: str = ""
) -> tuple[str, str]:
    """What a new backup of these disks in that pool may stand on: the newest sound one there of the same disks in the same sizes,
    whose chain takes one more, encrypted by the same key (or none); empty: nothing. Why it is full then, where that is worth a
    word."""
    wanted = sorted((disk.name, disk.size_mib) for disk in disks)
    for one in reversed(sound(backups)):
        if (one.pool, one.pool_id) != (pool, pool_id) or sorted((d.disk, d.size_mib) for d in one.disks) != wanted:
            continue
        if one.key != key:
            by, other = (f"by the key {word}" if word else "by none" for word in (one.key, key))
            return "", f"it is full: {one.id} is encrypted {by}, and it {other}"
        return one.id if len(chain(backups, one.id)) < CHAIN_MAX else "", ""
    return "", ""


def holder(backups: Sequence[Backup], holds: Iterable[Hold], id: str) -> Hold | None:
    """A recovery whose disks stand on it."""
    return next((hold for hold in holds if any(one.id == id for one in chain(backups, hold.backup))), None)


def newest(backups: Sequence[Backup], at_us: int = 0) -> Backup | None:
    """The newest, by the log, of an instant that is not after at_us (0: of any)."""
    return next((one for one in reversed(backups) if not at_us or one.taken_us <= at_us), None)


def names(backups: Sequence[Backup]) -> str:
    """For a sentence: the newest, with their instants."""
    said = ", ".join(called(one) for one in backups[-NAMES_MAX:]) or "none"
    return f"{said} and {len(backups) - NAMES_MAX} older" if len(backups) > NAMES_MAX else said


def called(one: Backup) -> str:
    return f"{one.id} ({utc(one.taken_us)})"
