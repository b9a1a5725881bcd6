"""Devices are attached, detached and changed: at rest at once, of a running VM when it is seen."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.hardware import Hardware, Misfit
from proto.io import (
    AttachDisk,
    AttachNic,
    ChangeCommand,
    ChangeKind,
    DetachDisk,
    DetachNic,
    DeviceAttached,
    DeviceDetached,
    DeviceMisfit,
    DevicesChanged,
    DevicesEvent,
    DevicesGranted,
    DevicesRevoked,
    DiskFilesRemoved,
    DiskResized,
    GrantDevices,
    Known,
    LimitDisk,
    NoteHardware,
    ReattachDisk,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ResizeDisk,
    RevokeDevices,
    SetNic,
    VmPhase,
)
from proto.machine import DISKS_MAX, DiskBus, DiskLimits, DiskWish
from services.io.model import DEVICES
from services.io.react import orders
from services.io.states import Granted, Revoked
from tests.model.io_story import ASKED, DISKS, GRANT, GRANTED, N1, NICS, REVOKED, SIZES, A, devices

RUNS = Known(phase=VmPhase.RUNNING, sizes_mib=SIZES)
RESTS = Known(phase=VmPhase.STOPPED, disks=GRANT.disks, nics=GRANT.nics, sizes_mib=SIZES)
ATTACH = AttachDisk(vm="a", known=RUNS, disk=DiskWish(size_mib=5))
BASE = (1, 2, 3)


def after(*given: DevicesEvent, command: object) -> tuple[DevicesEvent, ...]:
    return devices.given(*given).when(command).events  # type: ignore[arg-type]


def sees(*slots: int, misfits: tuple[Misfit, ...] = (), disk_mib: tuple[tuple[int, int], ...] = ()) -> NoteHardware:
    has = Hardware(vcpus=1, plugged_vcpus=1, memory_mib=256, slots=slots, disk_mib=disk_mib, misfits=misfits)
    return NoteHardware(vm="a", generation=1, hardware=has)


ATTACHED = (GRANTED, *after(GRANTED, command=ATTACH))
SEEN = (*ATTACHED, *after(*ATTACHED, command=sees(*BASE, 4)))


def test_a_disk_of_a_running_vm_takes_the_lowest_free_slot_and_is_attached_when_seen() -> None:
    (event,) = ATTACHED[1:]
    assert isinstance(event, DevicesChanged) and event.generation == 1 and event.leaving == ()
    disk = event.disks[-1]
    assert (disk.name, disk.slot, disk.size_mib, disk.file) == ("disk2", 4, 5, "a-disk2.qcow2")
    devices.given(*ATTACHED).when(sees(*BASE)).nothing()
    devices.given(*ATTACHED).when(replace(sees(*BASE, 4), generation=2)).nothing()
    seen = DeviceAttached(vm=A, generation=1, name="disk2", slot=4)
    devices.given(*ATTACHED).when(sees(*BASE, 4)).then(seen).twice()


def test_a_detached_disk_leaves_its_slot_when_seen_and_its_file_goes_only_where_that_was_said() -> None:
    for delete in (False, True):
        detach = DetachDisk(vm="a", known=RUNS, name="disk2", delete=delete)
        gone = (*SEEN, *after(*SEEN, command=detach))
        assert isinstance(gone[-1], DevicesChanged) and gone[-1].leaving == (4,) and gone[-1].disks == DISKS
        devices.given(*gone).when(sees(*BASE, 4)).nothing()
        devices.given(*gone).when(detach).refused(Refusal.BUSY)
        out = DeviceDetached(vm=A, generation=1, name="disk2", slot=4, file="a-disk2.qcow2", delete=delete)
        devices.given(*gone).when(sees(*BASE)).then(out).twice()
        story = (*gone, out)
        order = orders("devices-a", DEVICES.fold(story), len(story))
        assert bool(order) is delete
        report = ReportDisksRemoved(vm="a", node=N1, order_version=len(story))
        removed = DiskFilesRemoved(vm=A, files=("a-disk2.qcow2",))
        if delete:
            devices.given(*story).when(report).then(removed).twice()
            devices.given(*story).when(replace(report, order_version=len(story) - 1)).nothing()
            devices.given(*story).when(replace(report, node=NodeId("n2"))).nothing()
        else:
            devices.given(*story).when(report).nothing()


def test_a_disk_that_was_left_is_attached_again_once_and_only_to_its_vm() -> None:
    detach = DetachDisk(vm="a", known=RUNS, name="disk2")
    again = ReattachDisk(vm="a", known=RUNS, name="disk2")
    going = (*SEEN, *after(*SEEN, command=detach))
    devices.given(*going).when(again).refused(Refusal.DEVICE_UNKNOWN)  # its guest has not let go of it
    left = (*going, *after(*going, command=sees(1, 2)))
    (event,) = devices.given(*left).when(again).events
    assert isinstance(event, DevicesChanged)
    had = next(d for e in reversed(SEEN) if isinstance(e, DevicesChanged) for d in e.disks if d.name == "disk2")
    has = event.disks[-1]
    assert (has.name, has.file, has.serial, has.made) == ("disk2", had.file, had.serial, True)
    attached = (*left, event)
    devices.given(*attached).when(again).refused(Refusal.DEVICE_UNKNOWN)
    fault = Misfit(what="disk", slot=has.slot, sentence="its pool is not here")
    undone = after(*attached, command=sees(1, 2, misfits=(fault,)))
    change = next(e.change for e in undone if isinstance(e, DevicesChanged))
    assert change.kind is ChangeKind.UNDO and not change.delete, "what a guest wrote is not removed as its disk could not be had"
    back = (*attached, *undone, *after(*attached, *undone, command=sees(1, 2)))
    assert devices.given(*back).when(again).events
    elsewhere = replace(again, known=replace(RUNS, pool_ids={"default": "other"}))
    here = (e for e in left if isinstance(e, DevicesChanged | DevicesGranted))
    placed: tuple[DevicesEvent, ...] = tuple(replace(e, disks=tuple(replace(d, pool_id="here") for d in e.disks)) for e in here)
    placed = (*placed, *(e for e in left if isinstance(e, DeviceDetached)))
    devices.given(*placed).when(elsewhere).refused(Refusal.BAD_DEVICE)


def test_at_rest_too() -> None:
    stopped = replace(RUNS, phase=VmPhase.STOPPED)
    story = (*SEEN, DevicesRevoked(vm=A, generation=1))
    gone = after(*story, command=DetachDisk(vm="a", known=stopped, name="disk2"))
    (event,) = devices.given(*story, *gone).when(ReattachDisk(vm="a", known=stopped, name="disk2")).events
    assert isinstance(event, DevicesChanged) and event.disks[-1].name == "disk2"
    removed = after(*story, command=DetachDisk(vm="a", known=stopped, name="disk2", delete=True))
    devices.given(*story, *removed).when(ReattachDisk(vm="a", known=stopped, name="disk2")).refused(Refusal.DEVICE_UNKNOWN)


def test_names_macs_and_serials_are_never_given_twice_but_slots_are() -> None:
    detach = DetachDisk(vm="a", known=RUNS, name="disk2")
    gone = (*SEEN, *after(*SEEN, command=detach))
    (meanwhile,) = after(*gone, command=ATTACH)
    assert isinstance(meanwhile, DevicesChanged) and meanwhile.disks[-1].slot == 5, "4 is still leaving"
    empty = (*gone, *after(*gone, command=sees(*BASE)))
    (again,) = after(*empty, command=ATTACH)
    assert isinstance(again, DevicesChanged)
    assert (again.disks[-1].name, again.disks[-1].slot) == ("disk3", 4)


def test_an_attachment_that_fails_leaves_the_set_again_and_a_pending_one_is_told_once() -> None:
    fault = Misfit(what="disk", sentence="no room", slot=4)
    misfit, undo = after(*ATTACHED, command=sees(*BASE, misfits=(fault,)))
    assert misfit == DeviceMisfit(vm=A, generation=1, name="disk2", slot=4, sentence="no room")
    assert isinstance(undo, DevicesChanged) and undo.disks == DISKS and undo.leaving == (4,)
    assert undo.change.kind is ChangeKind.UNDO and undo.change.delete
    story = (*ATTACHED, misfit, undo)
    devices.given(*story).when(sees(*BASE, misfits=(fault,))).nothing()
    (out,) = after(*story, command=sees(*BASE))
    assert isinstance(out, DeviceDetached) and out.delete
    pending = sees(*BASE, misfits=(replace(fault, pending=True),))
    told = replace(misfit, pending=True)
    devices.given(*ATTACHED).when(pending).then(told).twice()


def test_what_cannot_be_is_refused_with_numbers() -> None:
    def no(command: object, reason: Refusal, *given: DevicesEvent) -> None:
        outcome = devices.given(*(given or (GRANTED,))).when(command).refused(reason)  # type: ignore[arg-type]
        assert outcome.refusal is not None and outcome.refusal.remedy

    no(DetachDisk(vm="a", known=RUNS, name="disk9"), Refusal.DEVICE_UNKNOWN)
    no(DetachNic(vm="a", known=RUNS, name="nic9"), Refusal.DEVICE_UNKNOWN)
    no(DetachDisk(vm="a", known=RUNS, name="disk0"), Refusal.BOOT_DISK)
    no(ResizeDisk(vm="a", known=RUNS, name="disk1", size_mib=9), Refusal.SHRINKING)
    no(replace(ATTACH, disk=DiskWish(image="none")), Refusal.IMAGE_UNKNOWN)
    no(replace(ATTACH, disk=DiskWish()), Refusal.BAD_DEVICE)
    no(replace(ATTACH, disk=DiskWish(image="tiny", size_mib=9)), Refusal.BAD_DEVICE)
    no(AttachNic(vm="a", known=RUNS, network="blue"), Refusal.NETWORK_UNKNOWN)
    no(AttachNic(vm="a", known=RUNS, queues=2), Refusal.BAD_DEVICE)
    no(replace(ATTACH, known=Known()), Refusal.NOT_DEFINED)
    for phase in (VmPhase.STARTING, VmPhase.STOPPING, VmPhase.PAUSED, VmPhase.MIGRATING, VmPhase.STOPPED):
        no(replace(ATTACH, known=replace(RUNS, phase=phase)), Refusal.BUSY)
    no(DetachDisk(vm="a", known=RUNS, name="disk2"), Refusal.BUSY, *ATTACHED)
    no(ATTACH, Refusal.NOT_DEFINED, GRANTED, REVOKED, ASKED)
    nvme = (GRANTED, *after(GRANTED, command=replace(ATTACH, disk=DiskWish(size_mib=5, bus=DiskBus.NVME))))
    nvme = (*nvme, *after(*nvme, command=sees(*BASE, 4)))
    no(ResizeDisk(vm="a", known=RUNS, name="disk2", size_mib=9), Refusal.NOT_STOPPED, *nvme)


def test_only_so_many() -> None:
    story: tuple[DevicesEvent, ...] = (GRANTED,)
    for _ in range(8):
        story = (*story, *after(*story, command=ATTACH))
    devices.given(*story).when(ATTACH).refused(Refusal.TOO_MANY)  # ports 1..11 of a process born with 1..3
    older = replace(GRANTED, spare=4)
    story = (older,)
    for _ in range(3):
        story = (*story, *after(*story, command=ATTACH))
    devices.given(*story).when(ATTACH).refused(Refusal.TOO_MANY)  # 1..6, as its process was born before there were more
    story = (GRANTED, REVOKED)
    for _ in range(DISKS_MAX - 2):
        story = (*story, *after(*story, command=replace(ATTACH, known=RESTS)))
    devices.given(*story).when(replace(ATTACH, known=RESTS)).refused(Refusal.TOO_MANY)


def test_sizes_limits_and_links() -> None:
    resize = ResizeDisk(vm="a", known=RUNS, name="disk1", size_mib=20)
    story = (GRANTED, *after(GRANTED, command=resize))
    devices.given(*story).when(resize).nothing()
    devices.given(*story).when(sees(*BASE, disk_mib=((2, 10),))).nothing()
    devices.given(*story).when(sees(*BASE, disk_mib=((2, 20),))).then(
        DiskResized(vm=A, generation=1, name="disk1", size_mib=20)
    ).twice()
    limit = LimitDisk(vm="a", known=RUNS, name="disk0", limits=DiskLimits(iops=100))
    (event,) = devices.given(GRANTED).when(limit).twice().events
    assert isinstance(event, DevicesChanged) and event.disks[0].limits.iops == 100
    (event,) = devices.given(GRANTED).when(SetNic(vm="a", known=RUNS, name="nic0", link=False)).twice().events
    assert isinstance(event, DevicesChanged) and not event.nics[0].link
    (event,) = after(GRANTED, command=AttachNic(vm="a", known=RUNS))
    assert isinstance(event, DevicesChanged) and event.nics[-1].name == "nic1" and event.nics[-1].mac != NICS[0].mac


def test_a_vm_that_was_never_started_gets_what_its_definition_wishes_first() -> None:
    story = after(command=replace(ATTACH, known=RESTS))
    (event,) = story
    assert isinstance(event, DevicesChanged) and event.generation == 0
    assert event.disks[:2] == DISKS and event.nics == NICS and event.disks[2].slot == 4
    state = DEVICES.fold(story)
    assert isinstance(state, Revoked) and (state.disks_made, state.nics_made) == (3, 1)
    (granted,) = after(*story, command=GRANT)
    assert granted == replace(GRANTED, disks=event.disks)
    gone = (*story, *after(*story, command=DetachDisk(vm="a", known=RESTS, name="disk2")))
    (again,) = after(*gone, command=replace(ATTACH, known=RESTS))
    assert isinstance(again, DevicesChanged) and again.disks[-1].name == "disk3" and again.disks[-1].slot == 4


def test_the_end_of_a_process_ends_its_changes() -> None:
    gone = (*SEEN, *after(*SEEN, command=DetachDisk(vm="a", known=RUNS, name="disk2", delete=True)))
    gone = (*gone, *after(*gone, command=ATTACH))
    out, there, revoked = after(*gone, command=RevokeDevices(vm="a", generation=1))
    assert isinstance(out, DeviceDetached) and isinstance(there, DeviceAttached) and there.sentence
    assert isinstance(revoked, DevicesRevoked)
    state = DEVICES.fold((*gone, out, there, revoked))
    assert isinstance(state, Revoked) and [d.name for one in state.unwanted for d in one.disks] == ["disk2"]


def test_a_namesake_never_takes_the_file_of_a_disk_that_was_left() -> None:
    story = (*SEEN, *after(*SEEN, command=DetachDisk(vm="a", known=RUNS, name="disk2")))
    story = (*story, *after(*story, command=RemoveDevices(vm="a")))
    report = ReportDisksRemoved(vm="a", node=N1, order_version=len(story))
    story = (*story, *after(*story, command=report))
    (event,) = after(*story, command=replace(GRANT, generation=2))
    assert "a-disk2.qcow2" not in {d.file for d in event.disks}  # type: ignore[union-attr]


def test_a_migration_keeps_the_ports_of_the_birth() -> None:
    moved = (*SEEN, *after(*SEEN, command=GrantDevices(vm="a", node=NodeId("n2"), generation=2)))
    state = DEVICES.fold(moved)
    assert isinstance(state, Granted) and state.ports == DEVICES.fold((GRANTED,)).ports  # type: ignore[union-attr]


CHANGES = (
    ATTACH,
    DetachDisk(vm="a", name="disk1"),
    ResizeDisk(vm="a", name="disk1", size_mib=128),
    LimitDisk(vm="a", name="disk1", limits=DiskLimits(iops=1)),
    AttachNic(vm="a"),
    DetachNic(vm="a", name="nic0"),
    SetNic(vm="a", name="nic0", link=False),
)


@pytest.mark.parametrize("command", CHANGES, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("phase", [p for p in VmPhase if p not in (VmPhase.RUNNING, VmPhase.STOPPED, VmPhase.UNKNOWN)])
def test_while_a_vm_starts_stops_moves_or_stands_still_nothing_of_its_devices_is_changed(
    command: ChangeCommand, phase: VmPhase
) -> None:
    for story in ((GRANTED,), (GRANTED, REVOKED)):
        devices.given(*story).when(replace(command, known=Known(phase=phase))).refused(Refusal.BUSY)
    devices.given(GRANTED).when(replace(command, known=Known())).refused(Refusal.NOT_DEFINED)
