"""io: rules of pools (streams `pool-NAME`), and what agents say of pools once in a while."""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, Value
from proto.space import PoolKind as PoolKind
from proto.space import PoolNow as PoolNow

Over = Annotated[float, msgspec.Meta(ge=0, le=1000)]
"""0: no limit"""
KeepFreePct = Annotated[int, msgspec.Meta(ge=0, le=90)]
BackupsAtOnce = Annotated[int, msgspec.Meta(ge=0, le=64)]
FILES_MAX = 1000
"""disk files named in one beat, the largest first"""
BEAT_S = 5.0
SILENCE_US_MAX = 20_000_000
"""Figures that are older are not decided by."""


class PoolsBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.pools`, every BEAT_S: core NATS, never stored."""

    node: str
    boot_id: str
    at_us: int
    pools: tuple[PoolNow, ...] = ()


class PoolRules(Value):
    """Of every pool of a name. over: the virtual sizes of its disks are together at most so many times its size. keep_free_pct:
    with less of it free, it takes no new disk, and none of its disks grows. backups_at_once: schedules begin no backup into it
    while so many are taken; 0: no limit."""

    over: Over = 0.0
    keep_free_pct: KeepFreePct = 1
    backups_at_once: BackupsAtOnce = 4


class PoolRoom(Value):
    """A pool when something was decided: as a node saw it, the virtual sizes of all disks in it, and its rules. Sizes are -1 where
    no agent has said any lately. backups: as in PoolNow."""

    name: str
    id: str = ""
    size_mib: int = -1
    free_mib: int = -1
    provisioned_mib: int = 0
    rules: PoolRules = PoolRules()
    kind: PoolKind = PoolKind.LOCAL
    backups: bool = False

    @property
    def kept_mib(self) -> int:
        return max(0, self.size_mib) * self.rules.keep_free_pct // 100

    @property
    def provisioned_mib_max(self) -> int:
        """0: no limit."""
        return int(max(0, self.size_mib) * self.rules.over)


def short(room: PoolRoom, more_mib: int) -> tuple[str, str]:
    """Why the pool takes no disk that is so much larger, and what would help; ("", "") where it does."""
    most = room.provisioned_mib_max
    if most and room.provisioned_mib + more_mib > most:
        said = (
            f"pool {room.name} has {room.size_mib} MiB and disks of {room.provisioned_mib} MiB in it; {more_mib} more make "
            f"{room.provisioned_mib + more_mib}, and {most} are the most (over {room.rules.over:g})"
        )
        left = max(0, most - room.provisioned_mib)
        return said, f"at most {left} MiB more, another pool, or a higher limit (asvctl pool set {room.name} --over N)"
    if more_mib > 0 and 0 <= room.free_mib < room.kept_mib:
        said = (
            f"pool {room.name} has {room.free_mib} of {room.size_mib} MiB free; below {room.kept_mib} MiB "
            f"({room.rules.keep_free_pct} %) it takes no more"
        )
        return said, f"free {room.kept_mib - room.free_mib} MiB in it, or take another pool"
    return "", ""


def no_backups(room: PoolRoom) -> tuple[str, str]:
    """Why no backup can lie in the pool, and what would help; ("", "") where one can."""
    if room.kind is PoolKind.RBD:
        return f"pool {room.name} is rbd, in which no backup lies", "name a pool that is a folder (of CephFS, say), or one of NBD"
    if room.kind is PoolKind.NBD and not room.backups:
        said = f"pool {room.name} is nbd, and names no export for backups"
        return said, "add backups=EXPORT to it in ASV_POOLS of its nodes, or name a pool that is a folder"
    return "", ""


class SetPool(Command):
    """What is None stays as it is. known: the names of pools that nodes have; filled in by io's own view."""

    pool: Name
    over: Over | None = None
    keep_free_pct: KeepFreePct | None = None
    backups_at_once: BackupsAtOnce | None = None
    known: tuple[str, ...] = ()


class PoolSet(Event):
    pool: str
    rules: PoolRules


PoolCommand = SetPool
PoolEvent = PoolSet
