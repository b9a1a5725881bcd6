"""What io knows of VMs and nodes when it decides about backups, what it orders, and what it does because of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from proto.backups import (
    BackupDeleted,
    BackupFailed,
    CancelBackup,
    EndBackup,
    TakeBackup,
)
from proto.compute import GoneCause, NodeRemoved, NodeReported, VmDeleted, VmStarted, VmStopped, VmStopRequested
from proto.devices import VmPhase
from proto.growth import VmReshaped, VmResized
from proto.io import Change, ChangeKind, DevicesChanged, DevicesRevoked, DisksSettled
from proto.lease import NodeLost, Proof, ProofKind
from proto.machine import Allotment, DiskWish, NicWish, Priority
from proto.migration import VmMigrated
from proto.node import OrderBackup, OrderBackupRemoval, OrderBackupVerify
from proto.plan import VmAllotted
from proto.recovery import RecoverVm
from services.io.backups.model import BACKUPS
from services.io.react import orders, react
from services.io.views import Views, enrich
from tests.model.backup_story import (
    B1,
    B2,
    B3,
    DELETE,
    IN_PLACE,
    MADE,
    RECOVER,
    TAKE,
    THREE,
    VERIFY,
    after,
    asked,
    story,
    there,
)
from tests.model.compute_story import DEFINED, REQUESTED, SHAPE
from tests.model.io_story import GRANTED, HERE, IMPORTED, N1, N2, A, seen
from tests.model.test_io_backups_removed import DELETING, HEIRS, VERIFYING
from tests.model.test_nodes import CAN

NOW = 1_000_000
N3 = NodeId("n3")
BOTH = replace(CAN, pools=("default", "safe"), pool_ids={"default": "p1", "safe": "s1"})
APART = replace(CAN, pools=("default",), pool_ids={"default": "p1"})
OTHER = replace(CAN, pools=("safe",), pool_ids={"safe": "s2"})
NODES = tuple(NodeReported(node=n, capabilities=can, boot_id="b") for n, can in ((N1, BOTH), (N2, BOTH), (N3, OTHER)))
AT_P1 = replace(GRANTED, disks=tuple(replace(d, pool_id="p1") for d in GRANTED.disks))
RUNNING = (DEFINED, AT_P1, DisksSettled(vm=A, generation=1), VmStarted(vm=A, node=N1, generation=1))
STOPPED = VmStopped(vm=A, node=N1, generation=1, cause=GoneCause.GUEST)
RESTING = (*RUNNING, STOPPED, DevicesRevoked(vm=A, generation=1))


def lost(node: NodeId, kind: ProofKind = ProofKind.FENCE) -> NodeLost:
    return NodeLost(node=node, boot_id="b", epoch=1, at_us=0, proof=Proof(kind=kind, at_us=0))


def views(*events: Any, heard: tuple[str, ...] = ("n1", "n2")) -> Views:
    return seen(*NODES, *events, heard=heard)


def known(*events: Any, pool: str = "safe", heard: tuple[str, ...] = ("n1", "n2")) -> Any:
    return enrich(TakeBackup(vm="a", pool=pool), views(*events, heard=heard), NOW).known


# --- what a VM is ------------------------------------------------------------------------------------------------------------


def test_a_vm_that_runs_is_backed_up_where_it_is() -> None:
    what = known(*RUNNING)
    assert (what.phase, what.node, what.generation, what.reached) == (VmPhase.RUNNING, "n1", 1, True)
    assert [(d.name, d.made) for d in what.disks] == [("disk0", True), ("disk1", True)]
    assert (what.room.name, what.room.id) == ("safe", "s1")
    assert known().definition is None
    assert known(*RUNNING, VmDeleted(vm=A, node="n1")).definition is None


def test_a_vm_that_never_ran_has_no_disks_to_back_up() -> None:
    what = known(DEFINED)
    assert (what.phase, what.disks, what.generation) == (VmPhase.STOPPED, (), 0)
    assert what.definition.disks == DEFINED.disks


def test_the_definition_is_what_it_is_by_now() -> None:
    shaped = replace(SHAPE, vcpus_max=8, memory_max_mib=2048)
    worth = Allotment(cpu_weight=7)
    grown = VmResized(
        vm=A, node=N1, generation=1, vcpus=2, memory_mib=512, priority=Priority.NORMAL, allotment=Allotment()
    )
    detached = Change(kind=ChangeKind.DETACH_DISK, name="disk1", slot=2)
    change = DevicesChanged(vm=A, node=N1, generation=1, disks=AT_P1.disks[:1], nics=(), leaving=(), change=detached)
    allotted = VmAllotted(vm=A, priority=Priority.CRITICAL, allotment=worth)
    what = known(DEFINED, VmReshaped(vm=A, shape=shaped), *RUNNING[1:], grown, allotted, change).definition
    assert what.shape == replace(shaped, vcpus=2, memory_mib=512)
    assert (what.priority, what.allotment, what.boot_image) == (Priority.CRITICAL, worth, "tiny")
    assert what.disks == (DiskWish(size_mib=64, image="tiny"),) and what.nics == ()
    assert known(*RUNNING).definition.nics == (NicWish(),)


def test_where_its_node_lacks_the_pool_those_that_have_it_are_named() -> None:
    away = replace(NODES[0], capabilities=APART)
    what = known(*RUNNING, away)
    assert (what.reached, what.has, what.nodes) == (False, ("default",), ("n2", "n3"))
    nowhere = known(*RUNNING, pool="far")
    assert (nowhere.reached, nowhere.nodes) == (False, ())


def test_at_rest_a_node_is_asked_that_reaches_both() -> None:
    """The last that had it, while that is heard; n3 has another pool of that name, and not its disks."""
    assert (known(*RESTING).node, known(*RESTING).generation) == ("n1", 0)
    assert known(*RESTING, heard=("n2", "n3")).node == "n2"
    assert known(*RESTING, heard=()).node == "n1"
    assert known(*RESTING, replace(NODES[0], capabilities=APART)).node == "n2"
    alone = known(*RESTING, *(replace(one, capabilities=APART) for one in NODES[:2]))
    assert (alone.node, alone.reached, alone.nodes) == ("", False, ("n3",))


def test_what_is_said_from_outside_is_not_believed() -> None:
    told = replace(TAKE, known=replace(TAKE.known, node="n9"))
    assert enrich(told, views(*RUNNING), NOW).known.node == "n1"
    for command in (replace(DELETE, node="n9"), replace(VERIFY, node="n9"), EndBackup(vm="a", backup=B1, sentence="s", node="n9")):
        assert enrich(command, views(), NOW).node == ""
    assert enrich(RECOVER, views(), NOW).known.nodes == {}


def test_what_is_asked_of_a_backup_goes_to_a_node_that_reaches_it() -> None:
    here = views(*RUNNING, *THREE)
    assert (enrich(DELETE, here, NOW).node, enrich(DELETE, here, NOW).room.name) == ("n1", "safe")
    assert enrich(VERIFY, views(*RUNNING, *THREE, heard=("n2",)), NOW).node == "n2"
    assert enrich(VERIFY, views(*THREE, *(replace(one, capabilities=OTHER) for one in NODES)), NOW).node == "", "of that name only"
    deleting = views(*THREE, *after(*THREE, command=replace(DELETE, node="n1")))
    assert enrich(EndBackup(vm="a", backup=B1, sentence="s", removed=True), deleting, NOW).node == "n2"


def test_a_recovery_is_told_of_the_name_and_of_who_reaches_what() -> None:
    def told(command: RecoverVm, *events: Any) -> Any:
        return enrich(command, views(*events), NOW).known

    free = told(RECOVER, *THREE, *RUNNING)
    assert free.phase is VmPhase.UNKNOWN and free.images == ()
    assert free.nodes == dict.fromkeys((B1, B2, B3), ("n1", "n2"))
    assert told(replace(RECOVER, backup=B2), *THREE).nodes == {B2: ("n1", "n2")}
    assert told(IN_PLACE, *THREE, *RUNNING, IMPORTED).phase is VmPhase.RUNNING
    assert told(IN_PLACE, *THREE, IMPORTED).images == ("tiny",)
    gone = (*THREE, BackupDeleted(vm=A, backup=B3))
    assert set(told(RECOVER, *gone).nodes) == {B1, B2}


# --- what is ordered ---------------------------------------------------------------------------------------------------------


def ordered(events: Sequence[Any]) -> dict[str, Any]:
    state = BACKUPS.fold(events)
    found = orders("backups-a", state, state.version)
    assert isinstance(found, Sequence)
    return {one.node: one.message for one in found}


def test_its_agent_is_told_all_that_it_needs() -> None:
    wish = asked(*THREE)
    assert ordered([*THREE, wish]) == {
        N1: OrderBackup(
            vm="a", version=7, backup="b1-7", generation=1, pool="safe", disks=MADE, definition=wish.definition, parent=B3,
            parents=(B3, B2, B1),
        )
    }  # fmt: skip
    assert ordered(THREE) == {}
    disks = {one.id: one.disks for one in BACKUPS.fold(THREE).backups}
    removal = OrderBackupRemoval(vm="a", version=7, backup=B1, pool="safe", heirs={B2: disks[B2]})
    assert ordered(DELETING) == {N2: removal}
    middle = ordered([*THREE, *after(*THREE, command=replace(DELETE, backup=B2))])[N2]
    assert (middle.below, set(middle.heirs)) == (B1, {B3})
    assert ordered(VERIFYING) == {N2: OrderBackupVerify(vm="a", version=7, backup=B3, pool="safe", backups=disks)}


def test_what_is_given_up_is_removed() -> None:
    cancelled = (*THREE, asked(*THREE))
    cancelled += after(*cancelled, command=CancelBackup(vm="a", backup="b1-7"))
    assert ordered(cancelled) == {N1: OrderBackupRemoval(vm="a", version=8, backup="b1-7", pool="safe")}


def test_an_order_stays_as_it_is_while_the_stream_goes_on() -> None:
    """An agent begins anew with what is ordered anew."""
    for events in ([*THREE, asked(*THREE)], VERIFYING):
        held = [*events, *after(*events, command=RECOVER)]
        assert ordered(held) == ordered(events)


def test_what_is_left_is_removed_when_its_node_has_nothing_else_to_do() -> None:
    """A node hears of one thing of a stream at a time; each order of it is newer than the one before."""
    failed = (asked(), BackupFailed(vm=A, backup=B1, sentence="a ended", left=True))
    leftover = OrderBackupRemoval(vm="a", version=2, backup=B1, pool="safe")
    assert ordered(failed) == {N1: leftover}
    on_n1 = (*failed, asked(*failed))
    assert ordered(on_n1)[N1].backup == "b1-3"
    on_n2 = (*failed, replace(asked(*failed), node=N2))
    assert {node: one.backup for node, one in ordered(on_n2).items()} == {N1: B1, N2: "b1-3"}
    again = (*on_n1, BackupFailed(vm=A, backup="b1-3", sentence="a ended", left=True))
    assert ordered(again) == {N1: replace(leftover, version=4)}
    assert ordered([*again, BackupDeleted(vm=A, backup=B1)])[N1].backup == "b1-3"


# --- what becomes of others' events ------------------------------------------------------------------------------------------

TAKING = asked()
AT_REST = replace(TAKING, generation=0)
MOVED = VmMigrated(vm=A, node=N2, generation=2, source=N1, source_generation=1)
START = replace(REQUESTED, generation=2)


def ended(event: Any, *before: Any) -> list[EndBackup]:
    """What io says to itself, of backups."""
    here = views(*RUNNING, *before, event)
    return [one for one in react(event, HERE, here) if isinstance(one, EndBackup)]


@pytest.mark.parametrize("event", [STOPPED, MOVED], ids=["stopped", "moved"])
def test_the_end_of_its_process_is_the_end_of_what_is_taken_of_it(event: Any) -> None:
    (said,) = ended(event, TAKING)
    assert said.backup == B1 and said.sentence and not said.removed
    assert ended(event) == []
    assert ended(event, *THREE) == [] and ended(event, *VERIFYING) == []
    assert ended(event, replace(TAKING, generation=3)) == [], "another process"
    assert ended(event, AT_REST) == []
    assert ended(event, TAKING, BackupFailed(vm=A, backup=B1, sentence="s")) == []


def test_to_run_is_worth_more_than_to_be_backed_up_at_rest() -> None:
    (said,) = ended(START, AT_REST)
    assert "was started" in said.sentence
    assert ended(START, TAKING) == []
    assert ended(START) == [] and ended(START, *VERIFYING) == []


def test_what_was_decided_on_an_older_view_is_given_up_too() -> None:
    """The VM had ended, or was started, before the wish came into the log."""
    assert ended(TAKING) == []
    assert ended(TAKING, VmStopRequested(vm=A, node=N1, generation=1, deadline_s=1)) == []
    assert [one.backup for one in ended(TAKING, STOPPED)] == [B1]
    assert ended(AT_REST, STOPPED) == []
    assert [one.backup for one in ended(AT_REST)] == [B1]
    assert [one.backup for one in react(TAKING, HERE, views(TAKING)) if isinstance(one, EndBackup)] == [B1], "it was deleted"


def test_a_lost_nodes_work_is_given_up_or_is_anothers() -> None:
    assert [one.backup for one in ended(lost(N1), AT_REST)] == [B1]
    assert ended(lost(N2), AT_REST) == []
    assert [one.backup for one in ended(lost(N2), *VERIFYING)] == [B3]
    assert [one.backup for one in ended(lost(N2), *DELETING)] == [B1]
    assert ended(lost(N2, ProofKind.LEASE), *DELETING) == [], "it may still write there"
    assert [one.backup for one in ended(lost(N2, ProofKind.LEASE), *VERIFYING)] == [B3]


def test_a_removed_node_does_nothing_any_more() -> None:
    failed = (TAKING, BackupFailed(vm=A, backup=B1, sentence="s", left=True))
    for before, backup in ((DELETING, B1), (VERIFYING, B3)):
        (said,) = ended(NodeRemoved(node=N2), *before)
        assert (said.backup, said.removed) == (backup, True)
    (said,) = ended(NodeRemoved(node=N1), *failed)
    assert (said.backup, said.removed) == (B1, True)
    assert ended(NodeRemoved(node=N1), *failed, BackupDeleted(vm=A, backup=B1)) == []
    assert ended(NodeRemoved(node=N1), *failed, *THREE[2:4]) != []


def test_views_follow_what_was_decided() -> None:
    """What they hold of backups is what the streams hold."""
    cancelled = (*THREE, asked(*THREE))
    cancelled += after(*cancelled, command=CancelBackup(vm="a", backup="b1-7"))
    assert views(*cancelled).backups.doing["a"].backup == "b1-7", "its node is still to remove it"
    gone = (*DELETING, BackupDeleted(vm=A, backup=B1, heirs=HEIRS))
    for events in (THREE, DELETING, VERIFYING, gone, story(TAKE, VERIFY, DELETE)):
        part, state = views(*events).backups, BACKUPS.fold(events)
        assert set(part.saved.get("a", {})) == set(there(events))
        assert ("a" in part.doing) == (state.doing is not None)
    verifying = (*VERIFYING, *after(*VERIFYING, command=CancelBackup(vm="a", backup=B3)))
    assert views(*verifying).backups.doing == {}


@pytest.mark.parametrize("events", [(*THREE, TAKING), DELETING, VERIFYING], ids=["taken", "deleted", "read again"])
def test_what_was_decided_of_a_node_that_had_been_removed_by_then_is_over(events: tuple[Any, ...]) -> None:
    """Its removal came into the log between what io knew and what it decided: nobody hears of that node again."""
    *before, wish = events
    gone = NodeRemoved(node=NodeId(str(wish.node)))
    (said,) = ended(wish, *before, gone)
    assert (said.backup, said.removed) == (wish.backup, True) and f"{wish.node} was removed" in said.sentence
    assert ended(wish, *before) == []


def test_what_a_removed_node_may_have_left_is_nobodys_to_remove() -> None:
    failed = BackupFailed(vm=A, backup=B1, sentence="s", left=True)
    (said,) = ended(failed, TAKING, NodeRemoved(node=N1))
    assert (said.backup, said.removed) == (B1, True)
    assert ended(failed, TAKING) == [] and ended(replace(failed, left=False), TAKING, NodeRemoved(node=N1)) == []
