"""CD drives: what lies in them at rest and while the guest runs, what may, and what is used by whom meanwhile."""

from __future__ import annotations

from msgspec.structs import replace

from libs.common.messages import Recorded, VmId
from proto.hardware import Hardware, Misfit
from proto.images import ImageFormat, ImageImported, ImageInfo
from proto.io import (
    AttachDisk,
    ChangeKind,
    DeviceMisfit,
    DevicesChanged,
    DevicesDenied,
    DevicesEvent,
    DevicesGranted,
    DevicesRemoved,
    DevicesRevoked,
    DisksRemovalRequested,
    GrantDevices,
    IsoAt,
    Known,
    MediumChanged,
    NoteHardware,
    Refusal,
    RemoveDevices,
    RevokeDevices,
    SetMedium,
    SettleDisks,
    VmPhase,
)
from proto.machine import DiskBus, DiskFormat, DiskWish
from proto.words import fault_of
from services.io.views import Views
from tests.model.io_story import N1, N2, A, devices

WISHES = (DiskWish(size_mib=8), DiskWish(bus=DiskBus.CDROM, format=DiskFormat.RAW, image="red"))
SIZES = {"red": 1, "blue": 1, "deb": 8}
ISOS = {"red": IsoAt(pool="default", pool_id="p1"), "blue": IsoAt(pool="default", pool_id="p1")}
RUNS = Known(phase=VmPhase.RUNNING, sizes_mib=SIZES, isos=ISOS, pool_ids={"default": "p1"})
GRANT = GrantDevices(
    vm="a", node=N1, generation=1, disks=WISHES, sizes_mib=SIZES, pool_ids={"default": "p1"}, image_ids={"red": "p1"}
)
(_granted,) = devices.given().when(GRANT).events
assert isinstance(_granted, DevicesGranted)
GRANTED: DevicesGranted = _granted
HERE = Recorded(1, "s", 1, "t", 1, 0, b"", b"")
REVOKE = RevokeDevices(vm="a", generation=1)
INSERT = SetMedium(vm="a", image="blue", known=RUNS)
WISHED = (GRANTED, *devices.given(GRANTED).when(INSERT).events)


def sees(*media: tuple[int, str], misfits: tuple[Misfit, ...] = ()) -> NoteHardware:
    has = Hardware(vcpus=1, plugged_vcpus=1, memory_mib=256, slots=(1, 2), media=media, misfits=misfits)
    return NoteHardware(vm="a", generation=1, hardware=has)


def test_a_drive_has_no_file_and_is_granted_with_what_lies_in_it() -> None:
    _, drive = GRANTED.disks
    assert (drive.name, drive.file, drive.image, drive.slot, drive.pool_id, drive.made) == ("cd1", "", "red", 2, "p1", False)
    assert fault_of(GRANTED.disks) == ""
    settled = (GRANTED, *devices.given(GRANTED).when(SettleDisks(vm="a", generation=1)).events)
    devices.given(*settled).when(SettleDisks(vm="a", generation=1)).nothing()
    revoked = (*settled, DevicesRevoked(vm=A, generation=1))
    (asked,) = devices.given(*revoked).when(RemoveDevices(vm="a")).events
    assert isinstance(asked, DisksRemovalRequested) and [d.name for d in asked.disks] == ["disk0"]
    only = replace(GRANT, disks=WISHES[1:])
    (alone,) = devices.given().when(only).events
    (gone,) = devices.given(alone, DevicesRevoked(vm=A, generation=1)).when(RemoveDevices(vm="a")).events
    assert isinstance(gone, DevicesRemoved)


def test_a_disc_is_wanted_until_it_is_seen() -> None:
    (event,) = WISHED[1:]
    assert isinstance(event, DevicesChanged) and event.change.kind is ChangeKind.SET_MEDIUM and event.generation == 1
    assert [d.image for d in event.disks] == ["", "blue"] and event.leaving == ()
    devices.given(*WISHED).when(INSERT).nothing()
    devices.given(*WISHED).when(sees((2, "red"))).nothing()
    seen = MediumChanged(vm=A, generation=1, name="cd1", slot=2, image="blue")
    devices.given(*WISHED).when(sees((2, "blue"))).then(seen).twice()
    later = (*WISHED, seen)
    devices.given(*later).when(sees((2, "blue"))).nothing()
    ended = devices.given(*WISHED).when(REVOKE).events
    assert isinstance(ended[0], MediumChanged) and "next start" in ended[0].sentence


