"""Where a VM may start, and where it may go: which pools are the same, and what is in them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import Event, NodeId, Recorded, VmId, encode, tag_of
from proto.compute import NodeJoined, NodeRemoved, NodeReported, VmDevicesNoted, VmStarted
from proto.io import ImageImported, ImageInfo
from proto.machine import DiskFormat, DiskWish
from proto.memory import CapacitySet
from proto.migration import VmMigrated, VmMigrationRequested
from proto.placement import Filter, Placement, removed_by
from proto.pools import PoolNow, PoolRules, PoolsBeat, PoolSet
from services.compute.choosing import choose, choose_move
from services.compute.hearing import hear
from services.compute.reach import shared_with
from services.compute.reasons import explain
from services.compute.views import Views
from services.io.devices import make_disks, named_anew
from tests.model.compute_story import DEFINED, REQUESTED
from tests.model.test_nodes import CAN

A = VmId("a")
IDS = {"n1": "shared", "n2": "shared", "n3": "own"}
INFO = ImageInfo(format=DiskFormat.QCOW2, size_mib=64, sha256="0" * 64)
IMAGE = ImageImported(image="tiny", pool="default", info=INFO, pool_id="shared")
NOW_US = 1_000_000


def row(event: Event) -> Recorded:
    return Recorded(1, "x-y", 1, tag_of(type(event)), 1, NOW_US, encode(event), b"")


@pytest.fixture
def views() -> Views:
    made = Views()
    for name, id in IDS.items():
        can = replace(CAN, pools=("default",), pool_ids={"default": id}, move_key=f"key of {name}")
        tell(made, NodeJoined(node=NodeId(name), key="k"), NodeReported(node=NodeId(name), capabilities=can, boot_id="b"))
        tell(made, CapacitySet(node=NodeId(name), capacity_mib=8000, physical_mib=8192))
        made.nodes[name].heard_us = NOW_US
    tell(made, replace(DEFINED, vm=A, disks=(DiskWish(size_mib=100),), boot_image="", sizes_mib={}))
    return made


def tell(views: Views, *events: Event) -> None:
    for event in events:
        views.apply(row(event), event)


def names(choice: Placement | None) -> set[str]:
    assert choice is not None
    return {candidate.node for candidate in choice.candidates}


def runs(views: Views, node: str, generation: int = 1) -> None:
    disks = tuple(replace(d, pool_id=IDS[node]) for d in make_disks("a", (DiskWish(size_mib=100),), {}))
    start = replace(REQUESTED, vm=A, node=NodeId(node), generation=generation)
    noted = VmDevicesNoted(vm=A, generation=generation, disks=disks, nics=())
    tell(views, start, noted, VmStarted(vm=A, node=NodeId(node), generation=generation))


def test_before_it_has_run_a_vm_may_start_anywhere_that_has_its_image(views: Views) -> None:
    assert names(choose(views, "a", NOW_US)) == set(IDS)
    tell(views, IMAGE, replace(DEFINED, vm=A, disks=(DiskWish(image="tiny"),)))
    found = choose(views, "a", NOW_US)
    assert names(found) == {"n1", "n2"}
    assert found is not None and removed_by(found, Filter.POOL)


def test_then_only_where_its_disks_are(views: Views) -> None:
    runs(views, "n3")
    assert names(choose(views, "a", NOW_US)) == {"n3"}
    runs(views, "n1", 2)
    assert names(choose(views, "a", NOW_US)) == {"n1", "n2"}


def test_it_moves_to_whom_reaches_its_disks_and_else_takes_them_along(views: Views) -> None:
    runs(views, "n1")
    choice, (way,) = choose_move(views, "a", NOW_US, "n1")
    assert names(choice) == {"n2"} and (way.copied, way.copy_mib) == ({}, 0)
    choice, (way,) = choose_move(views, "a", NOW_US, "n1", "n3")
    assert names(choice) == {"n3"} and choice is not None and choice.candidates[0].terms["copy_mib"] == 100
    assert (way.copied, way.copy_mib, way.source_key, way.target_key) == ({"default": "shared"}, 100, "key of n1", "key of n3")


def test_a_kernel_that_qemu_starts_itself_does_not_go_along(views: Views) -> None:
    tell(views, IMAGE, replace(DEFINED, vm=A, disks=(DiskWish(image="tiny"),), boot_image="tiny"))
    runs(views, "n1")
    choice, ways = choose_move(views, "a", NOW_US, "n1", "n3")
    assert names(choice) == set() and not ways
    tell(views, replace(DEFINED, vm=A, disks=(DiskWish(image="tiny"),), boot_image=""))
    assert names(choose_move(views, "a", NOW_US, "n1", "n3")[0]) == {"n3"}


def test_after_a_move_its_home_is_there(views: Views) -> None:
    runs(views, "n1")
    asked = VmMigrationRequested(
        vm=A, node=NodeId("n1"), generation=1, to=NodeId("n3"), incoming=2, memory_mib=64, vcpus=1, priority=DEFINED.priority,
        placement=Placement(policy="p"), deadline_s=60,
    )  # fmt: skip
    there = tuple(named_anew("a", d, 2, "own") for d in make_disks("a", (DiskWish(size_mib=100),), {}))
    tell(views, asked, VmDevicesNoted(vm=A, generation=2, disks=there, nics=()))
    assert views.homes.at["a"] == {"default": "shared"}, "until it has left"
    tell(views, VmMigrated(vm=A, node=NodeId("n3"), generation=2, source=NodeId("n1"), source_generation=1))
    assert views.homes.at["a"] == {"default": "own"}


def test_a_rebalancer_moves_only_where_the_disks_are_the_same() -> None:
    there = ("default", "local", "default@shared", "local@own")
    assert shared_with((DiskWish(pool="default"),), there) == ("default", "default@shared")
    assert shared_with((DiskWish(pool="default"), DiskWish(pool="local")), there) == tuple(sorted(there))


# --- room in the pools -----------------------------------------------------------------------------------------------


def told(views: Views, node: str, free_mib: int, size_mib: int = 1000) -> None:
    now = PoolNow(name="default", id=IDS[node], size_mib=size_mib, free_mib=free_mib)
    hear(f"tel.{node}.pools", encode(PoolsBeat(node, "b", 1, (now,))), NOW_US, views)


def test_a_first_start_is_only_where_the_pool_of_its_disks_has_room(views: Views) -> None:
    for node, free_mib in (("n1", 500), ("n2", 500), ("n3", 5)):
        told(views, node, free_mib)
    choice = choose(views, "a", NOW_US)
    assert names(choice) == {"n1", "n2"}
    assert choice is not None
    assert [(r.node, r.filter, r.needed, r.available) for r in choice.rejected] == [("n3", Filter.POOL_FULL, 1, 0)]
    tell(views, PoolSet(pool="default", rules=PoolRules(keep_free_pct=60)))
    choice = choose(views, "a", NOW_US)
    assert names(choice) == set()
    assert choice is not None
    said, remedy = explain(choice)
    assert "with a full pool where it is to have new disks: n1 (0 of 1 MiB free)" in said
    assert "MiB in the pool on" in remedy
    tell(views, PoolSet(pool="default", rules=PoolRules(keep_free_pct=0)))
    assert names(choose(views, "a", NOW_US)) == {"n1", "n2", "n3"}


def test_a_vm_whose_disks_are_there_starts_again_in_a_full_pool_and_its_nodes_pools_are_forgotten_with_it(views: Views) -> None:
    runs(views, "n3")
    told(views, "n3", 0)
    assert names(choose(views, "a", NOW_US)) == {"n3"}
    tell(views, NodeRemoved(node=NodeId("n3")))
    assert views.rooms.told == {}


def test_disks_go_along_only_where_there_is_room_for_all_of_them(views: Views) -> None:
    runs(views, "n3")
    told(views, "n1", 105)
    told(views, "n2", 115)
    choice, _ = choose_move(views, "a", NOW_US, "n3")
    assert names(choice) == {"n2"}
    assert choice is not None
    assert [(r.needed, r.available) for r in choice.rejected if r.filter is Filter.POOL_FULL] == [(100, 95)]
