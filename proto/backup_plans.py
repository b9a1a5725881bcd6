"""io: when backups of a VM are taken, verified and let go (streams `backups-VM`). A part of io.py; docs/backup-schedules.md."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, Tick, Value, VmId
from proto.backups import BACKUPS_MAX, CHAIN_MAX, BackupKnown, KeyWord, RateMibps
from proto.machine import Freeze
from proto.pools import PoolRoom

SCHEDULE = "schedule"
"""BackupRequested.plan of what is taken by one"""
Cron = Annotated[str, msgspec.Meta(max_length=100)]
"""minute, hour, day of the month, month, day of the week; in UTC"""
Keep = Annotated[int, msgspec.Meta(ge=0, le=BACKUPS_MAX)]
FullEvery = Annotated[int, msgspec.Meta(ge=1, le=CHAIN_MAX)]


class BackupPlan(Value):
    """cron: when one is taken; verify: when all are read again, empty: never. full_every: of so many in a row one is full, 1: each.
    keep_last: the newest; keep_daily, keep_weekly, keep_monthly: the newest of each of so many days, weeks (from Monday) and months
    that have one, in UTC. 0: none of that kind; all 0: every one is kept. The rest: as in TakeBackup."""

    cron: Cron
    pool: Name = "default"
    freeze: Freeze = Freeze.AUTO
    rate_mibps: RateMibps = 0
    compress: bool = False
    full_every: FullEvery = CHAIN_MAX
    keep_last: Keep = 0
    keep_daily: Keep = 0
    keep_weekly: Keep = 0
    keep_monthly: Keep = 0
    verify: Cron = ""
    encrypt: bool = False
    key: KeyWord = ""

    @property
    def keeps_all(self) -> bool:
        return not (self.keep_last or self.keep_daily or self.keep_weekly or self.keep_monthly)


class PlanKnown(Value):
    """By io's own view; ignored from outside. nodes: those that have the pool; room: it, on one of them. at_us: the time. keys: as
    in BackupKnown."""

    defined: bool = False
    nodes: tuple[str, ...] = ()
    room: PoolRoom | None = None
    at_us: int = 0
    keys: dict[str, tuple[str, ...]] = {}


class SetBackupPlan(Command):
    """plan: None: from now on nothing is done by itself."""

    vm: Name
    plan: BackupPlan | None = None
    known: PlanKnown = PlanKnown()


class Worker(Value):
    """Who would delete or verify what lies in a pool; room: the pool, as that node sees it; busy: how much that node does with
    backups already. key: of those that are encrypted by it; keyless: as in DeleteBackup."""

    pool: str
    pool_id: str
    node: str
    room: PoolRoom
    busy: int = 0
    key: str = ""
    keyless: tuple[str, ...] = ()


class TendKnown(Value):
    """By io's own view. backup: as for TakeBackup into the schedule's pool; workers: of each pool that has some of its backups.
    standing: by backup, unheard: as in DeleteBackup."""

    backup: BackupKnown = BackupKnown()
    workers: tuple[Worker, ...] = ()
    standing: dict[str, str] = {}
    unheard: tuple[str, ...] = ()


class TendBackups(Tick):
    """What a schedule wants is done, one thing at a time. turn: it may take a backup, as few enough are being taken where the VM
    is; else only what comes after that."""

    vm: Name
    turn: bool = False
    known: TendKnown = TendKnown()
    incarnation: int = 1


class Chore(StrEnum):
    TAKE = "take"
    DELETE = "delete"


class BackupPlanSet(Event):
    """at_us: times after that count."""

    vm: VmId
    at_us: int
    plan: BackupPlan | None = None


class BackupPutOff(Event):
    """What the schedule wanted came to nothing, and is tried again at until_us. due_us: the schedule's time that it is for;
    failures: in a row."""

    vm: VmId
    chore: Chore
    due_us: int
    failures: int
    until_us: int
    sentence: str


class BackupUnchanged(Event):
    """None was taken for that time of the schedule: the VM is at rest, and `backup` holds all that is on its disks. generation: of
    the last that might write them, then as now."""

    vm: VmId
    backup: str
    due_us: int
    at_us: int
    generation: int


PlansCommand = SetBackupPlan | TendBackups
PlansEvent = BackupPlanSet | BackupPutOff | BackupUnchanged
