"""The map of a VM's memory: only the node that runs it may draw it, and it ends with the process."""

from __future__ import annotations

from typing import Any

from libs.common.messages import NodeId, Recorded, VmId
from libs.common.testing import Spec
from proto.compute import GoneCause, VmStartFailed, VmStopped
from proto.mapping import (
    MapRefusal,
    Region,
    ReportRegions,
    UnmapRegions,
    VmRegionsMapped,
    VmRegionsUnmapped,
)
from services.memory.app import SERVICE
from services.memory.regions import REGIONS, Holders, Mapped, Unmapped, fill, react
from tests.model.compute_story import REQUESTED

N1, N2, WEB = NodeId("n1"), NodeId("n2"), VmId("web-1")
LOW = Region(name="below-4g", guest_address=0, size_mib=256)
HIGH = Region(name="dimm0", guest_address=4 << 30, size_mib=512)
REPORT = ReportRegions(node=N1, vm="web-1", generation=3, regions=(LOW,), holder="n1", held=3)
MAPPED = VmRegionsMapped(vm=WEB, node=N1, generation=3, regions=(LOW,))
UNMAPPED = VmRegionsUnmapped(vm=WEB, node=N1, generation=3)
MAP = Spec(REGIONS)


def recorded(position: int = 1) -> Recorded:
    return Recorded(position, "vm-web-1", 1, "any", 1, 0, b"", b"")


def test_a_report_is_written_once() -> None:
    MAP.given().when(REPORT).then(MAPPED).to_state(Mapped(generation=3, node=N1, regions=(LOW,))).twice()


def test_what_changed_is_written() -> None:
    more = ReportRegions(node=N1, vm="web-1", generation=3, regions=(LOW, HIGH), holder="n1", held=3)
    MAP.given(MAPPED).when(more).then(VmRegionsMapped(vm=WEB, node=N1, generation=3, regions=(LOW, HIGH))).twice()


def test_a_stranger_draws_no_map() -> None:
    for node, generation in ((N2, 3), (N1, 2), (N1, 4)):
        stranger = ReportRegions(node=node, vm="web-1", generation=generation, regions=(LOW,), holder="n1", held=3)
        MAP.given(MAPPED).when(stranger).refused(MapRefusal.NOT_YOURS)
    nobody = ReportRegions(node=N1, vm="web-1", generation=3, regions=(LOW,))
    MAP.given(MAPPED, UNMAPPED).when(nobody).refused(MapRefusal.NOT_YOURS)


def test_the_end_of_the_process_ends_the_map() -> None:
    end = UnmapRegions(vm="web-1", generation=3)
    MAP.given(MAPPED).when(end).then(UNMAPPED).to_state(Unmapped(generation=3)).twice()
    MAP.given().when(end).nothing()
    MAP.given(MAPPED).when(UnmapRegions(vm="web-1", generation=2)).nothing()


def test_who_holds_a_vm_is_what_the_log_says() -> None:
    holders = Holders()
    plain: Any = ReportRegions(node=N1, vm=REQUESTED.vm, generation=REQUESTED.generation, regions=(LOW,))
    assert (fill(plain, holders).holder, fill(plain, holders).held) == ("", 0)
    holders.apply(recorded(), REQUESTED)
    filled = fill(plain, holders)
    assert (filled.holder, filled.held) == (REQUESTED.node, REQUESTED.generation)
    late = VmStopped(vm=REQUESTED.vm, node=REQUESTED.node, generation=REQUESTED.generation - 1, cause=GoneCause.GUEST)
    holders.apply(recorded(2), late)
    assert fill(plain, holders) == filled
    holders.apply(recorded(3), VmStopped(vm=late.vm, node=late.node, generation=REQUESTED.generation, cause=late.cause))
    assert fill(plain, holders).holder == ""


def test_the_service_unmaps_what_stopped() -> None:
    stopped = VmStopped(vm=WEB, node=N1, generation=3, cause=GoneCause.CRASHED)
    failed = VmStartFailed(vm=WEB, node=N1, generation=3, sentence="no")
    for event in (stopped, failed):
        assert list(react(event)) == [UnmapRegions(vm="web-1", generation=3)]
        assert UnmapRegions(vm="web-1", generation=3) in SERVICE.react(event, recorded(), Holders())
