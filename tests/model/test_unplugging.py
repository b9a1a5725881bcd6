"""What a gateway shows of devices that a guest does not let go of."""

from __future__ import annotations

from typing import Any

from libs.common.messages import NodeId, VmId
from proto.compute import GoneCause, VmStopped
from proto.io import Change, ChangeKind, DeviceDetached, DeviceMisfit, DevicesChanged
from services.gateway.views.unplugging import Unplugging, after

A, N1 = VmId("a"), NodeId("n1")
SAID = "the guest has not let it go within 5 s"


def detach(slot: int, generation: int = 1, kind: ChangeKind = ChangeKind.DETACH_DISK) -> DevicesChanged:
    change = Change(kind=kind, name=f"disk{slot}", slot=slot)
    return DevicesChanged(vm=A, node=N1, generation=generation, disks=(), nics=(), leaving=(slot,), change=change)


def misfit(slot: int, pending: bool = True) -> DeviceMisfit:
    return DeviceMisfit(vm=A, generation=1, name=f"disk{slot}", slot=slot, sentence=SAID, pending=pending)


def seen(*events: Any) -> tuple[Unplugging, ...]:
    known: tuple[Unplugging, ...] = ()
    for at_us, event in enumerate(events):
        known = after(known, event, at_us)
    return known


def test_it_is_pending_once_its_time_is_over_and_until_it_is_gone() -> None:
    assert seen(detach(1)) == (Unplugging("disk1", 1, 0),)
    assert seen(detach(1), misfit(1), detach(2)) == (Unplugging("disk1", 1, 0, True, SAID), Unplugging("disk2", 2, 2))
    gone = DeviceDetached(vm=A, generation=1, name="disk1", slot=1)
    assert seen(detach(1), misfit(1), gone) == () == seen(misfit(1))


def test_at_rest_nothing_is_waited_for_and_its_end_ends_all_waiting() -> None:
    assert seen(detach(1, generation=0)) == ()
    assert seen(detach(1, kind=ChangeKind.LIMIT_DISK)) == ()
    stopped = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.ORDERED)
    assert seen(detach(1), misfit(1), stopped) == ()
