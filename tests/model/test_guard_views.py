"""Whose turn it is, and what others' events mean for a guard."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common.messages import NodeId, Recorded, VmId
from proto.compute import (
    GoneCause,
    NodeReported,
    NodeUncordoned,
    VmDeleted,
    VmDevicesNoted,
    VmFound,
    VmLeftStopped,
    VmRestartDenied,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.examples import example
from proto.guard import (
    Cause,
    Guard,
    GuardEnded,
    GuardSet,
    Mode,
    NoteHand,
    NoteRestart,
    OweVm,
    ReleaseVm,
    RestartWanted,
    SetGuard,
    VmOwed,
    VmRecovered,
    VmUnplaced,
    WantRestart,
)
from proto.lease import (
    HaArmed,
    HaDisarmed,
    HaHeld,
    HaSet,
    HaSettings,
    NodeIsolated,
    NodeLost,
    NodeReturned,
    NodeSuspected,
    Proof,
    ProofKind,
)
from proto.machine import Disk, DiskBus, DiskFormat, Layer, Origin, Priority
from proto.migration import VmIncomingGone, VmMigrated
from proto.placement import Placement
from services.ha.guard_react import enrich, react
from services.ha.guard_views import AFTER_US_MAX, GuardViews
from tests.model.compute_story import DEFINED
from tests.model.test_nodes import CAN

S = 1_000_000
N1, N2 = NodeId("n1"), NodeId("n2")


class Log:
    """Events at positions that count up, folded into the views of a cluster whose nodes share one pool."""

    def __init__(self) -> None:
        self.views, self.position, self.now_us = GuardViews(), 0, 0
        shared = msgspec.structs.replace(CAN, pool_ids={"default": "w"})
        self.tell(*(NodeReported(node=NodeId(n), capabilities=shared, boot_id="b") for n in ("n1", "n2")))

    def tell(self, *events: Any) -> Recorded:
        for event in events:
            self.position += 1
            recorded = Recorded(self.position, "s", 1, "t", 1, self.now_us, b"", b"")
            self.views.apply(recorded, event)
        return recorded

    def after(self, event: Any) -> list[Any]:
        return list(react(event, self.tell(event), self.views))

    def define(self, *names: str, priority: Priority = Priority.NORMAL) -> None:
        for name in names:
            self.tell(msgspec.structs.replace(DEFINED, vm=VmId(name), priority=priority))

    def owe(self, *names: str, priority: Priority = Priority.NORMAL, **more: Any) -> None:
        for name in names:
            at_us = more.get("at_us", 0)
            self.tell(VmOwed(
                vm=VmId(name), cause=Cause.NODE_LOST, node=N1, generation=1, at_us=at_us, try_us=at_us, priority=priority
            ))  # fmt: skip

    def want(self, *names: str) -> None:
        for name in names:
            self.tell(RestartWanted(vm=VmId(name), attempt=1, at_us=self.now_us))

    def turns(self, now_us: int = 0) -> list[str]:
        return list(self.views.turns(now_us))


@pytest.fixture
def log() -> Log:
    return Log()


def lost(node: NodeId = N1) -> NodeLost:
    return NodeLost(node=node, boot_id="b", epoch=1, at_us=0, proof=Proof(kind=ProofKind.LEASE, at_us=0))


# --- turns ------------------------------------------------------------------------------------------------------------


def test_by_class_then_by_who_waits_longest_then_by_name(log: Log) -> None:
    log.owe("b", "a", at_us=1)
    log.owe("c", at_us=0)
    log.owe("z", priority=Priority.CRITICAL, at_us=9)
    log.owe("e", priority=Priority.BEST_EFFORT)
    assert log.turns(10) == ["z", "c", "a", "b", "e"]


def test_no_more_than_so_many_at_once(log: Log) -> None:
    log.tell(HaSet(settings=HaSettings(starts_max=2)))
    log.owe("a", "b", "c")
    assert log.turns() == ["a", "b"]
    log.want("a", "b")
    assert log.turns() == []
    log.tell(VmRecovered(vm=VmId("b"), node=N2, generation=2, after_ms=1))
    assert log.turns() == ["c"]
    log.tell(VmUnplaced(vm=VmId("a"), sentence="no", try_us=9 * S))
    assert log.turns() == ["c"]


def test_nothing_while_disarmed_and_while_held_what_is_owed_already(log: Log) -> None:
    log.owe("a")
    log.tell(HaDisarmed(reason="r", until_us=50))
    assert log.turns(49) == [] and log.turns(50) == ["a"]
    log.tell(HaArmed(), HaHeld(sentence="is it me?"))
    assert log.turns(60) == ["a"], "what ended is proven; the doubt is about others"


def test_one_waits_for_those_that_are_to_run_before_it_but_not_for_ever(log: Log) -> None:
    log.define("db", "web")
    log.tell(GuardSet(vm=VmId("web"), guard=Guard(after=("db",))))
    log.owe("web", "db")
    assert log.turns() == ["db"]
    log.want("db")
    assert log.turns() == []
    assert log.turns(AFTER_US_MAX - 1) == []
    assert "db" in log.views.turns(AFTER_US_MAX)["web"]
    assert log.after(VmRecovered(vm=VmId("db"), node=N2, generation=2, after_ms=1)) == [WantRestart(vm="web", now_us=0)]


def test_it_waits_also_for_what_is_about_to_be_owed(log: Log) -> None:
    """Its node is lost, or its end was seen, and the guard has not said so yet."""
    log.define("db", "web")
    log.tell(GuardSet(vm=VmId("web"), guard=Guard(after=("db",))))
    log.tell(VmStarted(vm=VmId("db"), node=N1, generation=1))
    log.owe("web")
    assert log.turns() == ["web"]
    log.tell(lost())
    assert log.turns() == []
    log.tell(VmStopped(vm=VmId("db"), node=N1, generation=1, cause=GoneCause.NODE_LOST, unwished=True))
    assert log.turns() == []
    log.tell(GuardEnded(vm=VmId("db"), sentence="given up", given_up=True))
    assert log.turns() == ["web"]


def test_an_unplaced_one_comes_again_when_something_changed_and_not_at_once(log: Log) -> None:
    log.owe("a")
    log.want("a")
    log.tell(VmUnplaced(vm=VmId("a"), sentence="no", try_us=80 * S))
    assert log.turns(79 * S) == [] and log.turns(80 * S) == ["a"]
    log.tell(NodeUncordoned(node=N2))
    assert log.turns(9 * S) == [] and log.turns(10 * S) == ["a"]
    assert enrich(WantRestart(vm="a", now_us=0), log.views, 10 * S).changed


def test_one_that_has_to_go_where_it_was_waits_for_its_node(log: Log) -> None:
    log.tell(GuardSet(vm=VmId("a"), guard=Guard(mode=Mode.IN_PLACE)))
    log.tell(lost())
    log.owe("a")
    assert log.turns() == []
    assert log.after(NodeReturned(node=N1, boot_id="b", epoch=2)) == [WantRestart(vm="a", now_us=0)]


def test_it_is_known_after_a_snapshot(log: Log) -> None:
    log.tell(lost(), GuardSet(vm=VmId("a"), guard=Guard(mode=Mode.IN_PLACE)))
    log.owe("a", "b")
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(log.views), type=GuardViews)
    assert list(again.turns(5)) == log.turns(5) == ["b"]


# --- what events mean -------------------------------------------------------------------------------------------------


def ended(cause: GoneCause = GoneCause.NODE_LOST, unwished: bool = True) -> VmStopped:
    return VmStopped(vm=VmId("a"), node=N1, generation=1, cause=cause, sentence="so", unwished=unwished)


@pytest.mark.parametrize(
    ("gone", "cause"),
    [
        (GoneCause.NODE_LOST, Cause.NODE_LOST), (GoneCause.LEASE_ENDED, Cause.NODE_LOST),
        (GoneCause.CRASHED, Cause.DIED), (GoneCause.UNKNOWN, Cause.DIED),
        (GoneCause.PANIC, Cause.PANIC), (GoneCause.HANG, Cause.HANG),
    ],
)  # fmt: skip
def test_an_end_against_its_will_is_owed(log: Log, gone: GoneCause, cause: Cause) -> None:
    assert log.after(ended(gone)) == [OweVm(vm="a", cause=cause, node="n1", generation=1, at_us=0, sentence="so")]
    assert log.after(ended(gone, unwished=False)) == []


def test_an_end_that_nobody_saw_on_a_lost_node_is_no_failure_of_its_own(log: Log) -> None:
    log.tell(lost())
    assert log.after(ended(GoneCause.UNKNOWN))[0].cause is Cause.NODE_LOST
    log.now_us = 5 * S
    log.tell(NodeReturned(node=N1, boot_id="b", epoch=2))
    log.now_us = 60 * S
    assert log.after(ended(GoneCause.UNKNOWN))[0].cause is Cause.NODE_LOST
    assert log.after(ended(GoneCause.CRASHED))[0].cause is Cause.DIED
    log.now_us = 66 * S
    assert log.after(ended(GoneCause.UNKNOWN))[0].cause is Cause.DIED


def test_neither_a_suspicion_nor_a_lost_node_starts_anything(log: Log) -> None:
    """Compute says what has ended. Nobody else."""
    log.define("a")
    log.tell(VmStarted(vm=VmId("a"), node=N1, generation=1))
    for event in (NodeSuspected(node=N1, at_us=0), NodeIsolated(node=N1, at_us=0, letter=1), lost()):
        assert log.after(event) == []


def test_what_compute_says_of_an_owed_one(log: Log) -> None:
    log.owe("a")
    runs = log.after(VmStarted(vm=VmId("a"), node=N2, generation=2))
    assert runs == [NoteRestart(vm="a", generation=2, node="n2", running=True, at_us=0)]
    denied = log.after(VmRestartDenied(vm=VmId("a"), attempt=3, sentence="no", remedy="yes"))
    assert denied == [NoteRestart(vm="a", attempt=3, sentence="no", remedy="yes", at_us=0)]
    for event in (
        VmStopRequested(vm=VmId("a"), node=N2, generation=2, deadline_s=5),
        VmLeftStopped(vm=VmId("a"), node=N1, generation=1),
        VmDeleted(vm=VmId("a")),
    ):
        assert [type(c) for c in log.after(event)] == [ReleaseVm], event
        log.owe("a")
    assert log.after(_start(0)) == [NoteHand(vm="a", node="n2")]
    failed = log.after(VmStartFailed(vm=VmId("a"), node=N2, generation=2, sentence="no"))
    assert failed == [NoteRestart(vm="a", by_hand=True, sentence="no", at_us=0)]
    verdict = VmStopRequested(vm=VmId("a"), node=N2, generation=2, deadline_s=0, cause=GoneCause.HANG)
    assert log.after(verdict) == [] and log.after(_start(1)) == []


def test_of_others_nothing_is_said(log: Log) -> None:
    for event in (
        VmStarted(vm=VmId("x"), node=N2, generation=2),
        VmRestartDenied(vm=VmId("x"), attempt=1, sentence="no"),
        VmStopRequested(vm=VmId("x"), node=N2, generation=2, deadline_s=5),
        VmDeleted(vm=VmId("x")),
    ):
        assert log.after(event) == []


def _start(attempt: int) -> VmStartRequested:
    return VmStartRequested(
        vm=VmId("a"), node=N2, generation=2, memory_mib=1, vcpus=1, priority=Priority.NORMAL, attempt=attempt,
        placement=Placement(policy="p"),
    )  # fmt: skip


# --- what a decision is to know -----------------------------------------------------------------------------------------


def noted(*disks: tuple[str, str, DiskBus]) -> VmDevicesNoted:
    made = tuple(
        Disk(name=f"disk{n}", pool=pool, file="f", size_mib=1, format=DiskFormat.QCOW2, serial="s", slot=n, pool_id=id, bus=bus)
        for n, (pool, id, bus) in enumerate(disks)
    )
    return VmDevicesNoted(vm=VmId("a"), generation=1, disks=made, nics=())


def test_why_it_cannot_be_started_elsewhere(log: Log) -> None:
    log.define("a")
    assert log.views.why_not("a") == ""
    log.tell(noted(("default", "w", DiskBus.VIRTIO_BLK), ("ssd", "l", DiskBus.CDROM)))
    assert log.views.why_not("a") == ""
    log.tell(noted(("default", "w", DiskBus.VIRTIO_BLK), ("ssd", "l", DiskBus.VIRTIO_BLK)))
    assert "pool ssd l" in log.views.why_not("a")
    log.tell(noted(("default", "other", DiskBus.VIRTIO_BLK)))
    assert "one node alone" in log.views.why_not("a"), "pools of one name are not one pool"
    log.tell(noted(("default", "w", DiskBus.VIRTIO_BLK)), lost())
    assert log.views.why_not("a") == "", "a lost node reaches what it reached"


def test_one_on_a_backup_can_be_started_only_where_that_is_reached(log: Log) -> None:
    log.define("a")
    shared = noted(("default", "w", DiskBus.VIRTIO_BLK))
    layer = Layer(file="f", format=DiskFormat.QCOW2, leaving=True, origin=Origin(vm="a", backup="b1-2", pool="ssd", pool_id="l"))
    log.tell(msgspec.structs.replace(shared, disks=(msgspec.structs.replace(shared.disks[0], layers=(layer,)),)))
    assert "pool ssd l" in log.views.why_not("a")
    log.tell(shared)
    assert log.views.why_not("a") == "", "its data is home"


def test_disks_that_move_along_are_where_the_guest_is(log: Log) -> None:
    """What was granted to the target is the VM's once its guest has left, and never where it did not."""
    log.define("a")
    log.tell(noted(("default", "w", DiskBus.VIRTIO_BLK)), VmStarted(vm=VmId("a"), node=N1, generation=1))
    there = msgspec.structs.replace(noted(("default", "other", DiskBus.VIRTIO_BLK)), generation=2)
    gone = msgspec.structs.replace(example(VmIncomingGone), vm=VmId("a"), generation=2)
    moved = msgspec.structs.replace(example(VmMigrated), vm=VmId("a"), node=N2, generation=2)
    log.tell(there)
    assert log.views.why_not("a") == ""
    log.tell(gone, moved)
    assert log.views.why_not("a") == "", "what was granted then is given back"
    log.tell(there, moved)
    assert "one node alone" in log.views.why_not("a")


