"""A VM's devices and an image as the log tells of them: commands, events and histories that many tests begin with."""

from __future__ import annotations

import msgspec

from libs.common.messages import NodeId, Recorded, VmId
from libs.common.testing import Spec
from proto.compute import NodeJoined, NodeReported
from proto.io import (
    DeleteImage,
    DevicesCommand,
    DevicesEvent,
    DevicesGranted,
    DevicesRemoved,
    DevicesRevoked,
    DisksRemovalRequested,
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
    RemoveDevices,
    ReportDisksRemoved,
    ReportImage,
    ReportImageRemoved,
    RevokeDevices,
)
from proto.machine import SPARE_PORTS, DirectBoot, DiskFormat, DiskWish, NicWish
from proto.node import Beat
from services.io.devices import make_disks
from services.io.hearing import hear
from services.io.images import IMAGE
from services.io.model import DEVICES
from services.io.nics import make_nics
from services.io.views import Views
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
HERE = Recorded(1, "s", 1, "t", 1, 0, b"", b"")


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
