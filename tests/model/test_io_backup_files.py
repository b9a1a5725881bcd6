"""Files are read out of a backup: what is recorded, what that holds, and until when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from proto.backup_files import (
    LIST_HOLD_US,
    READS_MAX,
    TAKE_HOLD_US,
    BackupFilesRead,
    BackupReadEnded,
    EndBackupRead,
    ReadBackupFiles,
)
from proto.backups import BackupDamaged, BackupVerifyRequested
from proto.io import Refusal
from services.io.backups.model import BACKUPS
from tests.model.backup_story import B1, B2, B3, DELETE, ROOM, T0, THREE, after, backups
from tests.model.io_story import N2, A

READ = ReadBackupFiles(vm="a", backup=B2, path="/disk0/etc/fstab", take=True, node="n2", at_us=T0)
LIST = replace(READ, path="/", take=False)
WAS_READ = BackupFilesRead(
    vm=A, backup=B2, read="f1-7", node=N2, pool="safe", path="/disk0/etc/fstab", take=True, at_us=T0, until_us=T0 + TAKE_HOLD_US
)


def listed(begin: tuple[Any, ...], at_us: int, backup: str = B2) -> tuple[Any, ...]:
    return (*begin, *after(*begin, command=replace(LIST, backup=backup, at_us=at_us)))


def test_who_takes_what_is_recorded_with_the_node_that_reads() -> None:
    backups.given(*THREE).when(READ).then(WAS_READ)
    ((first, second),) = [listed(listed(THREE, T0), T0 + 1)[-2:]]
    assert (first.read, second.read, first.until_us) == ("f1-7", "f1-8", T0 + LIST_HOLD_US), "each by a name of its own"


def test_what_is_not_there_or_of_no_use_is_not_read() -> None:
    backups.given(*THREE).when(replace(READ, backup="b1-9")).refused(Refusal.BACKUP_UNKNOWN)
    backups.given(*THREE).when(replace(READ, node="")).refused(Refusal.NO_NODE)
    torn = (*THREE, BackupVerifyRequested(vm=A, backup=B3, node=N2), BackupDamaged(vm=A, backup=B3, found={B2: "torn"}))
    backups.given(*torn).when(READ).refused(Refusal.BACKUP_DAMAGED)
    backups.given(*torn).when(replace(READ, backup=B3)).refused(Refusal.BACKUP_DAMAGED)
    backups.given(*torn).when(replace(READ, backup=B1)).then(replace(WAS_READ, backup=B1, read="f1-9"))


def test_what_is_being_deleted_is_not_read_nor_what_stands_on_it() -> None:
    deleting = (*THREE, *after(*THREE, command=replace(DELETE, backup=B2, at_us=T0)))
    for backup in (B2, B3):
        backups.given(*deleting).when(replace(READ, backup=backup)).refused(Refusal.BUSY)
    assert after(*deleting, command=replace(READ, backup=B1))


@pytest.mark.parametrize("backup", [B1, B2])
def test_it_and_what_it_stands_on_is_held_until_the_end_is_told(backup: str) -> None:
    delete = replace(DELETE, backup=backup, at_us=T0 + TAKE_HOLD_US - 1, room=ROOM)
    reading = (*THREE, WAS_READ)
    backups.given(*reading).when(delete).refused(Refusal.BACKUP_IN_USE)
    assert after(*reading, command=replace(delete, backup=B3)), "nothing stands on what stands on it"
    end = EndBackupRead(vm="a", read="f1-7", bytes=12)
    ended = (*reading, *after(*reading, command=end))
    assert ended[-1] == BackupReadEnded(vm=A, backup=B2, read="f1-7", bytes=12, whole=True)
    assert after(*ended, command=delete)
    backups.given(*ended).when(end).nothing()


def test_where_nobody_tells_the_end_the_time_is_the_end() -> None:
    reading = (*THREE, WAS_READ)
    assert after(*reading, command=replace(DELETE, backup=B2, at_us=WAS_READ.until_us))
    assert after(*listed(THREE, T0), command=replace(DELETE, backup=B2, at_us=T0 + LIST_HOLD_US))


def test_folders_that_are_listed_one_after_the_other_are_one_hold_and_old_ones_are_forgotten() -> None:
    state = BACKUPS.fold(listed(listed(listed((*THREE, WAS_READ), T0), T0 + 5, B1), T0 + 9))
    reads = [(one.read, one.backup, one.take) for one in state.reads]
    assert reads == [("f1-7", B2, True), ("f1-9", B1, False), ("f1-10", B2, False)]
    assert [one.read for one in BACKUPS.fold(listed((*THREE, WAS_READ), WAS_READ.until_us)).reads] == ["f1-8"]


def test_so_many_at_once_and_no_more() -> None:
    events = THREE
    for _ in range(READS_MAX):
        events = (*events, *after(*events, command=READ))
    backups.given(*events).when(READ).refused(Refusal.BUSY)
    assert after(*events, command=LIST), "to look costs nothing that lasts"
    assert after(*events, command=replace(READ, at_us=WAS_READ.until_us))