def test_a_guest_that_holds_its_drive_is_told_of_once_and_may_be_forced() -> None:
    held = Misfit(what="disk", slot=2, sentence="locked", pending=True)
    told = DeviceMisfit(vm=A, generation=1, name="cd1", slot=2, sentence="locked", pending=True)
    devices.given(*WISHED).when(sees((2, "red"), misfits=(held,))).then(told)
    story = (*WISHED, told)
    devices.given(*story).when(sees((2, "red"), misfits=(held,))).nothing()
    (forced,) = devices.given(*story).when(replace(INSERT, force=True)).events
    assert isinstance(forced, DevicesChanged) and forced.disks[1].force
    devices.given(*story, forced).when(replace(INSERT, force=True)).nothing()
    (seen,) = devices.given(*story, forced).when(sees((2, "blue"))).events
    assert isinstance(seen, MediumChanged)
    # what cannot be had for good stays wanted for the next start, and is no drive less
    lost = replace(held, pending=False)
    events = devices.given(*WISHED).when(sees((2, "red"), misfits=(lost,))).events
    assert [type(e) for e in events] == [DeviceMisfit]


def test_what_may_lie_in_a_drive() -> None:
    for command, reason in (
        (replace(INSERT, image="deb"), Refusal.BAD_DEVICE),
        (replace(INSERT, image="none"), Refusal.IMAGE_UNKNOWN),
        (replace(INSERT, name="cd9"), Refusal.DEVICE_UNKNOWN),
        (replace(INSERT, known=replace(RUNS, pool_ids={"default": "p2"})), Refusal.BAD_DEVICE),
        (replace(INSERT, known=replace(RUNS, phase=VmPhase.PAUSED)), Refusal.BUSY),
        (AttachDisk(vm="a", known=RUNS, disk=DiskWish(image="red")), Refusal.BAD_DEVICE),
        (AttachDisk(vm="a", known=RUNS, disk=DiskWish(image="deb", bus=DiskBus.CDROM)), Refusal.BAD_DEVICE),
        (AttachDisk(vm="a", known=RUNS, disk=DiskWish(bus=DiskBus.SATA_CDROM)), Refusal.NOT_STOPPED),
    ):
        devices.given(GRANTED).when(command).refused(reason)
    (event,) = devices.given(GRANTED).when(AttachDisk(vm="a", known=RUNS, disk=DiskWish(bus=DiskBus.CDROM))).events
    assert isinstance(event, DevicesChanged) and event.disks[-1].name == "cd2"


def test_a_guest_does_not_go_where_its_disc_is_not() -> None:
    rest = (GRANTED, DevicesRevoked(vm=A, generation=1))
    elsewhere = replace(GRANT, node=N2, generation=2, pool_ids={"default": "p2"})
    (event,) = devices.given(*rest).when(elsewhere).events
    assert isinstance(event, DevicesDenied) and "eject it first" in event.sentence
    (out,) = devices.given(*rest).when(SetMedium(vm="a", known=replace(RUNS, phase=VmPhase.STOPPED))).events
    (event,) = devices.given(*rest, out).when(elsewhere).events
    assert isinstance(event, DevicesGranted) and event.disks[1].image == ""


def test_an_iso_is_used_until_it_was_seen_out_of_the_drive() -> None:
    views = Views()
    info = ImageInfo(format=DiskFormat.RAW, size_mib=1, sha256="0" * 64, source=ImageFormat.ISO)
    story: list[DevicesEvent | ImageImported] = [ImageImported(image="red", pool="default", info=info), *WISHED]
    for event in story:
        views.apply(HERE, event)
    assert views.used_by("red") == views.used_by("blue") == ("a",)
    views.apply(HERE, MediumChanged(vm=VmId("a"), generation=1, name="cd1", slot=2, image="blue"))
    assert (views.used_by("red"), views.used_by("blue")) == ((), ("a",))
