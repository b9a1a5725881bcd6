"""A VM is recovered from a backup: which, where to, on what its disks stand; and how long the backup is held."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from proto.devices import VmPhase
from proto.io import Refusal
from proto.machine import DiskFormat, Layer, Origin
from proto.recovery import (
    EndKind,
    EndRecovery,
    RecoveredDisk,
    RecoverKnown,
    RecoverVm,
    RecoveryEnded,
    RecoveryRequested,
)
from services.io.backups.model import BACKUPS
from tests.model.backup_story import (
    B1,
    B2,
    B3,
    DEFINITION,
    DELETE,
    HOUR_US,
    IN_PLACE,
    RECOVER,
    T0,
    TAKE,
    THREE,
    after,
    asked,
    backups,
    story,
)
from tests.model.io_story import A
from tests.model.test_io_backups_removed import VERIFYING, damaged

END = EndRecovery(vm="a", recovery="r1-7", end=EndKind.INDEPENDENT, sentence="s")
REQUESTED = after(*THREE, command=RECOVER)[0]
HELD = (*THREE, REQUESTED)


def chosen(command: RecoverVm) -> str:
    (event,) = after(*THREE, command=command)
    assert isinstance(event, RecoveryRequested)
    return event.backup


def refused(*events: object, command: RecoverVm = RECOVER, reason: Refusal) -> str:
    outcome = backups.given(*events).when(command).refused(reason)  # type: ignore[arg-type]
    assert outcome.refusal is not None and outcome.refusal.remedy
    return f"{outcome.refusal.sentence}; {outcome.refusal.remedy}"


def layers(disk: str) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            file=f"a-{disk}.{backup}.qcow2", format=DiskFormat.QCOW2, leaving=True,
            origin=Origin(vm="a", backup=backup, pool="safe", pool_id="s1", bytes=1 << 20),
        )
        for backup in (B3, B2, B1)
    )  # fmt: skip


def test_its_disks_stand_on_the_whole_chain_the_newest_first() -> None:
    disks = (
        RecoveredDisk(disk="disk0", size_mib=64, layers=layers("disk0")),
        RecoveredDisk(disk="disk1", size_mib=10, layers=layers("disk1")),
    )
    wish = replace(RECOVER, node="n2", pool="fast", start=False, isolated=True)
    backups.given(*THREE).when(wish).then(
        RecoveryRequested(
            vm=A, target="b", recovery="r1-7", backup=B3, taken_us=T0 + 2 * HOUR_US, disks=disks,  # type: ignore[arg-type]
            definition=DEFINITION, node="n2", pool="fast", start=False, isolated=True,
        )
    )  # fmt: skip


def test_variables_of_its_firmware_come_along() -> None:
    state = BACKUPS.fold(THREE)
    first, *rest = state.backups[2].disks
    with_vars = replace(state.backups[2], disks=(replace(first, vars="a-disk0-vars.fd", vars_sha256="b" * 64), *rest))
    (event,) = BACKUPS.decide(RECOVER, replace(state, backups=(*state.backups[:2], with_vars)))
    assert isinstance(event, RecoveryRequested)
    assert [disk.vars for disk in event.disks] == ["a-disk0-vars.fd", ""]


@pytest.mark.parametrize(
    ("at_us", "backup"),
    [(0, B3), (T0, B1), (T0 + HOUR_US - 1, B1), (T0 + HOUR_US, B2), (T0 + 99 * HOUR_US, B3)],
)
def test_the_newest_that_is_not_after_that_instant(at_us: int, backup: str) -> None:
    assert chosen(replace(RECOVER, at_us=at_us)) == backup
    assert chosen(replace(RECOVER, at_us=at_us, backup=B2)) == B2


def test_a_clock_that_was_set_back_does_not_make_an_older_one_the_newest() -> None:
    state = BACKUPS.fold(THREE)
    one, two, three = state.backups
    jumped = replace(state, backups=(one, replace(two, taken_us=T0 + 50 * HOUR_US), three))
    for at_us, backup in ((0, B3), (T0 + 60 * HOUR_US, B3), (T0 + 2 * HOUR_US, B3), (T0 + HOUR_US, B1)):
        (event,) = BACKUPS.decide(replace(RECOVER, at_us=at_us), jumped)
        assert isinstance(event, RecoveryRequested) and event.backup == backup


def test_before_the_first_the_first_is_named() -> None:
    said = refused(*THREE, command=replace(RECOVER, at_us=T0 - 1), reason=Refusal.BACKUP_UNKNOWN)
    assert "of 2023-11-14 22:13:19Z or before: the first is b1-1 (2023-11-14 22:13:20Z)" in said
    assert "a has no backup" in refused(reason=Refusal.BACKUP_UNKNOWN)
    assert "it has b1-1" in refused(*THREE, command=replace(RECOVER, backup="b1-9"), reason=Refusal.BACKUP_UNKNOWN)


def test_a_damaged_one_is_refused_and_the_newest_sound_one_named() -> None:
    events = damaged(B2)
    said = refused(*events, reason=Refusal.BACKUP_DAMAGED)
    assert "b1-5 of a stands on b1-3, which is damaged: torn" in said and "--backup b1-1" in said
    assert "b1-3 of a is damaged: torn" in refused(*events, command=replace(RECOVER, backup=B2), reason=Refusal.BACKUP_DAMAGED)
    assert after(*events, command=replace(RECOVER, backup=B1))
    assert "none of its backups is sound" in refused(*damaged(B1), reason=Refusal.BACKUP_DAMAGED)


def test_one_that_is_not_whole_yet_is_none() -> None:
    taking = (*THREE, asked(*THREE))
    refused(*taking, command=replace(RECOVER, backup="b1-7"), reason=Refusal.BACKUP_UNKNOWN)
    (event,) = after(*taking, command=RECOVER)
    assert isinstance(event, RecoveryRequested) and event.backup == B3
    assert after(*VERIFYING, command=RECOVER), "reading it harms nobody"


def test_what_is_being_deleted_is_not_stood_on() -> None:
    deleting = (*THREE, *after(*THREE, command=replace(DELETE, backup=B2)))
    assert "b1-3 of a, on which b1-5 stands, is being deleted" in refused(*deleting, reason=Refusal.BUSY)
    refused(*deleting, command=replace(RECOVER, backup=B2), reason=Refusal.BUSY)
    assert after(*deleting, command=replace(RECOVER, backup=B1))


@pytest.mark.parametrize(
    ("command", "reason", "word"),
    [
        (replace(RECOVER, known=replace(RECOVER.known, nodes={})), Refusal.NO_NODE, "no node reaches the pool safe s1"),
        (replace(RECOVER, node="n9"), Refusal.NO_NODE, "name one that does: n1, n2"),
        (replace(RECOVER, known=replace(RECOVER.known, images=())), Refusal.IMAGE_UNKNOWN, "the image tiny"),
        (replace(RECOVER, known=replace(RECOVER.known, removing="n3")), Refusal.BUSY, "still being removed by n3"),
        (replace(RECOVER, known=replace(RECOVER.known, phase=VmPhase.STOPPED)), Refusal.VM_KNOWN, "VM named b exists"),
        (replace(IN_PLACE, known=replace(IN_PLACE.known, phase=VmPhase.RUNNING)), Refusal.NOT_STOPPED, "a is running"),
        (replace(IN_PLACE, lose=""), Refusal.NOT_CONFIRMED, "--lose a"),
        (replace(IN_PLACE, lose="b"), Refusal.NOT_CONFIRMED, "--lose a"),
    ],
    ids=lambda one: str(one) if isinstance(one, Refusal) else "",
)
def test_it_is_refused_with_a_sentence(command: RecoverVm, reason: Refusal, word: str) -> None:
    assert word in refused(*THREE, command=command, reason=reason)


def test_in_place_and_anew() -> None:
    (event,) = after(*THREE, command=IN_PLACE)
    assert isinstance(event, RecoveryRequested) and (event.target, event.lose) == ("a", "a")
    anew = replace(IN_PLACE, lose="", known=RECOVER.known)
    assert after(*THREE, command=anew), "it was deleted: nothing is lost"


def test_one_recovery_of_a_name_at_a_time() -> None:
    assert "already (r1-7)" in refused(*HELD, reason=Refusal.BUSY)
    other = after(*HELD, command=replace(RECOVER, target="c"))
    assert isinstance(other[0], RecoveryRequested) and other[0].recovery == "r1-8"
    assert after(*HELD, *other, command=IN_PLACE)


@pytest.mark.parametrize("end", EndKind)
def test_it_ends_once(end: EndKind) -> None:
    ended = RecoveryEnded(vm=A, target=REQUESTED.target, recovery="r1-7", end=end, sentence="s")
    backups.given(*HELD).when(replace(END, end=end)).then(ended).twice()
    assert BACKUPS.fold([*HELD, ended]).holds == ()
    backups.given().when(END).nothing()
    assert after(*HELD, ended, command=RECOVER)


def test_a_backup_is_taken_while_one_is_recovered_from() -> None:
    """Its order is sent again when the stream goes on; what was asked for stays asked for."""
    events = (*THREE, asked(*THREE))
    events += after(*events, command=RECOVER)
    assert len(BACKUPS.fold(story(TAKE, begin=HELD)).backups) == 4
    backups.given(*events).survives_the_wire()
    assert RecoverKnown().phase is VmPhase.UNKNOWN