def test_those_of_a_vm_that_was_found_are_its_own(log: Log) -> None:
    log.define("a")
    log.tell(msgspec.structs.replace(example(VmFound), vm=VmId("a"), generation=1))
    log.tell(noted(("default", "other", DiskBus.VIRTIO_BLK)))
    assert "one node alone" in log.views.why_not("a")


def test_a_guard_is_set_with_what_is_known(log: Log) -> None:
    log.define("a", "b", "c")
    log.tell(GuardSet(vm=VmId("b"), guard=Guard(after=("c",))), GuardSet(vm=VmId("c"), guard=Guard(after=("a",))))
    told = enrich(SetGuard(vm="a", after=("b", "x"), why_not="forged"), log.views, 0)
    assert told.defined and told.why_not == "" and told.unknown == ("x",) and told.circle == ("a", "b", "c")
    assert not enrich(SetGuard(vm="x", defined=True), log.views, 0).defined
    assert enrich(SetGuard(vm="a", after=("a",)), log.views, 0).circle == ("a",)
    log.tell(VmDeleted(vm=VmId("b")))
    assert enrich(SetGuard(vm="a", after=("c",)), log.views, 0).circle == ("a", "c")


def test_what_is_said_from_outside_counts_for_nothing(log: Log) -> None:
    forged = WantRestart(vm="a", now_us=1, turn=True, changed=True)
    told = enrich(forged, log.views, 5)
    assert (told.turn, told.changed, told.now_us) == (False, False, 5)
