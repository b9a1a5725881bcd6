"""Which disks a guest has, and where: they are made once, go along, and stay nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from libs.common.messages import NodeId, floor_of
from libs.common.testing import Spec
from proto.compute import NodeJoined, NodeReported
from proto.io import (
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
    ReportDisksRemoved,
    ReportImage,
    SettleDisks,
)
from proto.machine import SPARE_PORTS
from proto.node import OrderDisksRemoval
from services.io.devices import named_anew
from services.io.model import DEVICES
from services.io.react import orders
from services.io.states import Granted
from services.io.views import Views, enrich
from tests.model.io_story import (
    DISKS,
    GRANT,
    HERE,
    N1,
    N2,
    NICS,
    SIZES,
    A,
)
from tests.model.test_nodes import CAN

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
