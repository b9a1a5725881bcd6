"""Devices and images: made once, granted to rising generations, removed when seen removed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from libs.common.decider import Refused
from libs.common.messages import NodeId, Recorded, VmId, floor_of
from libs.common.testing import Given, Spec
from proto.compute import GoneCause, NodeJoined, NodeRemoved, NodeReported, VmDeleted, VmStartFailed, VmStopped
from proto.io import (
    DeleteImage,
    DevicesCommand,
    DevicesDenied,
    DevicesEvent,
    DevicesGranted,
    DevicesRemoved,
    DevicesReturned,
    DevicesRevoked,
    DiskFilesRemoved,
    DisksRemovalRequested,
    DisksSettled,
    GrantDevices,
    ImageCommand,
    ImageDeleted,
    ImageDeleteRequested,
    ImageEvent,
    ImageFormat,
    ImageImported,
    ImageImportRequested,
    ImageInfo,
    ImageRejected,
    ImportImage,
    Refusal,
    RemoveDevices,
    ReportDisksRemoved,
    ReportImage,
    ReportImageRemoved,
    RevokeDevices,
    SettleDisks,
    Suggestion,
)
from proto.machine import SPARE_PORTS, DirectBoot, DiskFormat, DiskWish, NicWish
from proto.node import Beat, OrderDisksRemoval, OrderImageImport, OrderImageRemoval
from services.io.devices import make_disks, named_anew
from services.io.images import IMAGE, Deleting, Image, Imported, Importing, NoImage
from services.io.model import DEVICES
from services.io.nics import make_nics
from services.io.react import orders, react
from services.io.states import Devices, Granted, NoDevices, Removing, Revoked
from services.io.views import Views, enrich, hear
from tests.model.test_compute import REQUESTED
from tests.model.test_nodes import CAN

A, N1, N2 = VmId("a"), NodeId("n1"), NodeId("n2")
SIZES = {"tiny": 64}
GRANT = GrantDevices(
    vm="a",
    node=N1,
    generation=1,
    disks=(DiskWish(image="tiny"), DiskWish(size_mib=10)),
    nics=(NicWish(),),
    sizes_mib=SIZES,
)
DISKS = make_disks("a", GRANT.disks, SIZES)
NICS = make_nics("a", GRANT.nics, 2, {})
GRANTED = DevicesGranted(vm=A, node=N1, generation=1, disks=DISKS, nics=NICS, spare=SPARE_PORTS)
REVOKED = DevicesRevoked(vm=A, generation=1)
ASKED = DisksRemovalRequested(vm=A, node=N1, disks=DISKS)
REMOVED = DevicesRemoved(vm=A)
SEEN = ReportDisksRemoved(vm="a", node=N1, order_version=3)
DEVICE_HISTORIES: dict[str, tuple[DevicesEvent, ...]] = {
    "none": (),
    "granted": (GRANTED,),
    "revoked": (GRANTED, REVOKED),
    "removing": (GRANTED, REVOKED, ASKED),
    "removed": (GRANTED, REVOKED, ASKED, REMOVED),
}
DEVICE_COMMANDS: tuple[DevicesCommand, ...] = (
    GRANT,
    msgspec.structs.replace(GRANT, generation=2, node=N2),
    RevokeDevices(vm="a", generation=1),
    RevokeDevices(vm="a", generation=0),
    RemoveDevices(vm="a", node="n1"),
    SEEN,
    msgspec.structs.replace(SEEN, node=N2),
)
devices = Spec(DEVICES)

BOOT = DirectBoot(kernel="vmlinux", initrd="initrd")
IMPORT = ImportImage(image="tiny", file="tiny.qcow2", format=ImageFormat.QCOW2, node="n1", boot=BOOT)
INFO = ImageInfo(format=DiskFormat.QCOW2, size_mib=64, sha256="a" * 64)
WISHED = ImageImportRequested(
    image="tiny", node=N1, pool="default", file="tiny.qcow2", format=ImageFormat.QCOW2, boot=BOOT
)
IMPORTED = ImageImported(image="tiny", pool="default", info=INFO, boot=BOOT)
REPORT = ReportImage(image="tiny", node=N1, order_version=1, info=INFO)
UNWANTED = ImageDeleteRequested(image="tiny", node=N1, pool="default")
GONE = ReportImageRemoved(image="tiny", node=N1, order_version=3)
IMAGE_HISTORIES: dict[str, tuple[ImageEvent, ...]] = {
    "none": (),
    "importing": (WISHED,),
    "rejected": (WISHED, ImageRejected(image="tiny", sentence="s")),
    "imported": (WISHED, IMPORTED),
    "deleting": (WISHED, IMPORTED, UNWANTED),
    "deleted": (WISHED, IMPORTED, UNWANTED, ImageDeleted(image="tiny")),
}
IMAGE_COMMANDS: tuple[ImageCommand, ...] = (
    IMPORT,
    msgspec.structs.replace(IMPORT, file="other.qcow2"),
    msgspec.structs.replace(IMPORT, node=""),
    DeleteImage(image="tiny"),
    DeleteImage(image="tiny", used_by=("a",)),
    REPORT,
    msgspec.structs.replace(REPORT, info=None, sentence="truncated"),
    msgspec.structs.replace(REPORT, node=N2),
    GONE,
    msgspec.structs.replace(GONE, node=N2),
)
images = Spec(IMAGE)


# --- devices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", DEVICE_HISTORIES.values(), ids=DEVICE_HISTORIES)
def test_every_device_command_is_answered_and_saying_it_twice_changes_nothing(
    history: tuple[DevicesEvent, ...],
) -> None:
    for command in DEVICE_COMMANDS:
        first = devices.given(*history).when(command)
        again = Given(DEVICES, DEVICES.fold(first.events, first.before)).when(command)
        denied = first.events and isinstance(first.events[0], DevicesDenied)  # a denial is answered each time
        assert denied or not again.events, command


def test_the_first_grant_makes_the_devices_and_later_ones_return_them() -> None:
    devices.given().when(GRANT).then(GRANTED).twice()
    other = msgspec.structs.replace(GRANT, node=N2, generation=2, disks=(DiskWish(size_mib=99),))
    devices.given(GRANTED, REVOKED).when(other).then(msgspec.structs.replace(GRANTED, node=N2, generation=2))


def test_devices_are_the_same_for_the_same_name_and_differ_between_names() -> None:
    assert [d.name for d in DISKS] == ["disk0", "disk1"]
    assert [d.size_mib for d in DISKS] == [64, 10]
    assert [d.slot for d in DISKS] + [n.slot for n in NICS] == [1, 2, 3]
    assert [d.file for d in DISKS] == ["a-disk0.qcow2", "a-disk1.qcow2"]
    assert len({d.serial for d in DISKS}) == 2 and all(len(d.serial) == 20 for d in DISKS)
    macs = {make_nics(f"vm{i}", (NicWish(),), 0, {})[0].mac for i in range(2000)}
    assert len(macs) == 2000 and all(int(m[:2], 16) & 3 == 2 for m in macs), "unicast, locally administered"
    for value in (*DISKS, *NICS):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value


def test_a_grant_without_its_image_is_denied_with_a_sentence() -> None:
    bare = msgspec.structs.replace(GRANT, sizes_mib={})
    (event,) = devices.given().when(bare).events
    assert isinstance(event, DevicesDenied) and "tiny" in event.sentence
    later = msgspec.structs.replace(bare, generation=2)
    (event,) = devices.given(GRANTED, REVOKED).when(later).events
    assert isinstance(event, DevicesDenied)


def test_only_a_rising_generation_is_granted() -> None:
    second = msgspec.structs.replace(GRANTED, generation=2)
    devices.given(GRANTED, REVOKED, second).when(GRANT).nothing()
    devices.given(GRANTED, REVOKED, second).when(RevokeDevices(vm="a", generation=1)).nothing()
    devices.given(*DEVICE_HISTORIES["removed"]).when(GRANT).nothing()
    devices.given(*DEVICE_HISTORIES["removed"]).when(msgspec.structs.replace(GRANT, generation=2)).then(second)


def test_a_removal_in_full() -> None:
    devices.given(GRANTED).when(RevokeDevices(vm="a", generation=1)).then(REVOKED).twice()
    devices.given(GRANTED, REVOKED).when(RemoveDevices(vm="a", node="n1")).then(ASKED).twice()
    removing = devices.given(GRANTED, REVOKED, ASKED)
    removing.when(msgspec.structs.replace(SEEN, order_version=2)).nothing()
    removing.when(msgspec.structs.replace(SEEN, node=N2)).refused(Refusal.NOT_PERMITTED)
    removing.when(SEEN).then(REMOVED).to_state(NoDevices(generation=1, version=4)).twice()


def test_a_removal_takes_the_right_to_write_first() -> None:
    devices.given(GRANTED).when(RemoveDevices(vm="a")).then(REVOKED, ASKED)


def test_without_disks_there_is_nothing_to_wait_for() -> None:
    diskless = msgspec.structs.replace(GRANTED, disks=())
    devices.given(diskless, REVOKED).when(RemoveDevices(vm="a")).then(REMOVED)
    devices.given().when(RemoveDevices(vm="a")).nothing()


def test_a_vm_made_again_waits_until_its_namesakes_disks_are_gone() -> None:
    again = msgspec.structs.replace(GRANT, generation=2)
    (event,) = devices.given(GRANTED, REVOKED, ASKED).when(again).events
    assert isinstance(event, DevicesDenied) and "still being removed" in event.sentence


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", IMAGE_HISTORIES.values(), ids=IMAGE_HISTORIES)
def test_every_image_command_is_answered_and_saying_it_twice_changes_nothing(history: tuple[ImageEvent, ...]) -> None:
    for command in IMAGE_COMMANDS:
        first = images.given(*history).when(command)
        assert not Given(IMAGE, IMAGE.fold(first.events, first.before)).when(command).events, command


def test_an_import_in_full() -> None:
    images.given().when(IMPORT).then(WISHED).twice()
    images.given(WISHED).when(REPORT).then(IMPORTED).twice()
    images.given(WISHED, IMPORTED).when(IMPORT).refused(Refusal.IMAGE_KNOWN)
    images.given(WISHED).when(msgspec.structs.replace(IMPORT, file="other.qcow2")).refused(Refusal.IMAGE_BUSY)
    images.given().when(msgspec.structs.replace(IMPORT, node="")).refused(Refusal.NO_NODE)


def test_only_what_the_asked_agent_saw_counts() -> None:
    images.given(WISHED).when(msgspec.structs.replace(REPORT, node=N2)).refused(Refusal.NOT_PERMITTED)
    images.given(WISHED).when(msgspec.structs.replace(REPORT, order_version=0)).nothing()
    images.given(WISHED, IMPORTED, UNWANTED).when(msgspec.structs.replace(GONE, node=N2)).refused(Refusal.NOT_PERMITTED)
    images.given(WISHED, IMPORTED, UNWANTED).when(msgspec.structs.replace(GONE, order_version=2)).nothing()


def test_an_image_that_is_not_what_was_said_is_rejected() -> None:
    rejected = ImageRejected(image="tiny", sentence="backing file")
    images.given(WISHED).when(msgspec.structs.replace(REPORT, info=None, sentence="backing file")).then(rejected)
    raw = msgspec.structs.replace(INFO, format=DiskFormat.RAW)
    (event,) = images.given(WISHED).when(msgspec.structs.replace(REPORT, info=raw)).events
    assert isinstance(event, ImageRejected) and "raw" in event.sentence
    other = msgspec.structs.replace(WISHED, sha256="b" * 64)
    (event,) = images.given(other).when(REPORT).events
    assert isinstance(event, ImageRejected) and "sha256" in event.sentence
    images.given(WISHED, rejected).when(IMPORT).then(WISHED)


def test_what_was_made_a_qcow2_counts_as_what_was_announced() -> None:
    asked = msgspec.structs.replace(IMPORT, format=ImageFormat.OVA, disk="two")
    wished = msgspec.structs.replace(WISHED, format=ImageFormat.OVA, disk="two")
    images.given().when(asked).then(wished)
    info = msgspec.structs.replace(INFO, source=ImageFormat.OVA, suggests=Suggestion(vcpus=2))
    (event,) = images.given(wished).when(msgspec.structs.replace(REPORT, info=info)).events
    assert isinstance(event, ImageImported) and event.info == info
    for wrong in (INFO, msgspec.structs.replace(info, format=DiskFormat.RAW)):
        (event,) = images.given(wished).when(msgspec.structs.replace(REPORT, info=wrong)).events
        assert isinstance(event, ImageRejected) and "announced as ova" in event.sentence


def test_a_deletion_in_full() -> None:
    images.given().when(DeleteImage(image="tiny")).refused(Refusal.IMAGE_UNKNOWN)
    images.given(WISHED).when(DeleteImage(image="tiny")).refused(Refusal.IMAGE_BUSY)
    images.given(WISHED, IMPORTED).when(DeleteImage(image="tiny", used_by=("a",))).refused(Refusal.IMAGE_IN_USE)
    images.given(WISHED, IMPORTED).when(DeleteImage(image="tiny")).then(UNWANTED).twice()
    images.given(WISHED, IMPORTED, UNWANTED).when(IMPORT).refused(Refusal.IMAGE_BUSY)
    images.given(WISHED, IMPORTED, UNWANTED).when(GONE).then(ImageDeleted(image="tiny")).twice()


# --- reactions, orders, views -------------------------------------------------------------------------------------

HERE = Recorded(1, "s", 1, "t", 1, 0, b"", b"")


def test_what_others_say_becomes_wishes_of_our_own() -> None:
    def wishes(event: object) -> list[object]:
        return list(react(event, HERE, None))

    (grant,) = wishes(REQUESTED)
    assert grant == GrantDevices(vm="a", node=N1, generation=1, disks=REQUESTED.disks, nics=REQUESTED.nics)
    revoke = RevokeDevices(vm="a", generation=1)
    assert wishes(VmStartFailed(vm=A, node=N1, generation=1, sentence="s")) == [revoke]
    assert wishes(VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.GUEST)) == [revoke]
    assert wishes(VmDeleted(vm=A, node="n1")) == [RemoveDevices(vm="a", node="n1")]
    assert wishes(GRANTED) == []


def test_agents_are_ordered_only_while_something_is_wanted_of_them() -> None:
    wanted = {name: orders("devices-a", DEVICES.fold(h), len(h)) for name, h in DEVICE_HISTORIES.items()} | {
        name: orders("image-tiny", IMAGE.fold(h), len(h)) for name, h in IMAGE_HISTORIES.items() if name != "none"
    }
    some = {name: list(order) if isinstance(order, Sequence) else [order] for name, order in wanted.items() if order}
    ordered = {name: orders[0] for name, orders in some.items() if len(orders) == 1}
    assert len(ordered) == len(some)
    assert {name: order.node for name, order in ordered.items()} == {
        "removing": "n1",
        "importing": "n1",
        "deleting": "n1",
    }
    assert ordered["removing"].message == OrderDisksRemoval(vm="a", version=3, disks=DISKS)
    assert ordered["importing"].message == OrderImageImport(
        image="tiny", version=1, pool="default", file="tiny.qcow2", format=ImageFormat.QCOW2, boot=BOOT
    )
    assert ordered["deleting"].message == OrderImageRemoval(image="tiny", version=3, pool="default")


def seen(*events: object, heard: tuple[str, ...] = ()) -> Views:
    views = Views()
    members = (NodeJoined(node=n, key="k") for n in (N1, N2))
    hellos = (NodeReported(node=n, capabilities=CAN, boot_id="b") for n in (N1, N2))
    for event in (*members, *hellos, *events):
        views.apply(HERE, event)
    for node in heard:
        beat = Beat(node=node, boot_id="b", at_us=0, free_mib=0, load=0.0)
        hear(f"tel.{node}.beat", msgspec.msgpack.encode(beat), 1_000_000, views)
    return views


def test_an_import_goes_to_a_node_that_was_heard_else_to_any_with_the_pool() -> None:
    asked = msgspec.structs.replace(IMPORT, node="")
    assert enrich(asked, seen(heard=("n2",)), 1_000_000).node == "n2"
    assert enrich(asked, seen(heard=("n2",)), 60_000_000).node == "n1"
    assert enrich(msgspec.structs.replace(asked, pool="other"), seen(heard=("n1",)), 1_000_000).node == ""
    assert enrich(msgspec.structs.replace(IMPORT, node="n2"), seen(), 0).node == "n2"


def test_grants_and_deletions_know_images_and_their_users() -> None:
    views = seen(IMPORTED, GRANTED)
    lie = msgspec.structs.replace(GRANT, sizes_mib={"none": 1})
    assert enrich(lie, views, 0).sizes_mib == SIZES
    assert enrich(DeleteImage(image="tiny"), views, 0).used_by == ("a",)
    views.apply(HERE, REMOVED)
    assert enrich(DeleteImage(image="tiny", used_by=("lie",)), views, 0).used_by == ()
    views.apply(HERE, UNWANTED)
    assert enrich(GRANT, views, 0).sizes_mib == {}


def test_disks_are_removed_where_they_were_last_unless_that_node_has_left() -> None:
    wish = RemoveDevices(vm="a", node="n1")
    on_n2 = msgspec.structs.replace(GRANTED, node=N2)
    assert enrich(wish, seen(on_n2), 0).node == "n2"
    assert enrich(wish, seen(on_n2, NodeRemoved(node=N2)), 0).node == "n1"
    assert enrich(wish, seen(), 0) == wish


# --- properties ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(DEVICE_COMMANDS), st.integers(0, 5), st.sampled_from([N1, N2])), max_size=30))
def test_no_story_lowers_a_granted_generation(story: list[tuple[DevicesCommand, int, NodeId]]) -> None:
    state: Devices = DEVICES.initial
    for said, generation, node in story:
        grants = isinstance(said, GrantDevices)
        command = msgspec.structs.replace(said, generation=generation, node=node) if grants else said
        before = state
        try:
            events = DEVICES.decide(command, state)
        except Refused as refused:
            assert refused.sentence and refused.remedy
            continue
        state = DEVICES.fold(events, state)
        assert state.generation >= before.generation and state.version == before.version + len(events)
        for event in events:
            if isinstance(event, DevicesGranted):
                assert event.generation > before.generation and event.disks == DISKS and event.nics == NICS
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=DEVICES.state) == state


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(IMAGE_COMMANDS), max_size=30))
def test_image_states_survive_the_wire(story: list[ImageCommand]) -> None:
    state: Image = IMAGE.initial
    for command in story:
        try:
            state = IMAGE.fold(IMAGE.decide(command, state), state)
        except Refused as refused:
            assert refused.sentence and refused.remedy
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=IMAGE.state) == state


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([e for h in DEVICE_HISTORIES.values() for e in h]), max_size=20),
    st.lists(st.sampled_from([e for h in IMAGE_HISTORIES.values() for e in h]), max_size=20),
)
def test_evolve_never_raises_whatever_the_order(of_devices: list[DevicesEvent], of_image: list[ImageEvent]) -> None:
    assert isinstance(DEVICES.fold(of_devices), NoDevices | Granted | Revoked | Removing)
    assert isinstance(IMAGE.fold(of_image), NoImage | Importing | Imported | Deleting)


# --- which disks a guest has, and where -------------------------------------------------------------------------------

AT_N1, AT_N2 = {"default": "one"}, {"default": "two"}
MADE_1 = tuple(replace(disk, pool_id="one", made=True) for disk in DISKS)
ONE = tuple(replace(disk, pool_id="one") for disk in DISKS)
FIRST = DevicesGranted(vm=A, node=N1, generation=1, disks=ONE, nics=(), spare=SPARE_PORTS)
SETTLED = DisksSettled(vm=A, generation=1)
ALONG = tuple(named_anew("a", disk, 2, "two") for disk in MADE_1)
MOVING = DevicesGranted(vm=A, node=N2, generation=2, disks=ALONG, nics=(), spare=SPARE_PORTS)
MOVED = DisksSettled(vm=A, generation=2, source="n1", left=MADE_1)
BACK = DevicesReturned(vm=A, node=N1, generation=2, holder=1, disks=MADE_1)
devices_of = Spec(DEVICES)


def _grant(node: NodeId, generation: int, pool_ids: dict[str, str], copied: tuple[str, ...] = ()) -> GrantDevices:
    return replace(GRANT, node=node, generation=generation, nics=(), pool_ids=pool_ids, copied=copied, sizes_mib=SIZES)


def _done(node: NodeId, version: int) -> ReportDisksRemoved:
    return ReportDisksRemoved(node=node, vm="a", order_version=version)


def _ordered(*history: DevicesEvent) -> dict[str, list[str]]:
    found = orders("devices-a", DEVICES.fold(history), len(history))
    assert isinstance(found, Sequence) and all(isinstance(order.message, OrderDisksRemoval) for order in found)
    return {o.node: [d.file for d in o.message.disks] for o in found if isinstance(o.message, OrderDisksRemoval)}


def test_a_disk_is_made_by_the_first_start_and_by_no_later_one() -> None:
    devices_of.given().when(_grant(N1, 1, AT_N1)).then(FIRST)
    failed = (FIRST, DevicesRevoked(vm=A, generation=1))  # no guest has run with them: another node may make them
    devices_of.given(*failed).when(_grant(N1, 2, AT_N1)).then(replace(FIRST, generation=2))
    elsewhere = replace(FIRST, node=N2, generation=2, disks=ALONG)
    devices_of.given(*failed).when(_grant(N2, 2, AT_N2)).then(elsewhere)
    assert _ordered(*failed, elsewhere) == {"n1": [disk.file for disk in DISKS]}
    restored = replace(elsewhere, generation=floor_of(2) + 1)  # it may have been seen, and forgotten
    assert not _ordered(*failed, restored)
    devices_of.given(FIRST).when(SettleDisks(vm="a", generation=1)).then(SETTLED).twice()
    devices_of.given(FIRST).when(SettleDisks(vm="a", generation=2)).then()
    ran = (FIRST, SETTLED, DevicesRevoked(vm=A, generation=1))
    devices_of.given(*ran).when(_grant(N1, 2, AT_N1)).then(replace(FIRST, generation=2, disks=MADE_1))
    (no,) = devices_of.given(*ran).when(_grant(N2, 2, AT_N2)).events
    assert isinstance(no, DevicesDenied)
    assert no.sentence == "disk0 of a lies in the pool default one; that of n2 is two"


def test_a_running_guest_takes_its_disks_along_under_new_names() -> None:
    devices_of.given(FIRST, SETTLED).when(_grant(N2, 2, AT_N2, ("default",))).then(MOVING)
    assert [disk.file for disk in ALONG] == [f"a-disk{i}.2.{disk.format}" for i, disk in enumerate(DISKS)]
    going = (FIRST, SETTLED, MOVING)
    assert not _ordered(*going)
    devices_of.given(*going).when(SettleDisks(vm="a", generation=2)).then(MOVED).twice()
    assert _ordered(*going, MOVED) == {"n1": [disk.file for disk in DISKS]}
    devices_of.given(*going, MOVED).when(_done(N1, 3)).then()
    removed = DiskFilesRemoved(vm=A, files=tuple(disk.file for disk in DISKS))
    devices_of.given(*going, MOVED).when(_done(N1, 4)).then(removed).twice()
    state = DEVICES.fold((*going, MOVED, removed))
    assert isinstance(state, Granted) and not state.unwanted and all(disk.made for disk in state.disks)


def test_of_a_move_that_came_to_nothing_nothing_is_left_there() -> None:
    history = (FIRST, SETTLED, MOVING, BACK)
    state = DEVICES.fold(history)
    assert isinstance(state, Granted) and (state.node, state.holder, state.disks) == (N1, 1, MADE_1)
    assert _ordered(*history) == {"n2": [disk.file for disk in ALONG]}
    devices_of.given(*history).when(SettleDisks(vm="a", generation=1)).then()


def test_a_deleted_vm_is_removed_where_it_is_and_where_it_was() -> None:
    moved = (FIRST, SETTLED, MOVING, MOVED)
    deleted = (DevicesRevoked(vm=A, generation=2), DisksRemovalRequested(vm=A, node=N2, disks=ALONG))
    assert _ordered(*moved, *deleted) == {"n1": [d.file for d in DISKS], "n2": [d.file for d in ALONG]}
    gone = DiskFilesRemoved(vm=A, files=tuple(disk.file for disk in DISKS))
    devices_of.given(*moved, *deleted).when(_done(N2, 6)).then(DevicesRemoved(vm=A))
    devices_of.given(*moved, *deleted).when(_done(N1, 6)).then(gone)
    assert _ordered(*moved, *deleted, DevicesRemoved(vm=A)) == {"n1": [d.file for d in DISKS]}
    (anew,) = devices_of.given(*moved, *deleted, DevicesRemoved(vm=A)).when(_grant(N1, 3, AT_N1)).events
    assert isinstance(anew, DevicesGranted)
    assert not {disk.file for disk in anew.disks} & {disk.file for disk in DISKS}  # what is being removed is none of it


def test_a_vm_that_is_found_has_what_it_runs_with() -> None:
    """Whatever the restored log knows of its disks, if anything."""
    found = replace(_grant(N2, 9, AT_N2), running=True, has_disks=ALONG, nics=GRANT.nics, has_nics=NICS)
    has = tuple(replace(disk, made=True) for disk in ALONG)
    granted = replace(MOVING, generation=9, disks=has, nics=NICS)
    for before in ((), (FIRST, SETTLED), (FIRST, SETTLED, DevicesRevoked(vm=A, generation=1))):
        devices_of.given(*before).when(found).then(granted)
        state = DEVICES.fold((*before, granted))
        assert isinstance(state, Granted) and state.disks == has and not state.before and not state.unwanted
        assert state.disks_made == 2


def test_where_its_image_is_not_a_disk_goes_along_whole() -> None:
    """Of what stands on an image that is in the target's pool too only the guest's own writes do."""
    command = _grant(N2, 2, AT_N2, ("default",))
    (there,) = devices_of.given(FIRST, SETTLED).when(replace(command, image_ids={"tiny": "two"})).events
    assert isinstance(there, DevicesGranted) and [disk.image for disk in there.disks] == ["tiny", ""]
    (away,) = devices_of.given(FIRST, SETTLED).when(replace(command, image_ids={"tiny": "one"})).events
    assert isinstance(away, DevicesGranted) and [disk.image for disk in away.disks] == ["", ""]
    views = Views()
    for event in (NodeJoined(node=N1, key="k"), NodeReported(node=N1, capabilities=replace(CAN, pool_ids=AT_N1), boot_id="b")):
        views.apply(HERE, event)
    seen = enrich(ReportImage(node=N1, image="tiny", order_version=1), views, 0)
    assert seen.pool_ids == AT_N1
