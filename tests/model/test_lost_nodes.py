"""What compute's views make of lost nodes: they get nothing until they are back; who is told of it, in which order; where a guard's
start goes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from libs.common.messages import NodeId, Recorded, VmId
from proto.compute import (
    LoseVm,
    NodeHealthChanged,
    NodeReported,
    NoteDevices,
    NoteMemory,
    RestartVm,
    StartVm,
    VmStartRequested,
)
from proto.guard import RestartWanted
from proto.lease import (
    HaSet,
    HaSettings,
    NodeIsolated,
    NodeLost,
    NodeOffProven,
    NodeReturned,
    NodeSuspected,
    Proof,
    ProofKind,
)
from proto.machine import Allotment, Disk, DiskBus, DiskFormat, Priority
from proto.memory import CapacitySet, MemoryReserved, Promise, Purpose
from proto.migration import VmMigrationRequested
from proto.placement import Filter, Placement
from services.compute.enriching import enrich
from services.compute.reach import protected
from services.compute.react import react
from services.memory import react as memory_react
from tests.model.test_fleet import NODES, VMS, Story
from tests.model.test_nodes import CAN

N0, N1, N2, N3 = NODES
SHARED = msgspec.structs.replace(CAN, pools=("net",), pool_ids={"net": "w"}, lease_pools=("net",), watchdog=True)
ROW = Recorded(1, "s", 1, "t", 1, 0, b"", b"")


def lost(node: NodeId = N0, kind: ProofKind = ProofKind.LEASE, boot: str = "b", **more: Any) -> NodeLost:
    return NodeLost(node=node, boot_id=boot, epoch=3, at_us=1, proof=Proof(kind=kind, at_us=1, **more))


def back(node: NodeId = N0, boot: str = "b") -> NodeReturned:
    return NodeReturned(node=node, boot_id=boot, epoch=4)


@pytest.fixture
def story() -> Story:
    story = Story()
    for node in NODES:
        story.join(node)
    for vm in VMS:
        story.define(vm)
    return story


def chosen(story: Story, command: Any = None) -> Placement:
    filled = enrich(command or StartVm(vm=VMS[0]), story.views, story.now_us)
    assert filled.choice is not None
    return filled.choice  # type: ignore[no-any-return]


def names(placement: Placement) -> set[str]:
    return {c.node for c in placement.candidates}


# --- lost, and back ---------------------------------------------------------------------------------------------------


def test_a_lost_node_gets_nothing_until_it_is_back(story: Story) -> None:
    story.tell(lost())
    choice = chosen(story)
    assert N0 not in names(choice) and {r.node: r.filter for r in choice.rejected} == {N0: Filter.LOST}
    story.tell(back())
    assert N0 in names(chosen(story))


def test_one_that_was_started_anew_is_back_once_it_has_said_what_it_has(story: Story) -> None:
    story.tell(lost(), back(boot="b2"))
    assert N0 not in names(chosen(story))
    story.tell(NodeReported(node=N0, capabilities=CAN, boot_id="b2"))
    assert N0 in names(chosen(story))
    story.tell(lost(boot="b2"), NodeReported(node=N0, capabilities=CAN, boot_id="b3"))
    assert N0 not in names(chosen(story)), "a word of its agent is not its return"
    story.tell(back(boot="b3"))
    assert N0 in names(chosen(story))


def test_boots_that_ha_names_otherwise_than_the_agent_keep_nobody_out(story: Story) -> None:
    story.tell(lost(boot=""), back(boot="other"))
    assert N0 in names(chosen(story))


def test_it_is_known_after_a_snapshot(story: Story) -> None:
    story.tell(lost())
    data = msgspec.msgpack.encode(story.views)
    story.views = msgspec.msgpack.decode(data, type=type(story.views))
    story.beat(N0)
    story.beat(N1)
    assert N0 not in names(chosen(story)) and N1 in names(chosen(story))


# --- who is told ------------------------------------------------------------------------------------------------------


def told(event: Any, story: Story) -> list[Any]:
    story.tell(event)
    return [c for c in react(event, ROW, story.views) if isinstance(c, LoseVm | RestartVm)]


def test_every_vm_of_the_node_hears_of_it_by_class_and_name(story: Story) -> None:
    a, b, c, d, e = VMS
    for vm, priority in ((b, Priority.NORMAL), (c, Priority.CRITICAL), (d, Priority.BEST_EFFORT), (a, Priority.NORMAL)):
        story.tell(msgspec.structs.replace(story.views.vms[vm], priority=priority))
        story.generation += 1
        story.tell(_start(vm, N0, priority))
    story.start(e, N1)
    commands = told(lost(sentence="silent"), story)
    assert [command.vm for command in commands] == [c, a, b, d]
    assert all(x.guarded and not x.everything and (x.node, x.epoch) == (N0, 3) for x in commands)


@pytest.mark.parametrize(
    ("kind", "named", "everything", "guarded"),
    [
        (ProofKind.LEASE, (), False, True),
        (ProofKind.FENCE, (), True, False),
        (ProofKind.OPERATOR, (), True, False),
        (ProofKind.CLEAN, (), True, False),
        (ProofKind.ACKNOWLEDGED, (), False, True),
        (ProofKind.ACKNOWLEDGED, ("v0",), True, False),
        (ProofKind.ACKNOWLEDGED, ("v1",), False, False),
    ],
)
def test_what_each_kind_of_proof_covers(
    story: Story, kind: ProofKind, named: tuple[str, ...], everything: bool, guarded: bool
) -> None:
    story.start(VMS[0], N0)
    (command,) = told(lost(kind=kind, vms=named), story)
    assert (command.everything, command.guarded) == (everything, guarded)


def test_a_later_proof_of_everything_tells_the_rest(story: Story) -> None:
    story.start(VMS[0], N0)
    told(lost(), story)
    word = Proof(kind=ProofKind.OPERATOR, at_us=2, sentence="it burnt")
    (command,) = told(NodeOffProven(node=N0, boot_id="b", epoch=3, at_us=2, proof=word), story)
    assert (command.vm, command.everything, command.epoch) == (VMS[0], True, 3)


def test_a_suspicion_tells_nobody(story: Story) -> None:
    story.start(VMS[0], N0)
    for event in (NodeSuspected(node=N0, at_us=1), NodeIsolated(node=N0, at_us=1, letter=1)):
        assert told(event, story) == []


def test_both_ends_of_a_migration_hear_of_theirs(story: Story) -> None:
    story.start(VMS[0], N0)
    story.tell(_move(VMS[0], N0, N1))
    assert [c.node for c in told(lost(N1), story)] == [N1]
    assert [c.node for c in told(lost(N0), story)] == [N0]


def test_what_was_sent_there_without_knowing_goes_on_elsewhere(story: Story) -> None:
    """Decided after the node was lost, before compute heard of it: the proof is not of that."""
    story.tell(lost(kind=ProofKind.FENCE))
    (command,) = told(_start(VMS[0], N0), story)
    assert (command.vm, command.node, command.everything, command.guarded) == (VMS[0], N0, False, False)
    story.start(VMS[1], N1)
    (command,) = told(_move(VMS[1], N1, N0), story)
    assert (command.node, command.everything, command.guarded) == (N0, False, False)
    assert told(_start(VMS[2], N1), story) == []


def _start(vm: VmId, node: NodeId, priority: Priority = Priority.NORMAL, **more: Any) -> VmStartRequested:
    return VmStartRequested(
        vm=vm, node=node, generation=1, memory_mib=256, vcpus=1, priority=priority, placement=Placement(policy="p"), **more
    )  # fmt: skip


def _move(vm: VmId, node: NodeId, to: NodeId) -> VmMigrationRequested:
    return VmMigrationRequested(
        vm=vm, node=node, generation=1, to=to, incoming=2, memory_mib=256, vcpus=1, priority=Priority.NORMAL,
        placement=Placement(policy="p"), deadline_s=60,
    )  # fmt: skip


# --- where a guard's start goes ---------------------------------------------------------------------------------------


def test_a_guards_wish_is_a_start_with_its_reasons(story: Story) -> None:
    wanted = RestartWanted(vm=VMS[0], attempt=2, at_us=1, not_node="n3", failover=True)
    (command,) = told(wanted, story)
    assert command == RestartVm(vm=VMS[0], attempt=2, not_node="n3", failover=True)
    choice = chosen(story, command)
    assert N3 not in names(choice) and names(choice) == {N0, N1, N2}
    here = chosen(story, RestartVm(vm=VMS[0], attempt=2, node="n1"))
    assert names(here) == {N1}


def test_healthy_nodes_come_first_and_sick_ones_before_none(story: Story) -> None:
    again = RestartVm(vm=VMS[0], attempt=1)
    for node, pct in ((N0, 60), (N1, 90), (N2, 10)):
        story.tell(NodeHealthChanged(node=node, health_pct=pct, reason="a disk is slow"))
    assert names(chosen(story, again)) == {N3}
    story.tell(lost(N3))
    choice = chosen(story, again)
    assert names(choice) == {N0, N1} and choice.relaxed == ()
    story.tell(lost(N0), lost(N1))
    assert not chosen(story).candidates, "nobody else is started there"
    choice = chosen(story, again)
    assert names(choice) == {N2} and choice.relaxed == (Filter.HEALTH,)
    story.tell(NodeHealthChanged(node=N2, health_pct=0, reason="not to be used"))
    assert not chosen(story, again).candidates


def test_vms_stay_apart_unless_nothing_else_fits_and_it_may_be(story: Story) -> None:
    for vm, node in zip(VMS, (None, N0, N1, N2), strict=False):
        story.define(vm, Allotment(apart="db"))
        if node is not None:
            story.start(vm, node)
    again = RestartVm(vm=VMS[0], attempt=1)
    assert names(chosen(story, again)) == {N3}
    story.tell(lost(N3))
    choice = chosen(story, again)
    assert names(choice) == {N0, N1, N2} and choice.relaxed == (Filter.APART,)
    assert not chosen(story).candidates, "a start by hand is held to it"
    story.tell(HaSet(settings=HaSettings(relax_apart=False)))
    assert not chosen(story, again).candidates


def test_the_share_that_is_kept_is_for_failover_alone(story: Story) -> None:
    for node in NODES:
        story.tell(CapacitySet(node=node, capacity_mib=4000, share_mib=3900))
    assert {r.filter for r in chosen(story).rejected} == {Filter.HA_RESERVE}
    assert not chosen(story, RestartVm(vm=VMS[0], attempt=1)).candidates
    assert names(chosen(story, RestartVm(vm=VMS[0], attempt=1, failover=True))) == set(NODES)
    for failover, purpose in ((True, Purpose.FAILOVER), (False, Purpose.START)):
        (wish,) = memory_react.react(_start(VMS[0], N0, attempt=1, failover=failover), ROW, None)
        assert wish.purpose is purpose  # type: ignore[attr-defined]


def test_a_denial_of_a_guards_start_is_answered_by_a_choice_of_the_same_kind(story: Story) -> None:
    for node in NODES:
        story.tell(CapacitySet(node=node, capacity_mib=4000, share_mib=3900))
    start = _start(VMS[0], N0, attempt=1, failover=True)
    story.tell(start)
    no = NoteMemory(vm=VMS[0], node=N0, generation=1, granted=False)
    assert names(chosen(story, no)) == {N1, N2, N3}


def test_a_full_node_says_what_it_lacks_with_the_share(story: Story) -> None:
    full = Promise(nominal_mib=3900, reservation_mib=3900)
    for node in NODES:
        story.tell(CapacitySet(node=node, capacity_mib=4000, share_mib=1000))
        story.tell(MemoryReserved(
            node=node, vm=VmId("x"), generation=1, memory_mib=3900, reserved_mib=3900, charged_mib=3900, capacity_mib=4000,
            promise=full,
        ))  # fmt: skip
    choice = chosen(story, RestartVm(vm=VMS[0], attempt=1, failover=True))
    assert {(r.filter, r.available) for r in choice.rejected} == {(Filter.MEMORY, 100)}


# --- protected --------------------------------------------------------------------------------------------------------


def disk(pool: str = "net", id: str = "w", bus: DiskBus = DiskBus.VIRTIO_BLK) -> Disk:
    return Disk(
        name="disk0", pool=pool, file="f", size_mib=1, format=DiskFormat.QCOW2, serial="s", slot=1, pool_id=id, bus=bus
    )  # fmt: skip


def test_protected_is_what_another_node_reaches_too_and_can_lock() -> None:
    net, weak = SHARED, msgspec.structs.replace(SHARED, lease_pools=())
    other = msgspec.structs.replace(net, pool_ids={"net": "another"})
    assert protected((disk(),), net, (net, net))
    assert not protected((disk(),), net, (net, other)), "pools of one name are not one pool"
    assert not protected((disk(),), net, (net,)) and not protected((disk(),), net, (net, weak))
    assert not protected((disk(),), weak, (weak, net, net)) and not protected((disk(),), None, (net, net))
    bare = msgspec.structs.replace(CAN, watchdog=True, lease_pools=("net",))
    assert not protected((disk(id=""),), bare, (bare, bare)), "a pool without a word is nobody's but the node's"
    assert not protected((disk(), disk("local", "l")), net, (net, net)), "one local disk is enough"
    assert protected((disk(), disk("local", "l", DiskBus.CDROM)), net, (net, net)), "a drive is not written"
    unwatched = msgspec.structs.replace(net, watchdog=False)
    assert not protected((disk(),), unwatched, (unwatched, net)), "nobody there would keep to the lease"


def test_it_is_told_when_devices_are_granted(story: Story) -> None:
    granted = NoteDevices(vm=VMS[0], node=N0, generation=1, granted=True, disks=(disk(),))
    assert not enrich(granted, story.views, story.now_us).protected
    for node in (N0, N1):
        story.tell(NodeReported(node=node, capabilities=SHARED, boot_id="b"))
    assert enrich(granted, story.views, story.now_us).protected
