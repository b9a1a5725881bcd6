"""Images made of VMs' disks: what may be read, and as what."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.decider import Refused
from proto.hardware import Consistency
from proto.images import DiskSource, ImageFormat, MakeImage, TemplateKnown
from proto.io import (
    DeviceAttached,
    DevicesRemoved,
    DisksSettled,
    ImageImportRequested,
    ImageRejected,
    Refusal,
    RevokeDevices,
    SnapshotDeleteRequested,
    SnapshotRequested,
    SnapshotReverted,
    SnapshotTaken,
)
from proto.machine import Disk, DiskBus, DiskFormat, Freeze, Layer
from proto.node import OrderImageImport
from proto.pools import PoolKind
from proto.snapshots import Held, TakeSnapshot
from services.io.images import IMAGE
from services.io.model import DEVICES
from services.io.react import orders
from services.io.states import Made
from services.io.taken import TakenViews
from services.io.views import VmView, enrich
from tests.model.io_story import BOOT, GRANTED, HERE, IMPORTED, N1, WISHED, A, images, seen
from tests.model.snapshot_story import sees
from tests.model.test_io_changes import RESTS
from tests.model.test_io_changes import RUNS as RUNNING

LAYERS = (Layer(file="a-disk0.s1-5.qcow2", format=DiskFormat.QCOW2), Layer(file="a-disk0.qcow2", format=DiskFormat.QCOW2))
ROOT = Disk(
    name="disk0", pool="default", file="a-disk0.s1-9.qcow2", size_mib=256, format=DiskFormat.QCOW2, serial="r", slot=0,
    image="tiny", layers=LAYERS, made=True,
)  # fmt: skip
DATA = Disk(name="disk1", pool="fast", file="a-disk1.raw", size_mib=64, format=DiskFormat.RAW, serial="d", slot=1, made=True)
CD = Disk(
    name="cd0", pool="default", file="", size_mib=1, format=DiskFormat.RAW, serial="c", slot=2, bus=DiskBus.SATA_CDROM
)
KNOWN = TemplateKnown(
    defined=True, disks=(CD, ROOT, DATA), nodes={"disk0": "n1", "disk1": "n2"}, kinds={"disk0": PoolKind.LOCAL},
    snapshots={"old": ("a-disk0.qcow2",), "new": ("a-disk0.s1-5.qcow2",)}, boot=BOOT, boot_image="tiny",
)  # fmt: skip
MAKE = MakeImage(image="web", vm="a", known=KNOWN)
RUNS = replace(KNOWN, running=True)


def made(command: MakeImage) -> ImageImportRequested:
    (event,) = IMAGE.decide(command, IMAGE.initial)
    assert isinstance(event, ImageImportRequested)
    return event


def test_the_disk_of_a_vm_at_rest_is_read_as_it_is() -> None:
    source = DiskSource(vm="a", disk=ROOT, resting=True, boot_image="tiny")
    wish = ImageImportRequested(
        image="web", node=N1, pool="default", file=ROOT.file, format=ImageFormat.QCOW2, boot=BOOT, source=source
    )
    images.given().when(MAKE).then(wish)
    order = orders("image-web", IMAGE.fold((wish,)), 1)
    assert not isinstance(order, list) and order is not None
    assert order.message == OrderImageImport(  # type: ignore[union-attr]
        image="web", version=1, pool="default", file=ROOT.file, format=ImageFormat.QCOW2, boot=BOOT, source=source
    )
    images.given(wish).when(MAKE).refused(Refusal.IMAGE_BUSY)
    images.given(wish, ImageRejected(image="web", sentence="s")).when(MAKE).then(wish)


def test_another_disk_does_not_boot() -> None:
    event = made(replace(MAKE, disk="disk1"))
    assert (event.node, event.pool, event.boot) == ("n2", "fast", None)
    assert event.source == DiskSource(vm="a", disk=DATA, resting=True)


@pytest.mark.parametrize(("name", "file", "beneath"), [("new", LAYERS[0].file, LAYERS[1:]), ("old", LAYERS[1].file, ())])
def test_of_a_vm_that_runs_what_a_snapshot_holds_is_read(name: str, file: str, beneath: tuple[Layer, ...]) -> None:
    source = made(replace(MAKE, snapshot=name, known=RUNS)).source
    assert source is not None and not source.resting
    assert source.disk == replace(ROOT, file=file, layers=beneath)


def test_where_no_guest_has_run_with_the_newest_file_what_it_stands_on_is_read() -> None:
    unmade = replace(MAKE, known=replace(KNOWN, disks=(replace(ROOT, made=False),)))
    source = made(unmade).source
    assert source is not None and source.disk == replace(ROOT, file=LAYERS[0].file, layers=LAYERS[1:])
    bare = replace(MAKE, known=replace(KNOWN, disks=(replace(ROOT, made=False, layers=()),)))
    images.given().when(bare).refused(Refusal.NOTHING_NEW)


def test_what_cannot_be_read_is_refused() -> None:
    images.given(WISHED, IMPORTED).when(replace(MAKE, image="tiny")).refused(Refusal.IMAGE_KNOWN)
    images.given(WISHED).when(replace(MAKE, image="tiny")).refused(Refusal.IMAGE_BUSY)
    leaving = replace(ROOT, layers=tuple(replace(one, leaving=True) for one in LAYERS))
    for changes, code in (
        ({"known": TemplateKnown()}, Refusal.NOT_DEFINED),
        ({"known": RUNS}, Refusal.NOT_STOPPED),
        ({"known": replace(KNOWN, disks=(CD,))}, Refusal.NOTHING_NEW),
        ({"disk": "disk7"}, Refusal.DEVICE_UNKNOWN),
        ({"disk": "cd0"}, Refusal.DEVICE_UNKNOWN),
        ({"snapshot": "none"}, Refusal.SNAPSHOT_UNKNOWN),
        ({"snapshot": "new", "disk": "disk1"}, Refusal.DEVICE_UNKNOWN),
        ({"snapshot": "new", "known": replace(KNOWN, disks=(leaving,))}, Refusal.DEVICE_UNKNOWN),
        ({"known": replace(KNOWN, kinds={"disk0": PoolKind.RBD})}, Refusal.BAD_DEVICE),
        ({"known": replace(KNOWN, kinds={"disk0": PoolKind.NBD})}, Refusal.BAD_DEVICE),
        ({"known": replace(KNOWN, nodes={})}, Refusal.NO_NODE),
    ):
        images.given().when(replace(MAKE, **changes)).refused(code)


def test_the_refusal_while_it_runs_says_to_take_a_snapshot_first() -> None:
    with pytest.raises(Refused) as refused:
        IMAGE.decide(replace(MAKE, known=RUNS), IMAGE.initial)
    assert "take a snapshot first" in refused.value.remedy


HELD = (Held(name="disk0", file="a-disk0.qcow2", size_mib=256, format=DiskFormat.QCOW2, over="a-disk0.s1-5.qcow2"),)
ASKED = SnapshotRequested(vm=A, node=N1, generation=1, name="s1", token="1-5", freeze=Freeze.AUTO, disks=HELD)
TAKEN = SnapshotTaken(vm=A, generation=1, name="s1", consistency=Consistency.CRASH)


def test_a_snapshot_is_known_from_when_it_is_taken_until_it_is_to_go() -> None:
    ends = (
        SnapshotDeleteRequested(vm=A, node=N1, generation=1, name="s1"),
        SnapshotReverted(vm=A, node=N1, name="s0", token="1-9", lost=("s1",)),
        DevicesRemoved(vm=A),
    )
    for end in ends:
        views = TakenViews()
        views.apply(ASKED)
        assert views.taken.get(A, {}) == {}, "its file may still be written"
        views.apply(TAKEN)
        assert views.taken[A] == {"s1": ("a-disk0.qcow2",)}
        views.apply(end)
        assert views.taken.get(A, {}) == {}


def test_io_fills_in_what_it_knows_whatever_was_sent() -> None:
    lie = replace(MAKE, known=KNOWN)
    assert enrich(lie, seen(), 0).known == TemplateKnown()
    views = seen(GRANTED, ASKED, TAKEN)
    assert enrich(lie, views, 0).known == TemplateKnown(), "a VM that is not defined"
    views.vms["a"] = VmView(boot=BOOT, boot_image="tiny")
    known = enrich(lie, views, 0).known
    assert (known.defined, known.running, known.boot, known.boot_image) == (True, False, BOOT, "tiny")
    assert [d.file for d in known.disks] == [d.file for d in GRANTED.disks] and known.nodes["disk0"] == "n1"
    assert known.snapshots == {"s1": ("a-disk0.qcow2",)}


def test_with_which_files_a_guest_has_run_is_seen_as_the_devices_themselves_see_it() -> None:
    """Else what lies beneath would be taken for what the guest has written."""
    state, views = DEVICES.fold((GRANTED,)), seen(GRANTED)

    def after(*events: Any) -> None:
        nonlocal state
        for event in events:
            state = DEVICES.evolve(state, event)
            views.apply(HERE, event)
        assert isinstance(state, Made)
        assert [(d.file, d.made) for d in views.disks["a"].disks] == [(d.file, d.made) for d in state.disks]

    def decided(command: Any) -> None:
        after(*DEVICES.decide(command, state))

    after(DisksSettled(vm=A, generation=1))
    assert all(disk.made for disk in views.disks["a"].disks)
    for name in ("s1", "s2"):
        decided(TakeSnapshot(vm="a", name=name, known=RUNNING))
        assert not any(disk.made for disk in views.disks["a"].disks)
        decided(sees(state))
        assert all(disk.made for disk in views.disks["a"].disks)
    decided(RevokeDevices(vm="a", generation=1))
    decided(TakeSnapshot(vm="a", name="s3", known=RESTS))
    assert not any(disk.made for disk in views.disks["a"].disks)


def test_a_disk_that_is_seen_attached_is_one_that_a_guest_has_run_with() -> None:
    new = replace(DATA, made=False, slot=4)
    views = seen(replace(GRANTED, disks=(ROOT, new)))
    attached = DeviceAttached(vm=A, generation=1, name="disk1", slot=4)
    views.apply(HERE, replace(attached, sentence="it was not seen"))
    assert views.disks["a"].disks[1] == new
    views.apply(HERE, attached)
    assert views.disks["a"].disks == (ROOT, replace(new, made=True))
