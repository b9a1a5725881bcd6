"""A VM's disks are put on a backup, and come home: nothing of what it had is lost before, and nothing of the backup ever."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.devices import ChangeKind, VmPhase
from proto.hardware import Misfit, leaving, standing
from proto.io import (
    AttachDisk,
    DetachDisk,
    DeviceMisfit,
    DevicesChanged,
    DevicesDenied,
    DevicesGranted,
    DevicesRemoved,
    DisksHome,
    DisksNotRecovered,
    DisksRecovered,
    DisksRemovalRequested,
    LimitDisk,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ResizeDisk,
    SetNic,
    SnapshotDeleted,
    SnapshotFound,
)
from proto.machine import DiskBus, DiskFormat, DiskLimits, DiskWish, Firmware, Layer, Seed
from proto.node import OrderDisksMerge, OrderDisksRemoval
from proto.pools import PoolKind, PoolRoom
from proto.snapshots import DeleteSnapshot, ReportDisksMerged, RevertSnapshot, TakeSnapshot
from services.io.devices import mac_of, serial_of
from services.io.model import DEVICES
from services.io.states import NoDevices
from tests.model import test_io_changes as changes
from tests.model.io_story import ASKED as REMOVING
from tests.model.io_story import DISKS, GRANTED, N1, NICS, REVOKED, A, devices
from tests.model.recovery_story import (
    ANEW,
    DEFINITION,
    IN_PLACE,
    REGRANT,
    RESTS,
    REVOKE,
    SAVED,
    STOPPED,
    X,
    made,
    recovered,
    running,
    standing_still,
)
from tests.model.snapshot_story import TAKE, ordered, sees, snapshots, story
from tests.model.test_io_changes import after

IDS = {"default": "p1", "safe": "p9"}


def test_in_place_each_disk_is_the_same_to_its_guest_in_a_file_of_its_own_on_the_backup() -> None:
    changed, done = after(*STOPPED, command=IN_PLACE)
    assert isinstance(changed, DevicesChanged) and isinstance(done, DisksRecovered)
    assert (changed.change.kind, changed.change.recovery, changed.generation) == (ChangeKind.RECOVER, "r1-9", 0)
    assert [d.file for d in changed.disks] == ["a-disk0.r1-4.qcow2", "a-disk1.r1-4.qcow2"]
    for disk, had, saved in zip(changed.disks, DISKS, SAVED, strict=True):
        assert (disk.name, disk.serial, disk.slot, disk.bus, disk.limits) == (had.name, had.serial, had.slot, had.bus, had.limits)
        assert (disk.size_mib, disk.format, disk.image, disk.made) == (saved.size_mib, DiskFormat.QCOW2, "", False)
        assert disk.layers == saved.layers and leaving(disk)
    assert changed.nics == NICS
    assert [d.file for d in done.former] == [d.file for d in DISKS]
    assert made(recovered(*STOPPED)).unwanted == (), "they stay until its data is home"
    devices.given(*STOPPED).when(IN_PLACE).then(changed, done).twice()


def test_what_the_backup_has_not_stays_and_what_the_vm_lacks_comes_back() -> None:
    other = replace(SAVED[1], disk="disk7", size_mib=3)
    changed, done = after(*STOPPED, command=replace(IN_PLACE, disks=(SAVED[0], other)))
    assert isinstance(changed, DevicesChanged) and isinstance(done, DisksRecovered)
    _, stays, back = changed.disks
    assert stays.file == DISKS[1].file and stays.made
    assert (back.name, back.serial, back.size_mib, back.slot) == ("disk7", serial_of("a", 7), 3, 4)
    assert [d.file for d in done.former] == [DISKS[0].file]


def test_anew_it_has_the_names_of_its_disks_and_serials_and_macs_of_its_own_name() -> None:
    seed = Seed(file="s.iso", sha256="a" * 64)
    wishes = (DiskWish(image="gone", size_mib=64), DiskWish(bus=DiskBus.CDROM, seed=seed), DiskWish(size_mib=10, pool="fast"))
    shape = replace(DEFINITION.shape, firmware=Firmware.UEFI)
    saved = (replace(SAVED[0], vars="a-disk0-vars.fd"), replace(SAVED[1], disk="disk4"))
    command = replace(ANEW, disks=saved, definition=replace(DEFINITION, shape=shape, disks=wishes))
    changed, done = after(command=command)
    assert isinstance(changed, DevicesChanged) and isinstance(done, DisksRecovered)
    has = [(d.name, d.slot, d.pool) for d in changed.disks]
    assert has == [("disk0", 1, "default"), ("cd1", 2, "default"), ("disk4", 3, "fast")]
    first, drive, last = changed.disks
    assert (first.file, first.vars, first.vars_of) == ("x-disk0.r1-1.qcow2", "x-disk0.r1-1-vars.fd", "a-disk0-vars.fd")
    assert (first.serial, last.serial) == (serial_of("x", 0), serial_of("x", 4)) and drive.seed is None and not drive.file
    assert [nic.mac for nic in changed.nics] == [mac_of("x", 0)] and changed.nics[0].slot == 4
    assert done.former == () and made((changed, done)).disks_made == 5
    elsewhere, _ = after(command=replace(command, pool="safe", isolated=True))
    assert isinstance(elsewhere, DevicesChanged)
    assert [d.pool for d in elsewhere.disks] == ["safe", "default", "safe"] and not any(nic.link for nic in elsewhere.nics)


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ((GRANTED,), IN_PLACE),
        ((GRANTED, REVOKED, REMOVING), IN_PLACE),
        (STOPPED, replace(IN_PLACE, known=replace(RESTS, phase=VmPhase.STARTING))),
        (STOPPED, replace(IN_PLACE, known=replace(RESTS, phase=VmPhase.UNKNOWN))),
        ((), replace(ANEW, known=replace(RESTS, phase=VmPhase.UNKNOWN))),
    ],
    ids=["runs", "is removed", "starts", "deleted", "deleted before"],
)
def test_where_it_cannot_be_the_log_says_so(given: Any, command: Any) -> None:
    (event,) = after(*given, command=command)
    assert isinstance(event, DisksNotRecovered) and event.sentence and event.recovery == "r1-9"
    assert DEVICES.evolve(DEVICES.fold(given), event) == replace(DEVICES.fold(given), version=len(given) + 1)


def test_files_on_a_backup_need_a_folder() -> None:
    rooms = (PoolRoom(name="default", kind=PoolKind.RBD), PoolRoom(name="fast", kind=PoolKind.SHARED))
    known = replace(RESTS, rooms=rooms)
    (event,) = after(*STOPPED, command=replace(IN_PLACE, known=known))
    assert isinstance(event, DisksNotRecovered) and "rbd" in event.sentence
    assert isinstance(after(*STOPPED, command=replace(IN_PLACE, known=known, pool="fast"))[-1], DisksRecovered)


def test_its_snapshots_are_gone_with_what_it_had() -> None:
    rests = (*(events := story(TAKE)), *after(*events, command=replace(REVOKE, generation=1)))
    begun = recovered(*rests)
    gone, _, done = begun[len(rests) :]
    assert isinstance(gone, SnapshotDeleted) and (gone.name, gone.files) == ("s1", ())
    assert snapshots(begun) == {} and made(begun).unwanted == ()
    assert isinstance(done, DisksRecovered) and all(len(d.layers) == 1 for d in done.former)
    deleting = (*rests, *after(*rests, command=DeleteSnapshot(vm="a", name="s1", known=changes.RESTS)))
    (refused,) = after(*deleting, command=IN_PLACE)
    assert isinstance(refused, DisksNotRecovered) and "s1" in refused.sentence
    only = (*rests, *after(*rests, command=replace(IN_PLACE, disks=SAVED[:1])))
    assert snapshots(only) == {"s1": "taken"}, "of the disk that stayed"


def test_while_it_stands_on_a_backup_its_disks_stay_and_its_nics_may_change() -> None:
    rests, runs = recovered(*STOPPED), running(*recovered(*STOPPED))
    commands: list[Any] = [
        TakeSnapshot(vm="a", name="s"),
        DeleteSnapshot(vm="a", name="s"),
        AttachDisk(vm="a", disk=DiskWish(size_mib=5)),
        DetachDisk(vm="a", name="disk1"),
        ResizeDisk(vm="a", name="disk1", size_mib=100),
        LimitDisk(vm="a", name="disk1", limits=DiskLimits(iops=5)),
    ]
    for given, known in ((rests, changes.RESTS), (runs, changes.RUNS)):
        for command in commands:
            devices.given(*given).when(replace(command, known=known)).refused(Refusal.BUSY)
        (event,) = after(*given, command=SetNic(vm="a", name="nic0", link=False, known=known))
        assert isinstance(event, DevicesChanged)
        assert made((*given, event)).recovering is not None
    devices.given(*rests).when(RevertSnapshot(vm="a", name="s", known=changes.RESTS)).refused(Refusal.BUSY)


def test_home_when_all_is_seen_on_nothing_and_then_what_it_had_goes() -> None:
    runs = running(*recovered(*STOPPED))
    devices.given(*runs).when(standing_still(runs)).nothing()
    seen = sees(DEVICES.fold(runs), generation=2)
    half = replace(seen, hardware=replace(seen.hardware, chains=(seen.hardware.chains[0], standing_still(runs).hardware.chains[1])))
    devices.given(*runs).when(half).nothing()
    changed, home = after(*runs, command=seen)
    assert isinstance(changed, DevicesChanged) and changed.change.kind is ChangeKind.HOME and changed.generation == 2
    assert not any(d.layers for d in changed.disks) and all(d.made for d in changed.disks)
    assert isinstance(home, DisksHome) and (home.source, home.recovery, len(home.files)) == (A, "r1-9", 4)
    over = (*runs, changed, home)
    devices.given(*runs).when(seen).then(changed, home).twice()
    assert made(over).recovering is None
    (order,) = ordered("devices-a", DEVICES.fold(over), 20)
    assert order.node == N1 and isinstance(order.message, OrderDisksRemoval)
    assert [d.file for d in order.message.disks] == [d.file for d in DISKS]
    reported = ReportDisksRemoved(vm="a", node=N1, order_version=20)
    assert made((*over, *after(*over, command=reported))).unwanted == ()


def test_why_it_does_not_come_home_is_said_once() -> None:
    runs = running(*recovered(*STOPPED))
    misfit = Misfit(what="snapshot", sentence="the pool safe is not there", slot=-1, pending=True)
    note = standing_still(runs)
    note = replace(note, hardware=replace(note.hardware, misfits=(misfit,)))
    (event,) = after(*runs, command=note)
    assert isinstance(event, DeviceMisfit) and (event.name, event.sentence) == ("r1-9", misfit.sentence)
    devices.given(*runs, event).when(note).nothing()


def test_at_rest_it_comes_home_by_an_order_once_a_guest_has_run_with_it() -> None:
    begun = recovered(*STOPPED)
    assert ordered("devices-a", DEVICES.fold(begun), len(begun)) == [], "its files may not be there yet"
    runs = running(*begun)
    rests = (*runs, *after(*runs, command=REVOKE))
    (order,) = ordered("devices-a", DEVICES.fold(rests), len(rests))
    assert isinstance(order.message, OrderDisksMerge) and all(map(standing, order.message.disks))
    done = ReportDisksMerged(vm="a", node=N1, order_version=len(rests))
    devices.given(*rests).when(replace(done, node=NodeId("n2"))).nothing()
    devices.given(*rests).when(replace(done, order_incarnation=2)).nothing()
    devices.given(*rests).when(replace(done, order_version=4)).nothing()
    devices.given(*begun).when(replace(done, order_version=99)).nothing()
    changed, home = devices.given(*rests).when(done).twice().events
    assert isinstance(changed, DevicesChanged) and changed.generation == 0 and isinstance(home, DisksHome)
    assert not ordered("devices-a", DEVICES.fold((*rests, changed)), 30)[1:]


def test_a_deleted_one_takes_what_it_had_along_and_nothing_of_the_backup() -> None:
    rests = (*(runs := running(*recovered(*STOPPED))), *after(*runs, command=REVOKE))
    elsewhere = replace(REGRANT, generation=3, node=NodeId("n2"))
    moved = (*rests, *after(*rests, command=elsewhere))
    gone = (*moved, *after(*moved, command=RemoveDevices(vm="a")))
    asked = next(e for e in gone if isinstance(e, DisksRemovalRequested))
    assert asked.node == "n2" and not any(d.layers for d in asked.disks)
    orders = ordered("devices-a", DEVICES.fold(gone), len(gone))
    files = {order.node: {d.file for d in order.message.disks} for order in orders if isinstance(order.message, OrderDisksRemoval)}
    assert files == {"n1": {d.file for d in DISKS}, "n2": {"a-disk0.r1-4.qcow2", "a-disk1.r1-4.qcow2"}}
    said = after(*gone, command=ReportDisksRemoved(vm="a", node=NodeId("n2"), order_version=len(gone)))
    assert said == (DevicesRemoved(vm=A),) and isinstance(DEVICES.fold((*gone, *said)), NoDevices)


def test_one_that_was_deleted_before_any_node_had_it_is_gone_at_once() -> None:
    """Nobody is there to be asked, and there is nothing to remove."""
    begun = recovered(command=ANEW)
    devices.given(*begun).when(RemoveDevices(vm="x")).then(DevicesRemoved(vm=X))
    (asked,) = after(*begun, command=RemoveDevices(vm="x", node="n2"))
    assert isinstance(asked, DisksRemovalRequested) and asked.node == "n2"


def test_nothing_of_a_backup_is_ever_in_an_order_of_removal() -> None:
    """Also where what it had stood on a backup itself: recovered twice, before it was home."""
    first = running(*recovered(*STOPPED))
    rests = (*first, *after(*first, command=REVOKE))
    twice = recovered(*rests, command=replace(IN_PLACE, recovery="r1-12"))
    runs = running(*twice, grant=replace(REGRANT, generation=3))
    over = (*runs, *after(*runs, command=sees(DEVICES.fold(runs), generation=3)))
    (order,) = ordered("devices-a", DEVICES.fold(over), 40)
    assert isinstance(order.message, OrderDisksRemoval) and not any(d.layers for d in order.message.disks)
    assert {d.file for d in order.message.disks} == {d.file for d in (*DISKS, *made(first).disks)}


# --- where ---------------------------------------------------------------------------------------------------------------


def test_a_node_that_does_not_reach_the_backup_has_it_not() -> None:
    begun = recovered(*STOPPED)
    for ids in ({"default": "p1"}, {"default": "p1", "safe": "other"}, {}):
        (denied,) = after(*begun, command=replace(REGRANT, pool_ids=ids))
        assert isinstance(denied, DevicesDenied) and "b1-2" in denied.sentence and "p9" in denied.sentence
    (granted,) = after(*begun, command=REGRANT)
    assert isinstance(granted, DevicesGranted) and {d.pool_id for d in granted.disks} == {"p1"}
    home = (*(runs := running(*begun)), *after(*runs, command=sees(DEVICES.fold(runs), generation=2)))
    rests = (*home, *after(*home, command=REVOKE))
    (again,) = after(*rests, command=replace(REGRANT, generation=3, pool_ids={"default": "p1"}))
    assert isinstance(again, DevicesGranted), "it is independent"


def test_until_a_guest_has_run_with_it_any_pool_of_its_name_will_do() -> None:
    """A start that failed on one node leaves nothing that binds it there."""
    tried = (*(begun := recovered(*STOPPED)), *after(*begun, command=REGRANT))
    failed = (*tried, *after(*tried, command=REVOKE))
    (other,) = after(*failed, command=replace(REGRANT, generation=3, node=NodeId("n2"), pool_ids=IDS | {"default": "p2"}))
    assert isinstance(other, DevicesGranted) and {d.pool_id for d in other.disks} == {"p2"}
    assert [d.file for d in other.disks] == ["a-disk0.3.qcow2", "a-disk1.3.qcow2"] and all(map(standing, other.disks))
    ran = (*(runs := running(*begun)), *after(*runs, command=REVOKE))
    (denied,) = after(*ran, command=replace(REGRANT, generation=3, pool_ids=IDS | {"default": "p2"}))
    assert isinstance(denied, DevicesDenied)


# --- after a restore -----------------------------------------------------------------------------------------------------


def test_one_found_running_on_a_backup_that_the_log_has_lost_comes_home() -> None:
    has = made(recovered(*STOPPED)).disks
    found = replace(REGRANT, running=True, has_disks=has, has_nics=NICS, generation=7)
    begun = (*STOPPED, *after(*STOPPED, command=found))
    assert all(d.made and d.layers for d in made(begun).disks)
    now = made(begun).recovering
    assert now is not None and (now.source, now.recovery, now.former) == ("a", "", ())
    devices.given(*begun).when(ResizeDisk(vm="a", name="disk0", size_mib=999, known=changes.RUNS)).refused(Refusal.BUSY)
    changed, home = after(*begun, command=sees(DEVICES.fold(begun), generation=7))
    assert isinstance(changed, DevicesChanged) and home == DisksHome(vm=A, source=A, recovery="", files=home.files)  # type: ignore[union-attr]


def test_one_found_running_on_what_it_had_keeps_that() -> None:
    begun = recovered(*STOPPED)
    found = replace(REGRANT, running=True, has_disks=DISKS, has_nics=NICS, generation=2)
    granted, not_so = after(*begun, command=found)
    assert isinstance(granted, DevicesGranted) and isinstance(not_so, DisksNotRecovered) and not_so.recovery == "r1-9"
    state = made((*begun, granted, not_so))
    assert state.recovering is None
    assert not {d.file for d in DISKS} & {d.file for one in state.unwanted for d in one.disks}
    seen = sees(DEVICES.fold((*begun, granted, not_so)), generation=2)
    devices.given(*begun, granted, not_so).when(seen).nothing()


def test_layers_of_a_backup_are_no_snapshots() -> None:
    own = Layer(file="f", format=DiskFormat.QCOW2, leaving=True)
    odd = tuple(
        replace(d, file=d.file.replace(".r", ".s"), layers=(own, *d.layers)) for d in made(recovered(*STOPPED)).disks
    )
    found = replace(REGRANT, running=True, has_disks=odd, has_nics=NICS, generation=7)
    begun = (*STOPPED, *after(*STOPPED, command=found))
    assert [held.file for e in begun if isinstance(e, SnapshotFound) for held in e.disks] == ["f", "f"]
    over = (*begun, *after(*begun, command=sees(DEVICES.fold(begun), generation=7)))
    assert made(over).recovering is None and not any(d.layers for d in made(over).disks)
    (order,) = ordered("devices-a", DEVICES.fold(over), 40)
    assert isinstance(order.message, OrderDisksRemoval) and {d.file for d in order.message.disks} == {"f"}
