"""A full pool, from the agent's look at it to what the services make of it: a VM stands still, loses nothing, and goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common.decider import Refused
from libs.common.messages import NodeId, VmId
from libs.common.testing import Given, Spec
from proto import compute as c
from proto.growth import ResizeVm
from proto.io import AttachDisk, Known, VmPhase
from proto.io import Refusal as IoRefusal
from proto.machine import Disk, DiskFormat, DiskWish, MachineSpec
from proto.migration import MigrateVm
from proto.node import Want
from proto.space import FullDisk, PoolNow, VmRanOutOfSpace, VmSpaceRegained, said
from services.compute.model import VM as DECIDER
from services.gateway.alerts import alerts
from services.io.changing import change
from services.io.states import Revoked
from services.node.drivers import NO_SPACE, MachineChanged
from services.node.host.mounts import file_system, is_shared
from services.node.space import WAIT_MAX_US, needed_mib
from tests.contract.gateway_rig import defined, start_requested, started
from tests.model.compute_story import N1, RUNNING, report
from tests.model.test_agent import SHAPE, Node, order
from tests.model.test_gateway_tasks import VM, Log

FAR = Disk(name="disk1", pool="far", file="a-disk1.raw", size_mib=64, format=DiskFormat.RAW, serial="s", slot=2, pool_id="f")
NEAR = Disk(name="disk0", pool="default", file="a-disk0.raw", size_mib=64, format=DiskFormat.RAW, serial="s", slot=1)
SPEC = MachineSpec(vm="a", generation=1, shape=SHAPE, disks=(NEAR, FAR))


def pools(far_mib: int, size_mib: int = 10_000, error: str = "") -> tuple[PoolNow, ...]:
    return (
        PoolNow(name="default", id="d", size_mib=50_000, free_mib=40_000),
        PoolNow(name="far", id="f", size_mib=size_mib, free_mib=far_mib, error=error),
    )


def running(*slow: str) -> Node:
    return Node(*slow).order(order(spec=SPEC))


def fill(node: Node, far_mib: int = 3) -> Node:
    node.do(node.agent.on_pools(pools(far_mib), node.now_us))
    return node.do(node.agent.on_change(MachineChanged("a", 1, NO_SPACE, full=(2,)), node.now_us))


def look(node: Node, far_mib: int, seconds: float = 1.0, **more: Any) -> Node:
    node.now_us += round(seconds * 1e6)
    return node.do(node.agent.on_pools(pools(far_mib, **more), node.now_us))


# --- the agent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size_mib", "needed"), [(0, 0), (48, 12), (512, 128), (10_000, 256), (100_000, 1000), (10**7, 4096)])
def test_room_is_a_part_of_the_pool_within_bounds(size_mib: int, needed: int) -> None:
    assert needed_mib(size_mib) == needed


def test_it_says_which_disk_in_which_pool_and_with_what_figures() -> None:
    node = fill(running())
    assert node.facts[-1].seen is c.Seen.PAUSED
    assert node.facts[-1].full == (
        FullDisk(disk="disk1", pool="far", pool_id="f", free_mib=3, size_mib=10_000, needed_mib=256),
    )
    assert node.acts == ["start"]
    assert node.agent.short_of_space


def test_it_goes_on_once_there_is_room_and_says_so() -> None:
    node = look(look(fill(running()), 3), 255)
    assert node.acts == ["start"]
    assert look(node, 256).acts == ["start", "resume"]
    assert (node.facts[-1].seen, node.facts[-1].full) == (c.Seen.RUNNING, ())
    assert not node.agent.short_of_space


def test_a_pool_that_does_not_answer_has_no_room_and_one_without_figures_is_tried() -> None:
    node = fill(running())
    assert look(node, 9999, error="away").acts == ["start"]
    assert look(node, -1, size_mib=-1).acts == ["start", "resume"]


def test_one_that_stops_again_waits_longer_each_time_up_to_a_bound() -> None:
    node = fill(running())
    waits = []
    for _ in range(12):
        begun = node.now_us
        while node.agent.short_of_space:
            look(node, 300, 0.5)
        waits.append((node.now_us - begun) / 1e6)
        fill(node, 300)
    assert waits[0] <= 1 and waits == sorted(waits)
    assert waits[-1] == WAIT_MAX_US / 1e6
    look(node, 300, 100)
    node.tick(100)
    assert not node.agent.short_of_space
    fill(node, 300)
    assert not look(node, 300, 0.5).agent.short_of_space, "one that ran for long does not stop again, it stops"


def test_nobody_lets_a_paused_one_go_on_and_after_the_pause_it_waits_for_room() -> None:
    node = fill(running())
    node.order(order(version=6, want=Want.PAUSED, spec=SPEC)).tick()
    assert (node.facts[-1].seen, node.facts[-1].order_version) == (c.Seen.PAUSED, 6)
    assert look(node, 9000).acts == ["start"]
    look(node, 3)
    node.order(order(version=7, spec=SPEC)).tick()
    assert node.acts == ["start"] and node.facts[-1].full
    assert look(node, 9000).acts == ["start", "resume"]


def test_a_stop_asks_its_guest_and_lets_it_go_on_for_that_if_room_comes_in_time() -> None:
    node = fill(running())
    node.order(order(version=6, want=Want.GONE, deadline_s=60))
    assert node.acts == ["start", "shutdown"]
    fill(node)
    assert look(node, 3, 5).acts == ["start", "shutdown"]
    assert look(node, 9000, 5).acts == ["start", "shutdown", "resume"]
    fill(node)
    assert node.tick(60).acts[-1] == "kill"


def test_a_reset_begins_anew() -> None:
    node = fill(running())
    node.order(order(version=6, resets=1, spec=SPEC))
    assert node.acts == ["start", "reset"]
    assert (node.facts[-1].seen, node.facts[-1].resets, node.facts[-1].full) == (c.Seen.RUNNING, 1, ())


def test_one_that_stops_before_its_resume_was_heard_of_is_not_taken_for_running() -> None:
    node = fill(running("resume"))
    assert look(node, 300).acts == ["start", "resume"]
    node.do(node.agent.on_change(MachineChanged("a", 1, NO_SPACE, full=(2,)), node.now_us))
    node.done("resume")
    assert node.agent.short_of_space and node.facts[-1].full


def test_an_adopted_one_is_looked_after_and_its_disks_are_known_from_the_last_order() -> None:
    node = fill(running())
    kept, machine = node.agent.vms["a"].kept, node.agent.vms["a"].machine
    assert machine is not None
    after = Node()
    after.agent.on_pools(pools(3), after.now_us)
    after.do(after.agent.on_open([kept], [machine], after.now_us))
    assert [disk.disk for disk in after.facts[-1].full] == ["disk1"]
    assert look(after, 300).acts == [], "no order has come yet"
    after.order(order(spec=SPEC))
    assert after.acts == ["resume", "fit"]


# --- compute --------------------------------------------------------------------------------------------------------

FULL = (FullDisk(disk="disk1", pool="far", pool_id="f", free_mib=3, size_mib=10_000, needed_mib=256),)
OUT = VmRanOutOfSpace(vm=VmId("a"), node=N1, generation=1, disks=FULL)
BACK = VmSpaceRegained(vm=VmId("a"), node=N1, generation=1)
STANDS = (*RUNNING, OUT)
SPACE = Spec(DECIDER)


def given(*history: c.VmEvent) -> Given[Any, Any, Any]:
    return SPACE.given(*history)


def test_it_is_told_once_and_ends_once() -> None:
    stands = report(c.Seen.PAUSED, full=FULL)
    given(*RUNNING).when(stands).then(OUT)
    given(*STANDS).when(stands).then()
    worse = msgspec.structs.replace(stands, full=(FullDisk(disk="disk1", pool="far", free_mib=0, size_mib=10_000),))
    given(*STANDS).when(worse).then()
    given(*STANDS).when(report(c.Seen.RUNNING)).then(BACK)
    given(*STANDS, BACK).when(report(c.Seen.RUNNING)).then()


def test_a_pause_is_taken_and_given_up_while_it_stands_still() -> None:
    stands = report(c.Seen.PAUSED, full=FULL)
    paused = (*STANDS, c.VmPauseRequested(vm=VmId("a"), generation=1), c.VmPaused(vm=VmId("a"), generation=1))
    given(*STANDS).when(c.PauseVm(vm="a")).then(paused[-2])
    given(*paused[:-1]).when(stands).then(paused[-1])
    resumed = (*paused, c.VmResumeRequested(vm=VmId("a"), generation=1))
    given(*resumed).when(stands).then(c.VmResumed(vm=VmId("a"), generation=1), OUT)
    given(*resumed).when(report(c.Seen.RUNNING)).then(c.VmResumed(vm=VmId("a"), generation=1), BACK)


@pytest.mark.parametrize("wish", [c.ResumeVm(vm="a"), MigrateVm(vm="a"), ResizeVm(vm="a", vcpus=2)], ids=lambda w: type(w).__name__)
def test_what_has_to_wait_is_refused_with_the_figures_and_what_helps(wish: Any) -> None:
    no = given(*STANDS).when(wish).refusal
    assert no is not None and "3 of 10000 MiB free" in no.sentence and "256 MiB" in no.sentence
    assert "free space in the pool" in no.remedy


def test_it_is_stopped_reset_and_ends_as_any_other() -> None:
    given(*STANDS).when(c.StopVm(vm="a")).then(c.VmStopRequested(vm=VmId("a"), node=N1, generation=1, deadline_s=60))
    given(*STANDS).when(c.ResetVm(vm="a")).then(c.VmResetRequested(vm=VmId("a"), generation=1, resets=1))
    gone = report(c.Seen.GONE, cause=c.GoneCause.CRASHED)
    given(*STANDS).when(gone).then(c.VmStopped(vm=VmId("a"), node=N1, generation=1, cause=c.GoneCause.CRASHED, unwished=True))


# --- io, and what is shown ------------------------------------------------------------------------------------------


def test_its_devices_stay_as_they_are_meanwhile() -> None:
    wish = AttachDisk(vm="a", disk=DiskWish(size_mib=8), known=Known(phase=VmPhase.OUT_OF_SPACE))
    with pytest.raises(Refused) as no:
        change(wish, Revoked(vm=VmId("a"), node=NodeId("n1")))
    assert (no.value.reason, no.value.remedy) == (IoRefusal.BUSY, "free space in its pool: it goes on by itself then")


def test_it_is_shown_as_what_it_is_and_is_an_alert_while_it_lasts() -> None:
    log = Log()
    out = VmRanOutOfSpace(vm=VM, node=NodeId("n1"), generation=1, disks=FULL)
    for event in (defined("a"), start_requested("a"), started("a"), out):
        log.add(event)
    vm = log.model.vms.all["a"]
    assert (vm.state, vm.full) == ("out-of-space", FULL)
    assert vm.reason == f"stands still: {said(FULL)}"
    (alert,) = alerts(log.model, (), lambda project: True)
    assert (alert.kind, alert.object) == ("out-of-space", "vm/a")
    assert "pool far has no room" in alert.sentence and "free space in pool far" in alert.remedy
    assert alerts(log.model, (), lambda project: False) == []
    log.add(VmSpaceRegained(vm=VM, node=NodeId("n1"), generation=1))
    assert (vm.state, vm.full, vm.full_us) == ("running", (), 0)
    assert alerts(log.model, (), lambda project: True) == []


def test_file_systems_that_others_may_have_mounted_are_known_by_their_type() -> None:
    table = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:51 / /srv/vms rw shared:9 - nfs4 nas:/vms rw,vers=4.2\nbroken line\n"
    )
    assert [file_system(table, device) for device in ("8:1", "0:51", "9:9")] == ["ext4", "nfs4", ""]
    shared = ["nfs4", "ceph", "fuse.glusterfs", "ocfs2"]
    assert [t for t in (*shared, "ext4", "xfs", "tmpfs", "fuse.bindfs", "") if is_shared(t)] == shared
