"""Backups are deleted, with those that stand on them; they are verified; a lost node's work is another's."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from proto.backups import (
    BackupCancelRequested,
    BackupDamaged,
    BackupDeleted,
    BackupDeleteFailed,
    BackupDeleteRequested,
    BackupKind,
    BackupVerified,
    BackupVerifyRequested,
    CancelBackup,
    EndBackup,
    ReportBackupRemoved,
    ReportBackupVerified,
)
from proto.io import Refusal
from proto.recovery import EndKind, EndRecovery
from services.io.backups.model import BACKUPS
from tests.model.backup_story import (
    B1,
    B2,
    B3,
    DELETE,
    MADE,
    RECOVER,
    ROOM,
    RUNS,
    TAKE,
    THREE,
    VERIFY,
    after,
    asked,
    backups,
    doing,
    saved,
    story,
    there,
)
from tests.model.io_story import N1, N2, A

HEIRS = {B2: saved(MADE, "anew")}
DELETING = (*THREE, *after(*THREE, command=DELETE))
REMOVED = ReportBackupRemoved(vm="a", node=N2, backup=B1, order_version=7, heirs=HEIRS)
VERIFYING = (*THREE, *after(*THREE, command=replace(VERIFY, backup=B3)))
VERIFIED = ReportBackupVerified(vm="a", node=N2, backup=B3, order_version=7, read_mib=6, took_ms=20)
LOST = EndBackup(vm="a", backup=B1, sentence="n2 was lost", node="n1")


def damaged(*bad: str, begin: tuple[Any, ...] = THREE) -> tuple[Any, ...]:
    """Seen as the newest was verified."""
    found = dict.fromkeys(bad, "torn")
    return (*begin, BackupVerifyRequested(vm=A, backup=B3, node=N2), BackupDamaged(vm=A, backup=B3, found=found))


# --- deleting --------------------------------------------------------------------------------------------------------------


def test_what_stands_on_it_is_put_on_what_it_stood_on() -> None:
    assert DELETING[-1] == BackupDeleteRequested(vm=A, backup=B1, node=N2, heirs=(B2,))
    backups.given(*DELETING).when(DELETE).nothing()
    backups.given(*DELETING).when(REMOVED).then(BackupDeleted(vm=A, backup=B1, heirs=HEIRS)).twice()
    events = (*DELETING, *after(*DELETING, command=REMOVED))
    assert there(events) == {B2: "", B3: B2}
    heir = BACKUPS.fold(events).backups[0]
    assert (heir.kind, heir.disks) == (BackupKind.FULL, HEIRS[B2])
    assert asked(*events).parent == B3


def test_from_the_middle_and_from_the_end() -> None:
    middle = story(replace(DELETE, backup=B2), begin=THREE)
    assert there(middle) == {B1: "", B3: B1}
    assert BACKUPS.fold(middle).backups[1].kind is BackupKind.INCREMENTAL
    assert there(story(replace(DELETE, backup=B3), begin=THREE)) == {B1: "", B2: B1}


def test_a_chain_that_became_shorter_takes_more() -> None:
    eight = story(*[TAKE] * 8)
    assert asked(*eight).parent == ""
    shorter = story(replace(DELETE, backup=B2), begin=eight)
    assert asked(*shorter).parent == BACKUPS.fold(eight).backups[-1].id


def test_what_is_not_there_is_named() -> None:
    outcome = backups.given(*THREE).when(replace(DELETE, backup="b1-9")).refused(Refusal.BACKUP_UNKNOWN)
    assert outcome.refusal is not None and "it has b1-1 (2023-11-14 22:13:20Z), b1-3" in outcome.refusal.sentence
    outcome = backups.given().when(DELETE).refused(Refusal.BACKUP_UNKNOWN)
    assert outcome.refusal is not None and "it has none" in outcome.refusal.sentence
    many = story(*[TAKE] * 12)
    outcome = backups.given(*many).when(replace(DELETE, backup="b1-99")).refused(Refusal.BACKUP_UNKNOWN)
    assert outcome.refusal is not None and outcome.refusal.sentence.endswith("and 2 older")


def test_it_waits_for_what_is_under_way() -> None:
    taking = (*THREE, asked(*THREE))
    backups.given(*taking).when(DELETE).refused(Refusal.BUSY)
    backups.given(*taking).when(replace(DELETE, backup="b1-7")).refused(Refusal.BUSY)
    backups.given(*DELETING).when(replace(DELETE, backup=B2)).refused(Refusal.BUSY)
    backups.given(*DELETING).when(CancelBackup(vm="a", backup=B1)).refused(Refusal.BUSY)
    backups.given(*THREE).when(replace(DELETE, node="")).refused(Refusal.NO_NODE)


def test_after_a_restore_what_a_vm_was_found_to_stand_on_is_kept() -> None:
    """Nothing holds it in the log; and nothing is deleted before all nodes have told what they run."""
    outcome = backups.given(*THREE).when(replace(DELETE, standing="b")).refused(Refusal.BACKUP_IN_USE)
    assert outcome.refusal is not None and "the disks of b stand on" in outcome.refusal.sentence
    outcome = backups.given(*THREE).when(replace(DELETE, unheard=("n1", "n2"))).refused(Refusal.BUSY)
    assert outcome.refusal is not None and "n1, n2 has not told yet" in outcome.refusal.sentence


def test_what_a_recovery_stands_on_is_kept() -> None:
    """The backup itself and all beneath it; what stands above it is not."""
    held = (*THREE, *after(*THREE, command=replace(RECOVER, backup=B2)))
    for backup, word in ((B1, "b1-3, which stands on b1-1"), (B2, "b is being recovered from b1-3:")):
        outcome = backups.given(*held).when(replace(DELETE, backup=backup)).refused(Refusal.BACKUP_IN_USE)
        assert outcome.refusal is not None and word in outcome.refusal.sentence
    assert after(*held, command=replace(DELETE, backup=B3))
    free = (*held, *after(*held, command=EndRecovery(vm="a", recovery="r1-7", end=EndKind.INDEPENDENT)))
    assert after(*free, command=DELETE)


def test_what_is_damaged_is_not_written_anew() -> None:
    """Its new digest would say that it is as it was."""
    outcome = backups.given(*damaged(B1)).when(DELETE).refused(Refusal.BACKUP_DAMAGED)
    assert outcome.refusal is not None and outcome.refusal.remedy == "delete b1-3 first"
    outcome = backups.given(*damaged(B2)).when(DELETE).refused(Refusal.BACKUP_DAMAGED)
    assert outcome.refusal is not None and outcome.refusal.remedy == "delete b1-3 first"
    assert after(*damaged(B3), command=replace(DELETE, backup=B3)), "nothing stands on it"
    assert after(*damaged(B1), command=replace(DELETE, backup=B2)), "only what was damaged stays so"
    still = story(replace(DELETE, backup=B2), begin=damaged(B1))
    backups.given(*still).when(replace(RECOVER, backup=B3)).refused(Refusal.BACKUP_DAMAGED)


def test_what_is_written_anew_needs_room() -> None:
    tight = replace(ROOM, free_mib=3)
    outcome = backups.given(*THREE).when(replace(DELETE, room=tight)).refused(Refusal.POOL_FULL)
    assert outcome.refusal is not None and "3 MiB free" in outcome.refusal.sentence and "up to 5 MiB" in outcome.refusal.sentence
    assert after(*THREE, command=replace(DELETE, room=replace(tight, free_mib=5)))
    assert after(*THREE, command=replace(DELETE, backup=B3, room=tight)), "nothing stands on it: room is won"
    for unknown in (None, replace(ROOM, free_mib=-1)):
        assert after(*THREE, command=replace(DELETE, room=unknown))


def test_what_could_not_be_done_has_changed_nothing() -> None:
    no = BackupDeleteFailed(vm=A, backup=B1, sentence="read-only")
    backups.given(*DELETING).when(replace(REMOVED, heirs={}, sentence="read-only")).then(no).twice()
    assert BACKUPS.fold([*DELETING, no]).backups == BACKUPS.fold(THREE).backups
    (odd,) = after(*DELETING, command=replace(REMOVED, heirs={}))
    assert isinstance(odd, BackupDeleteFailed) and "not b1-3" in odd.sentence


# --- verifying -------------------------------------------------------------------------------------------------------------


def test_all_that_it_consists_of_is_read() -> None:
    assert VERIFYING[-1] == BackupVerifyRequested(vm=A, backup=B3, node=N2)
    backups.given(*VERIFYING).when(VERIFIED).then(BackupVerified(vm=A, backup=B3, read_mib=6, took_ms=20)).twice()
    bad = replace(VERIFIED, damaged={B2: "torn", "b1-99": "of another VM"})
    backups.given(*VERIFYING).when(bad).then(BackupDamaged(vm=A, backup=B3, found={B2: "torn"})).twice()
    backups.given(*THREE).when(replace(VERIFY, node="")).refused(Refusal.NO_NODE)
    backups.given().when(VERIFY).refused(Refusal.BACKUP_UNKNOWN)


def test_what_is_sound_again_is_known_as_such() -> None:
    """Its file was not there for a while."""
    events = damaged(B2)
    assert [one.damaged for one in BACKUPS.fold(events).backups] == ["", "torn", ""]
    backups.given(*events).when(replace(RECOVER, backup=B3)).refused(Refusal.BACKUP_DAMAGED)
    again = story(replace(VERIFY, backup=B2), begin=events)
    assert [one.damaged for one in BACKUPS.fold(again).backups] == ["", "", ""]
    other = story(replace(VERIFY, backup=B1), begin=events)
    assert [one.damaged for one in BACKUPS.fold(other).backups] == ["", "torn", ""], "it was not read"


@pytest.mark.parametrize("how", [{"order_version": 6}, {"order_incarnation": 1, "incarnation": 2}, {"backup": B2}])
def test_what_nobody_waits_for_counts_for_nothing(how: dict[str, Any]) -> None:
    backups.given(*VERIFYING).when(replace(VERIFIED, **how)).nothing()
    backups.given(*DELETING).when(replace(REMOVED, **how)).nothing()


def test_only_its_node_reports() -> None:
    backups.given(*VERIFYING).when(replace(VERIFIED, node=N1)).refused(Refusal.NOT_PERMITTED)
    backups.given(*DELETING).when(replace(REMOVED, node=N1)).refused(Refusal.NOT_PERMITTED)


# --- a node that is lost -----------------------------------------------------------------------------------------------------


def test_what_any_node_can_do_is_anothers() -> None:
    backups.given(*DELETING).when(LOST).then(BackupDeleteRequested(vm=A, backup=B1, node=N1, heirs=(B2,)))
    backups.given(*VERIFYING).when(replace(LOST, backup=B3)).then(BackupVerifyRequested(vm=A, backup=B3, node=N1))
    moved = (*DELETING, *after(*DELETING, command=LOST))
    backups.given(*moved).when(REMOVED).nothing()
    assert after(*moved, command=replace(REMOVED, node=N1, order_version=8))


@pytest.mark.parametrize("node", ["", "n2"])
def test_where_there_is_no_other_it_waits_for_the_node(node: str) -> None:
    backups.given(*DELETING).when(replace(LOST, node=node)).nothing()
    backups.given(*VERIFYING).when(replace(LOST, backup=B3, node=node)).nothing()
    gone = replace(LOST, node=node, removed=True)
    backups.given(*DELETING).when(gone).then(BackupDeleteFailed(vm=A, backup=B1, sentence="n2 was lost")).twice()
    backups.given(*VERIFYING).when(replace(gone, backup=B3)).then(BackupCancelRequested(vm=A, backup=B3)).twice()
    assert doing((*VERIFYING, *after(*VERIFYING, command=replace(gone, backup=B3)))) is None


def test_a_removal_that_nobody_can_do_any_more_is_over() -> None:
    """As was wished, where nothing stands on it; what does would be of no use without it."""
    newest = after(*THREE, command=replace(DELETE, backup=B3))
    gone = replace(LOST, backup=B3, node="", removed=True, sentence="n2 was removed from the cluster")
    over = BackupDeleted(vm=A, backup=B3, sentence="n2 was removed from the cluster, and no other node reaches its files")
    backups.given(*THREE, *newest).when(gone).then(over).twice()
    assert list(there((*THREE, *newest, over))) == [B1, B2] and doing((*THREE, *newest, over)) is None
    backups.given(*THREE, *newest).when(replace(gone, node="n1")).then(BackupDeleteRequested(vm=A, backup=B3, node=N1))


def test_what_is_there_outlives_its_vm() -> None:
    """A VM made anew under the name goes on where the disks are the same: its agent finds no bitmap, and makes it full."""
    assert asked(*THREE, command=replace(TAKE, known=replace(RUNS, generation=7))).parent == B3
