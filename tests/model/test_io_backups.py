"""A backup is taken: what it stands on, when it is refused, what its agent says of it, how it is given up."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.decider import Refused
from proto.backups import (
    BACKUPS_MAX,
    CHAIN_MAX,
    BackupCancelRequested,
    BackupDeleted,
    BackupFailed,
    BackupKind,
    BackupKnown,
    BackupRequested,
    BackupTaken,
    CancelBackup,
    EndBackup,
    ReportBackup,
    ReportBackupRemoved,
)
from proto.devices import VmPhase
from proto.io import Refusal
from proto.machine import Disk, DiskBus, DiskFormat, Freeze, Layer, Origin
from proto.pools import PoolKind
from services.io.backups.chain import chain
from services.io.backups.model import BACKUPS
from services.io.backups.states import Backup, Backups, Taking
from tests.model.backup_story import (
    B1,
    B2,
    B3,
    DEFINITION,
    MADE,
    RESTS,
    ROOM,
    RUNS,
    T0,
    TAKE,
    THREE,
    VERIFY,
    after,
    asked,
    backups,
    doing,
    done,
    reported,
    saved,
    story,
    there,
)
from tests.model.io_story import N1, N2, A

CD = Disk(name="cd2", pool="default", file="", size_mib=1, format=DiskFormat.RAW, serial="s", slot=3, bus=DiskBus.CDROM)
CANCEL = CancelBackup(vm="a", backup=B1)
FAILED = ReportBackup(vm="a", node=N1, backup=B1, order_version=1, sentence="no room")
GONE = ReportBackupRemoved(vm="a", node=N1, backup=B1, order_version=2)
ENDED = EndBackup(vm="a", backup=B1, sentence="a ended")
FIRST = asked()


def test_the_first_is_full_and_says_all_that_its_agent_needs() -> None:
    wish = replace(TAKE, freeze=Freeze.REQUIRE, rate_mibps=9, compress=True, description="d", incarnation=3)
    backups.given().when(wish).then(
        BackupRequested(
            vm=A, backup="b3-1", node=N1, generation=1, pool="safe", pool_id="s1", disks=MADE, definition=DEFINITION,
            freeze=Freeze.REQUIRE, rate_mibps=9, compress=True, description="d",
        )
    )  # fmt: skip


def test_each_stands_on_the_one_before() -> None:
    assert there(THREE) == {B1: "", B2: B1, B3: B2}
    assert [one.kind for one in BACKUPS.fold(THREE).backups] == [BackupKind.FULL, *[BackupKind.INCREMENTAL] * 2]
    assert asked(*THREE, command=replace(TAKE, full=True)).parent == ""


def test_a_chain_is_bounded() -> None:
    events = story(*[TAKE] * (CHAIN_MAX + 2))
    state = BACKUPS.fold(events)
    lengths = [len(chain(state.backups, one.id)) for one in state.backups]
    assert lengths == [*range(1, CHAIN_MAX + 1), 1, 2]


@pytest.mark.parametrize(
    "known",
    [
        replace(RUNS, disks=MADE[:1]),
        replace(RUNS, disks=(replace(MADE[0], size_mib=65), MADE[1])),
        replace(RUNS, disks=(replace(MADE[0], name="disk7"), MADE[1])),
        replace(RUNS, room=replace(ROOM, id="s2")),
    ],
    ids=["fewer disks", "larger", "another", "another pool of that name"],
)
def test_it_is_full_where_what_is_there_is_of_no_use(known: BackupKnown) -> None:
    assert asked(*THREE, command=replace(TAKE, known=known)).parent == ""


def test_nothing_stands_on_what_is_damaged_or_on_what_stands_on_that() -> None:
    state = BACKUPS.fold(THREE)

    def parent(bad: str) -> str:
        hurt = tuple(replace(one, damaged="x" if one.id == bad else "") for one in state.backups)
        (event,) = BACKUPS.decide(TAKE, replace(state, backups=hurt))
        assert isinstance(event, BackupRequested)
        return event.parent

    assert (parent(B1), parent(B2), parent(B3)) == ("", B1, B2)


def test_at_rest_what_was_written_last_is_read() -> None:
    """The file that a snapshot at rest has put on top may not be there; a disk that never ran has nothing in it."""
    below = Layer(file="a-disk0.qcow2", format=DiskFormat.QCOW2)
    topped = replace(MADE[0], file="a-disk0.s1-2.qcow2", layers=(below,), made=False)
    event = asked(command=replace(TAKE, known=replace(RESTS, disks=(topped, replace(MADE[1], made=False), CD))))
    assert event.generation == 0
    assert event.disks == (replace(topped, file=below.file, layers=(), made=True),)


FROM = Origin(vm="b", backup="b1-1", pool="safe")
MERGING = replace(MADE[0], layers=(Layer(file="f", format=DiskFormat.QCOW2, leaving=True, origin=FROM),))
NO = BackupKnown()
REFUSED: dict[str, tuple[BackupKnown, Refusal, str]] = {
    "no such VM": (NO, Refusal.NOT_DEFINED, "no VM named a"),
    "starting": (replace(RUNS, phase=VmPhase.STARTING), Refusal.BUSY, "being started"),
    "stopping": (replace(RUNS, phase=VmPhase.STOPPING), Refusal.BUSY, "being stopped"),
    "migrating": (replace(RUNS, phase=VmPhase.MIGRATING), Refusal.BUSY, "moving"),
    "out of space": (replace(RUNS, phase=VmPhase.OUT_OF_SPACE), Refusal.BUSY, "want of space"),
    "coming home": (replace(RUNS, disks=(MERGING, MADE[1])), Refusal.BUSY, "merged"),
    "attaching": (replace(RUNS, disks=(MADE[0], replace(MADE[1], made=False))), Refusal.BUSY, "disk1 of a"),
    "never ran": (replace(RESTS, node="", disks=()), Refusal.NOTHING_NEW, "never run"),
    "not made": (replace(RESTS, disks=tuple(replace(d, made=False) for d in MADE)), Refusal.NOTHING_NEW, "never run"),
    "cd only": (replace(RUNS, disks=(CD,), definition=replace(DEFINITION, disks=())), Refusal.BAD_DEVICE, "no disks"),
    "no pool": (replace(RUNS, reached=False, has=("default", "fast")), Refusal.POOL_UNKNOWN, "n1 has default, fast"),
    "elsewhere": (
        replace(RUNS, reached=False, has=("default",), nodes=("n2", "n3")), Refusal.NO_NODE, "it has default; safe is on n2, n3",
    ),
    "apart": (replace(RESTS, node="", reached=False, nodes=("n2",)), Refusal.NO_NODE, "no node reaches both"),
    "rbd": (replace(RUNS, room=replace(ROOM, kind=PoolKind.RBD)), Refusal.BAD_DEVICE, "is rbd"),
    "nbd": (replace(RUNS, room=replace(ROOM, kind=PoolKind.NBD)), Refusal.BAD_DEVICE, "names no export for backups"),
    "full": (replace(RUNS, room=replace(ROOM, free_mib=5)), Refusal.POOL_FULL, "5 of 1000 MiB free"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_it_is_refused_with_a_sentence(why: str) -> None:
    known, reason, word = REFUSED[why]
    outcome = backups.given().when(replace(TAKE, known=known)).refused(reason)
    assert outcome.refusal is not None and word in outcome.refusal.sentence
    assert outcome.refusal.remedy


def test_an_nbd_pool_with_an_export_for_backups_takes_one() -> None:
    far = replace(ROOM, kind=PoolKind.NBD, backups=True, size_mib=-1, free_mib=-1)
    assert asked(command=replace(TAKE, known=replace(RUNS, room=far))) == FIRST


def test_how_disks_are_provisioned_does_not_matter_to_a_backup() -> None:
    crowded = replace(ROOM, provisioned_mib=9000, rules=replace(ROOM.rules, over=1.0))
    assert asked(command=replace(TAKE, known=replace(RUNS, room=crowded))) == FIRST
    assert asked(command=replace(TAKE, known=replace(RUNS, phase=VmPhase.PAUSED))) == FIRST


def test_one_thing_at_a_time() -> None:
    busy = backups.given(FIRST)
    for wish in (TAKE, replace(VERIFY, backup=B1)):
        outcome = busy.when(wish).refused(Refusal.BUSY)
        assert outcome.refusal is not None and "b1-1 of a is being taken by n1" in outcome.refusal.sentence
    verifying = (*THREE, *after(*THREE, command=VERIFY))
    backups.given(*verifying).when(TAKE).refused(Refusal.BUSY)
    backups.given(*verifying).when(VERIFY).nothing()
    backups.given(*verifying).when(replace(VERIFY, backup=B2)).refused(Refusal.BUSY)


def test_so_many_are_kept() -> None:
    one = BACKUPS.fold(THREE).backups[0]
    full = Backups(version=9, backups=tuple(replace(one, id=f"b1-{n}") for n in range(BACKUPS_MAX)))
    with pytest.raises(Refused) as no:
        BACKUPS.decide(TAKE, full)
    assert no.value.reason is Refusal.TOO_MANY and "b1-0" in no.value.remedy


def test_it_is_there_when_its_agent_says_so() -> None:
    report = reported([FIRST])
    assert report.done is not None
    backups.given(FIRST).when(report).then(BackupTaken(vm=A, backup=B1, done=report.done)).twice()
    (one,) = BACKUPS.fold([FIRST, *after(FIRST, command=report)]).backups
    assert one == Backup(
        id=B1, kind=BackupKind.FULL, pool="safe", pool_id="s1", disks=saved(MADE, B1), definition=DEFINITION, taken_us=T0
    )
    backups.given(FIRST).when(FAILED).then(BackupFailed(vm=A, backup=B1, sentence="no room")).twice()
    assert BACKUPS.fold([FIRST, *after(FIRST, command=FAILED)]).left == ()


@pytest.mark.parametrize(
    "how",
    [{"order_version": 0}, {"order_incarnation": 1, "incarnation": 2}, {"backup": "b1-9"}],
    ids=["older order", "lost timeline", "another"],
)
def test_what_nobody_waits_for_counts_for_nothing(how: dict[str, Any]) -> None:
    for report in (reported([FIRST]), FAILED):
        backups.given(FIRST).when(replace(report, **how)).nothing()
    backups.given().when(FAILED).nothing()


def test_only_its_node_reports() -> None:
    backups.given(FIRST).when(replace(FAILED, node=N2)).refused(Refusal.NOT_PERMITTED)


def test_what_is_not_what_was_asked_for_is_no_backup() -> None:
    second = asked(*THREE)
    events = (*THREE, second)
    good = done(second, T0)
    assert good.parent == B3
    for bad, word in (
        (replace(good, disks=good.disks[:1]), "was to hold disk0, disk1"),
        (replace(good, parent=""), "incremental, on nothing"),
        (replace(good, kind=BackupKind.FULL), "full, on b1-5"),
        (replace(good, parent=B2), "stands on b1-3"),
    ):
        (event,) = after(*events, command=replace(reported(events), done=bad))
        assert isinstance(event, BackupFailed) and word in event.sentence and event.left
    (taken,) = after(*events, command=reported(events, full=True))
    assert isinstance(taken, BackupTaken) and taken.done.kind is BackupKind.FULL


def test_it_is_given_up_and_what_there_is_of_it_removed_first() -> None:
    backups.given(FIRST).when(CANCEL).then(BackupCancelRequested(vm=A, backup=B1)).twice()
    cancelled = (FIRST, *after(FIRST, command=CANCEL))
    backups.given(*cancelled).when(TAKE).refused(Refusal.BUSY)
    backups.given(*cancelled).when(reported(cancelled)).nothing()
    backups.given(*cancelled).when(replace(GONE, order_version=1)).nothing()
    backups.given(*cancelled).when(replace(GONE, node=N2)).refused(Refusal.NOT_PERMITTED)
    backups.given(*cancelled).when(GONE).then(BackupFailed(vm=A, backup=B1, sentence="it was given up, as was asked")).twice()
    backups.given(*cancelled).when(FAILED).then(BackupFailed(vm=A, backup=B1, sentence="no room"))
    (stuck,) = after(*cancelled, command=replace(GONE, sentence="read-only"))
    assert stuck.left and "read-only" in stuck.sentence


def test_only_what_is_under_way_is_given_up() -> None:
    backups.given().when(CANCEL).refused(Refusal.BACKUP_UNKNOWN)
    backups.given(FIRST).when(replace(CANCEL, backup=B2)).refused(Refusal.BACKUP_UNKNOWN)
    verifying = (*THREE, *after(*THREE, command=VERIFY))
    backups.given(*verifying).when(CANCEL).then(BackupCancelRequested(vm=A, backup=B1)).twice(Refusal.BACKUP_UNKNOWN)
    assert doing((*verifying, *after(*verifying, command=CANCEL))) is None


def test_a_lost_node_never_says_how_it_went() -> None:
    """The stream goes on at once; what there is of it is removed when the node is back."""
    gone = BackupFailed(vm=A, backup=B1, sentence="a ended", left=True)
    backups.given(FIRST).when(ENDED).then(gone).twice()
    lost = (FIRST, gone)
    assert isinstance(doing((*lost, asked(*lost))), Taking)
    backups.given(*lost).when(reported([FIRST])).nothing()
    for fact in (GONE, FAILED):
        backups.given(*lost).when(fact).then(BackupDeleted(vm=A, backup=B1)).twice()
    backups.given(*lost).when(replace(GONE, sentence="read-only")).nothing()
    backups.given(*lost).when(replace(GONE, node=N2)).nothing()
    backups.given(*lost).when(replace(GONE, order_version=1)).nothing()
    backups.given(*lost).when(replace(ENDED, removed=True)).then(BackupDeleted(vm=A, backup=B1)).twice()
    backups.given(FIRST).when(replace(ENDED, removed=True)).then(replace(gone, left=False))
    backups.given().when(ENDED).nothing()


def test_states_survive_the_wire() -> None:
    cancelled = (FIRST, BackupCancelRequested(vm=A, backup=B1))
    for events in ((), (FIRST,), cancelled, THREE, (*THREE, *after(*THREE, command=VERIFY))):
        backups.given(*events).survives_the_wire()
