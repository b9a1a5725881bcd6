"""What io does because of others, and whom it orders."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from proto.compute import GoneCause, NodeRemoved, VmDeleted, VmStartFailed, VmStopped
from proto.io import (
    DeleteImage,
    DisksRemovalRequested,
    GrantDevices,
    ImageFormat,
    RemoveDevices,
    RevokeDevices,
)
from proto.node import OrderDisksRemoval, OrderImageImport, OrderImageRemoval
from services.io.images import IMAGE
from services.io.model import DEVICES
from services.io.react import orders, react
from services.io.views import Views, enrich
from tests.model.compute_story import DEFINED, REQUESTED
from tests.model.io_story import (
    BOOT,
    DEVICE_HISTORIES,
    DISKS,
    GRANT,
    GRANTED,
    HERE,
    IMAGE_HISTORIES,
    IMPORT,
    IMPORTED,
    N1,
    N2,
    REMOVED,
    SIZES,
    UNWANTED,
    A,
    seen,
)


def test_what_others_say_becomes_wishes_of_our_own() -> None:
    def wishes(event: object) -> list[object]:
        return list(react(event, HERE, Views()))

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


def test_what_a_removed_node_was_to_remove_is_decided_again() -> None:
    """Also where that was decided before io heard of it. What a VM has that there is stays its own."""
    gone, asked = NodeRemoved(node=N1), DisksRemovalRequested(vm=A, node=N1, disks=GRANTED.disks)
    deleted = seen(GRANTED, gone)
    assert [one for one in react(gone, HERE, deleted) if isinstance(one, RemoveDevices)] == [RemoveDevices(vm="a", gone="n1")]
    there = seen(DEFINED, GRANTED, gone)
    assert not [one for one in react(gone, HERE, there) if isinstance(one, RemoveDevices)]
    assert list(react(asked, HERE, deleted)) == [RemoveDevices(vm="a", gone="n1")]
    assert list(react(asked, HERE, seen(GRANTED))) == []
