"""Snapshots: taken when they are seen, or at rest at once; merged upwards; gone back to by whoever names what is lost."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.hardware import Consistency, Misfit, Took, leaving
from proto.io import (
    AttachDisk,
    DetachDisk,
    DeviceMisfit,
    DevicesChanged,
    DevicesDenied,
    DevicesGranted,
    DisksRemovalRequested,
    DisksSettled,
    GrantDevices,
    Refusal,
    RemoveDevices,
    ResizeDisk,
    RevokeDevices,
    SnapshotDeleted,
    SnapshotFailed,
    SnapshotFound,
    SnapshotRequested,
    SnapshotTaken,
)
from proto.machine import LAYERS_MAX, DiskWish, Freeze, Taking
from proto.node import OrderDisksMerge, OrderDisksRemoval
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io.model import DEVICES
from services.io.states import Made, Revoked
from tests.model.io_story import GRANT, GRANTED, N1, REVOKED, A, devices
from tests.model.snapshot_story import FIRST, RUNNING, TAKE, disks, ordered, sees, snapshots, story, told
from tests.model.test_io_changes import RESTS, RUNS, after


def test_all_disks_go_on_in_new_files_and_the_snapshot_is_taken_when_they_are_seen() -> None:
    asked, changed = after(*RUNNING, command=TAKE)
    assert isinstance(asked, SnapshotRequested) and isinstance(changed, DevicesChanged)
    assert (asked.token, asked.generation, tuple(held.file for held in asked.disks)) == ("1-3", 1, FIRST)
    assert [disk.file for disk in changed.disks] == ["a-disk0.s1-3.qcow2", "a-disk1.s1-3.qcow2"]
    assert [disk.layers[0].file for disk in changed.disks] == list(FIRST)
    assert changed.taking == Taking(token="1-3") and not any(disk.made for disk in changed.disks)
    begun = (*RUNNING, asked, changed)
    devices.given(*begun).when(sees(DEVICES.fold(RUNNING))).nothing()
    devices.given(*begun).when(sees(DEVICES.fold(begun), generation=2)).nothing()
    took = Took(token="1-3", consistency=Consistency.FILESYSTEM, frozen_ms=9, took_ms=20)
    taken = SnapshotTaken(
        vm=A, generation=1, name="s1", consistency=Consistency.FILESYSTEM, frozen_ms=9, took_ms=20
    )
    devices.given(*begun).when(sees(DEVICES.fold(begun), took=took)).then(taken).twice()
    assert all(disk.made for disk in disks((*begun, taken)))
    (forgotten,) = told(*begun, took=replace(took, token="1-2"))
    assert isinstance(forgotten, SnapshotTaken) and forgotten.consistency is Consistency.CRASH and forgotten.sentence


def test_one_disk_of_two_is_no_snapshot() -> None:
    begun = (*RUNNING, *after(*RUNNING, command=TAKE))
    whole = sees(DEVICES.fold(begun))
    half = replace(whole, hardware=replace(whole.hardware, chains=whole.hardware.chains[:1]))
    devices.given(*begun).when(half).nothing()


def test_one_that_could_not_be_taken_leaves_the_disks_as_they_were_and_its_files_go() -> None:
    begun = (*RUNNING, *after(*RUNNING, command=replace(TAKE, freeze=Freeze.REQUIRE)))
    failed, back = told(*begun, took=Took(token="1-3", failed=True, sentence="silent"))
    assert failed == SnapshotFailed(vm=A, generation=1, name="s1", sentence="silent")
    over = (*begun, failed, back)
    assert disks(over) == disks(RUNNING) and snapshots(over) == {}
    (order,) = ordered("devices-a", DEVICES.fold(over), 9)
    assert isinstance(order.message, OrderDisksRemoval)
    assert {d.file for d in order.message.disks} == {"a-disk0.s1-3.qcow2", "a-disk1.s1-3.qcow2"}
    assert all(not d.layers for d in order.message.disks)


def test_a_process_that_ends_meanwhile_leaves_what_was_written_by_then() -> None:
    revoke = RevokeDevices(vm="a", generation=1)
    begun = (*RUNNING, *after(*RUNNING, command=TAKE))
    taken, _ = after(*begun, command=revoke)
    assert isinstance(taken, SnapshotTaken) and taken.consistency is Consistency.CRASH and taken.unseen
    ended = (*begun, *after(*begun, command=revoke))
    assert not any(disk.made for disk in disks(ended)), "the next start makes the files that are not there"
    strict = (*RUNNING, *after(*RUNNING, command=replace(TAKE, freeze=Freeze.REQUIRE)))
    failed, _ = after(*strict, command=revoke)
    assert isinstance(failed, SnapshotFailed) and failed.unseen
    ended = (*strict, *after(*strict, command=revoke))
    assert snapshots(ended) == {"s1": "deleting"} and all(leaving(disk) for disk in disks(ended))


def test_refusals() -> None:
    devices.given().when(replace(TAKE, known=RESTS)).refused(Refusal.NOTHING_NEW)
    devices.given().when(TakeSnapshot(vm="a", name="s1")).refused(Refusal.NOT_DEFINED)
    devices.given(GRANTED, REVOKED).when(replace(TAKE, known=RESTS)).refused(Refusal.NOTHING_NEW)
    begun = (*RUNNING, *after(*RUNNING, command=TAKE))
    busy: list[Any] = [
        TAKE,
        replace(TAKE, name="s2"),
        DeleteSnapshot(vm="a", name="s1", known=RUNS),
        ResizeDisk(vm="a", name="disk0", size_mib=10_000, known=RUNS),
        AttachDisk(vm="a", disk=DiskWish(size_mib=5), known=RUNS),
    ]
    for command in busy:
        devices.given(*begun).when(command).refused(Refusal.BUSY)
    taken = story(TAKE)
    devices.given(*taken).when(TAKE).refused(Refusal.SNAPSHOT_KNOWN)
    devices.given(*taken).when(DeleteSnapshot(vm="a", name="x", known=RUNS)).refused(Refusal.SNAPSHOT_UNKNOWN)
    devices.given(*taken).when(RevertSnapshot(vm="a", name="s1", lose=("a",), known=RUNS)).refused(Refusal.NOT_STOPPED)
    devices.given(*taken).when(DetachDisk(vm="a", name="disk1", known=RUNS)).refused(Refusal.HAS_SNAPSHOTS)
    attaching = (*RUNNING, *after(*RUNNING, command=busy[-1]))
    devices.given(*attaching).when(TAKE).refused(Refusal.BUSY)
    full = story(*(replace(TAKE, name=f"s{i}") for i in range(LAYERS_MAX)))
    devices.given(*full).when(replace(TAKE, name="more")).refused(Refusal.TOO_MANY)


def test_a_deleted_one_is_gone_when_it_is_seen_merged_and_its_files_then() -> None:
    three = story(TAKE, replace(TAKE, name="s2"), replace(TAKE, name="s3"))
    begun = (*three, *after(*three, command=DeleteSnapshot(vm="a", name="s2", known=RUNS)))
    assert all([one.leaving for one in disk.layers] == [False, True, False] for disk in disks(begun))
    as_before = sees(DEVICES.fold(three))
    devices.given(*begun).when(as_before).nothing()
    devices.given(*begun).when(replace(as_before, hardware=replace(as_before.hardware, chains=()))).nothing()
    full = Misfit(what="snapshot", slot=1, sentence="no space", pending=True)
    stuck = after(*begun, command=replace(as_before, hardware=replace(as_before.hardware, misfits=(full,))))
    assert stuck == (DeviceMisfit(vm=A, generation=1, name="s2", slot=-1, sentence="no space", pending=True),)
    gone, changed = told(*begun)
    assert isinstance(gone, SnapshotDeleted) and len(gone.files) == 2
    over = (*begun, gone, changed)
    assert snapshots(over) == {"s1": "taken", "s3": "taken"} and not any(leaving(disk) for disk in disks(over))
    (order,) = ordered("devices-a", DEVICES.fold(over), 9)
    assert isinstance(order.message, OrderDisksRemoval) and {d.file for d in order.message.disks} == set(gone.files)
    devices.given(*over).when(sees(DEVICES.fold(over))).nothing()


def test_at_rest_it_is_taken_at_once_and_merged_by_order() -> None:
    rest = (*story(TAKE), REVOKED)
    taken = story(replace(TAKE, name="s2", known=RESTS), begin=rest)
    assert snapshots(taken) == {"s1": "taken", "s2": "taken"}
    last = taken[-1]
    assert isinstance(last, SnapshotTaken) and last.consistency is Consistency.STOPPED
    devices.given(*taken).when(replace(TAKE, name="s3", known=RESTS)).refused(Refusal.NOTHING_NEW)
    begun = story(DeleteSnapshot(vm="a", name="s1", known=RESTS), begin=taken)
    (order,) = ordered("devices-a", DEVICES.fold(begun), 7)
    assert isinstance(order.message, OrderDisksMerge) and order.node == N1
    early = ReportDisksMerged(vm="a", node=N1, order_version=1)
    devices.given(*begun).when(early).nothing()
    devices.given(*begun).when(replace(early, order_version=99, order_incarnation=2)).nothing()
    devices.given(*begun).when(replace(early, order_version=99, node=NodeId("n2"))).nothing()
    over = (*begun, *after(*begun, command=replace(early, order_version=99)))
    assert snapshots(over) == {"s2": "taken"}
    started = (*begun, *after(*begun, command=replace(GRANT, generation=2)))
    devices.given(*started).when(replace(early, order_version=99)).nothing()
    assert not any(isinstance(o.message, OrderDisksMerge) for o in ordered("devices-a", DEVICES.fold(started), 9))


def test_going_back_throws_away_what_is_newer_once_it_is_named() -> None:
    rest = (*story(TAKE, replace(TAKE, name="s2"), replace(TAKE, name="s3")), REVOKED)
    back = RevertSnapshot(vm="a", name="s1", known=RESTS, lose=("a",))
    said = devices.given(*rest).when(back).refused(Refusal.NOT_CONFIRMED).refusal
    assert said is not None and "s2, s3" in said.sentence and said.remedy.endswith("--lose s2 --lose s3")
    before = disks(rest)
    over = (*rest, *after(*rest, command=replace(back, lose=("a", "s2", "s3"))))
    assert snapshots(over) == {"s1": "taken"}
    for was, now in zip(before, disks(over), strict=True):
        assert (now.layers, now.made) == (was.layers[2:], False) and now.file not in (was.file, *(x.file for x in was.layers))
    (order,) = ordered("devices-a", DEVICES.fold(over), 9)
    assert isinstance(order.message, OrderDisksRemoval)
    dropped = {d.file for d in order.message.disks}
    assert dropped == {file for d in before for file in (d.file, *(one.file for one in d.layers[:2]))}
    assert all(not d.layers for d in order.message.disks)


def test_a_disk_that_came_later_stays_and_one_that_leaves_takes_its_layers_along() -> None:
    attach = AttachDisk(vm="a", disk=DiskWish(size_mib=5), known=RUNS)
    events = story(TAKE, attach, replace(TAKE, name="s2"))
    assert [len(disk.layers) for disk in disks(events)] == [2, 2, 1]
    rest = (*events, REVOKED)
    over = (*rest, *after(*rest, command=RevertSnapshot(vm="a", name="s1", known=RESTS, lose=("a", "s2"))))
    assert [len(disk.layers) for disk in disks(over)] == [1, 1, 1], "the later disk is not put back"
    out = (*rest, *after(*rest, command=DetachDisk(vm="a", name="disk2", delete=True, known=RESTS)))
    (order,) = ordered("devices-a", DEVICES.fold(out), 9)
    assert isinstance(order.message, OrderDisksRemoval) and len(order.message.disks[0].layers) == 1
    state = DEVICES.fold(out)
    assert isinstance(state, Revoked) and [len(s.disks) for s in state.snapshots] == [2, 2]


def test_a_deleted_vm_takes_all_layers_along() -> None:
    rest = (*story(TAKE, replace(TAKE, name="s2")), REVOKED)
    (asked,) = after(*rest, command=RemoveDevices(vm="a"))
    assert isinstance(asked, DisksRemovalRequested) and all(len(disk.layers) == 2 for disk in asked.disks)


def test_snapshots_do_not_go_along_to_another_pool_and_are_not_made_anew_there() -> None:
    taken = story(TAKE)
    move = GrantDevices(vm="a", node=NodeId("n2"), generation=2, copied=("default",), pool_ids={"default": "other"})
    (denied,) = after(*taken, command=move)
    assert isinstance(denied, DevicesDenied) and "snapshots" in denied.sentence
    at = replace(GRANT, pool_ids={"default": "one"})
    begun = (*after(command=at), DisksSettled(vm=A, generation=1))
    rest = (*story(TAKE, begin=begun), REVOKED)
    unmade = story(RevertSnapshot(vm="a", name="s1", known=RESTS, lose=("a",)), begin=rest)
    (denied,) = after(*unmade, command=replace(at, generation=3, pool_ids={"default": "other"}))
    assert isinstance(denied, DevicesDenied), "its layers are in the first pool, though nothing has run since"


def test_a_log_that_lost_snapshots_finds_them_beneath_a_vm_that_runs() -> None:
    has = disks(story(TAKE, replace(TAKE, name="s2")))
    found = GrantDevices(vm="a", node=N1, generation=1, running=True, has_disks=has)
    granted, first, second = after(GRANTED, REVOKED, command=found)
    assert isinstance(granted, DevicesGranted) and granted.disks == has
    assert isinstance(first, SnapshotFound) and isinstance(second, SnapshotFound)
    over = (GRANTED, REVOKED, granted, first, second)
    assert snapshots(over) == {"found-1-3": "taken", "found-1-6": "taken"}
    state = DEVICES.fold(over)
    assert isinstance(state, Made) and [s.disks[0].file for s in state.snapshots] == [FIRST[0], "a-disk0.s1-3.qcow2"]
    fewer = story(TAKE, replace(TAKE, name="s2"), DeleteSnapshot(vm="a", name="s1", known=RUNS))
    older = (*story(TAKE, replace(TAKE, name="s2")), REVOKED)
    merged = (*older, *after(*older, command=replace(found, has_disks=disks(fewer))))
    assert snapshots(merged) == {"s2": "taken"}, "one that was deleted since is not shown again"
