"""What the rebalancer knows of the cluster, folded from events, and demand smoothed from telemetry."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, Recorded, VmId, encode
from libs.memory.promise import guaranteed_mib, promise_of
from proto.balance import ClusterLoad, MovePlanned, NoteMoveEnded, VmLoad
from proto.cluster import PlacementSet
from proto.compute import (
    Capabilities,
    GoneCause,
    NodeCordoned,
    NodeHealthChanged,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    Placement,
    VmAllotted,
    VmDevicesNoted,
    VmFound,
    VmStarted,
    VmStartFailed,
    VmStartRequested,
    VmStopped,
    VmStopRequested,
)
from proto.drain import DrainPlan, NodeDrainEnded, NodeDrainRequested
from proto.io import NetworkCreated
from proto.ladder import MemoryPolicy
from proto.machine import Allotment, Disk, DiskBus, DiskFormat, DiskWish, NicWish, Priority
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved
from proto.migration import (
    MigrateVm,
    VmIncomingGone,
    VmMigrated,
    VmMigrationEnded,
    VmMigrationRefused,
    VmMigrationRequested,
)
from proto.networks import Bridge, Wiring
from proto.placement import ClassRules, PlacementRules
from proto.plan import CpuBeat, PlanMade, VmCpuBeat
from services.compute.balance import wiring
from services.compute.balance.demand import GAP_US_MAX, TIME_US, Smoothed
from services.compute.balance.facts import REPLANNED_US, BalanceViews

N1, N2, WEB = NodeId("n1"), NodeId("n2"), VmId("web")
CAN = Capabilities(
    accelerator="kvm", cpu_model="x", pcpus=8, memory_mib=16_384, qemu_version="7", machine="q35", driver="qemu",
    pools=("default",), bridges=(Bridge(name="br0"),), tap_filter=True, share=2,
)  # fmt: skip
REQUESTED = VmStartRequested(
    vm=WEB, node=N1, generation=1, memory_mib=1000, vcpus=2, priority=Priority.NORMAL, placement=Placement(policy="p"),
    disks=(DiskWish(image="tiny"),), nics=(NicWish(network="blue"),),
)  # fmt: skip
GUARANTEED = guaranteed_mib(promise_of(1000, Priority.NORMAL))


def views(*events: object) -> BalanceViews:
    made = BalanceViews()
    made.apply(NetworkCreated(network="blue", wiring=Wiring(bridge="br0")))
    for node in (N1, N2):
        made.apply(NodeReported(node=node, capabilities=CAN, boot_id="b"))
        made.apply(CapacitySet(node=node, capacity_mib=8000, share_mib=1000, policy=MemoryPolicy(ratio_pct=200)))
    for event in events:
        made.apply(event)
    return made


def load(*events: object, away: str = "") -> ClusterLoad:
    return views(*events).load(lambda node: node != away)


def reserved(mib: int, charged: int) -> MemoryReserved:
    return MemoryReserved(
        node=N1, vm=WEB, generation=1, memory_mib=1100, reserved_mib=mib, charged_mib=charged, capacity_mib=8000
    )


def test_a_running_vm_with_all_that_the_plan_needs() -> None:
    found = load(REQUESTED, reserved(GUARANTEED + 300, 700), VmStarted(vm=WEB, node=N1, generation=1))
    assert found.vms == (
        VmLoad(vm=WEB, node=N1, vcpus=2, memory_mib=GUARANTEED, charged_mib=500, pools=("default",), networks=("blue",)),
    )
    first, second = found.nodes
    assert (first.pcpus, first.vcpus_max, first.memory_mib) == (4.0, 32, 7000)
    assert (first.kept_mib, first.kept_charged_mib) == (300, 200), "what the ledger holds beside it"
    assert (second.kept_mib, second.kept_charged_mib, second.pools, second.networks) == (0, 0, ("default",), ("blue",))


@pytest.mark.parametrize(
    "last",
    [REQUESTED, VmStopRequested(vm=WEB, node=N1, generation=1, deadline_s=5)],
    ids=["starting", "stopping"],
)
def test_what_starts_or_stops_takes_its_room_and_stays(last: object) -> None:
    started = () if last is REQUESTED else (REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))
    found = load(*started, reserved(GUARANTEED, 500), last)
    assert [vm.fixed for vm in found.vms] == ["is being started" if last is REQUESTED else "is being stopped"]
    assert (found.nodes[0].kept_mib, found.nodes[0].kept_charged_mib) == (0, 0)


def test_a_vm_on_its_way_is_on_both_nodes_until_it_is_on_one() -> None:
    asked = VmMigrationRequested(
        vm=WEB, node=N1, generation=1, to=N2, incoming=2, memory_mib=1000, vcpus=2, priority=Priority.NORMAL,
        placement=Placement(policy="p"), deadline_s=60,
    )  # fmt: skip
    started = (REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))

    def where(*events: object) -> list[tuple[str, str, str]]:
        return [(vm.vm, vm.node, vm.fixed) for vm in load(*started, *events).vms]

    assert where(asked) == [("web", "n1", "is being moved"), ("web@n2", "n2", "is being moved")]
    moved = VmMigrated(vm=WEB, node=N2, generation=2, source=N1, source_generation=1)
    assert where(asked, moved) == [("web", "n2", "is being moved")]
    assert where(asked, moved, VmMigrationEnded(vm=WEB, node=N2, generation=2)) == [("web", "n2", "")]
    failed = VmIncomingGone(vm=WEB, node=N2, generation=2, source=N1, source_generation=1)
    assert where(asked, failed) == [("web", "n1", "")]
    stopping = VmStopRequested(vm=WEB, node=N1, generation=1, deadline_s=5)
    assert where(asked, stopping, failed) == [("web", "n1", "is being stopped")]


@pytest.mark.parametrize(
    "end",
    [
        VmStopped(vm=WEB, node=N1, generation=1, cause=GoneCause.GUEST),
        VmStartFailed(vm=WEB, node=N1, generation=1, sentence="no"),
    ],
    ids=["stopped", "failed"],
)
def test_what_ended_is_forgotten(end: object) -> None:
    made = views(REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))
    made.hear("tel.n1.cpu", beat(N1, web=100), 1)
    assert made.demand
    made.apply(end)
    made.apply(MemoryReleased(node=N1, vm=WEB, generation=1, released_mib=1100))
    assert not made.demand and not made.load(lambda _: True).vms


def test_offline_and_removed_nodes_are_left_out_with_their_vms_and_cordoned_ones_take_none() -> None:
    started = (REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))

    def names(found: ClusterLoad) -> tuple[list[str], list[str]]:
        return [n.node for n in found.nodes], [v.vm for v in found.vms]

    assert names(load(*started)) == (["n1", "n2"], ["web"])
    assert names(load(*started, away="n1")) == (["n2"], [])
    assert names(load(*started, NodeCordoned(node=N1))) == (["n1", "n2"], ["web"])
    ill = NodeHealthChanged(node=N2, health_pct=10, reason="a disk is slow")

    def cordoned(*events: object) -> list[str]:
        return [n.node for n in load(*started, *events).nodes if n.cordoned]

    assert cordoned(NodeCordoned(node=N1), ill) == ["n1", "n2"]
    assert cordoned(NodeCordoned(node=N1), NodeUncordoned(node=N1), ill, replace(ill, health_pct=90)) == []
    assert names(load(*started, NodeRemoved(node=N2))) == (["n1"], ["web"])


def test_a_found_vm_runs_and_pins_hold_one_where_it_is() -> None:
    found = VmFound(
        vm=WEB, node=N1, generation=9, memory_mib=500, vcpus=1, priority=Priority.CRITICAL,
        allotment=Allotment(pins=(0,), apart="db", together="shop"),
    )  # fmt: skip
    (one,) = load(found).vms
    assert (one.fixed, one.apart, one.together, one.priority) == ("pinned to pCPUs", "db", "shop", Priority.CRITICAL)
    assert one.charged_mib == 500, "critical memory is never over-allocated"


def test_demand_is_smoothed_by_time_not_by_messages() -> None:
    once, often = Smoothed(1.0, 0), Smoothed(1.0, 0)
    once.hear(3.0, 60_000_000)
    for second in range(1, 61):
        often.hear(3.0, second * 1_000_000)
        often.hear(3.0, second * 1_000_000)
    assert once.pcpus == pytest.approx(often.pcpus)
    assert 1.0 < once.pcpus < 1.2, "a minute says little"
    for at_us in range(60_000_000, 2 * TIME_US, 60_000_000):
        once.hear(3.0, at_us)
    assert once.pcpus > 2.6, "half an hour says most"


def test_old_demand_is_not_mixed_with_new() -> None:
    smoothed = Smoothed(4.0, 0)
    smoothed.hear(1.0, GAP_US_MAX + 1)
    assert smoothed.pcpus == 1.0
    smoothed.hear(9.0, 5)
    assert smoothed.pcpus == 1.0, "what comes late is not news"


def test_a_nodes_own_beat_is_heard_of_its_own_vms() -> None:
    made = views(REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))
    made.hear("tel.n1.cpu", beat(N1, stranger=100), 1)
    made.hear("tel.n2.cpu", beat(N1, web=100), 1)
    made.hear("tel.n2.cpu", beat(N2, web=100), 1)
    assert not made.demand
    made.hear("tel.n1.cpu", beat(N1, web=150), 1)
    assert made.load(lambda _: True).vms[0].demand_pcpus == 1.5


def beat(node: NodeId, **demand_pct: float) -> bytes:
    vms = tuple(
        VmCpuBeat(
            vm=vm, generation=1, used_pct=0.0, ready_pct=0.0, throttled_pct=0.0, satisfaction_pct=100.0, demand_pct=pct
        )
        for vm, pct in demand_pct.items()
    )
    return encode(CpuBeat(node=node, at_us=1, window_ms=1000, steal_pct=0.0, vms=vms))


def test_what_is_set_later_holds_from_then_on() -> None:
    set = VmAllotted(vm=WEB, priority=Priority.CRITICAL, allotment=Allotment(pins=(1,)))
    (vm,) = load(REQUESTED, VmStarted(vm=WEB, node=N1, generation=1), set).vms
    assert (vm.fixed, vm.priority) == ("pinned to pCPUs", Priority.CRITICAL)


def test_a_disk_that_qemu_cannot_send_keeps_its_vm_where_it_is() -> None:
    disk = Disk(
        name="disk1", pool="default", file="f", size_mib=5, format=DiskFormat.QCOW2, serial="s", slot=2, bus=DiskBus.NVME
    )
    more = VmDevicesNoted(vm=WEB, generation=1, disks=(disk,), nics=(), changed=True)
    started = (REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))
    assert "nvme" in load(*started, more).vms[0].fixed
    assert load(*started, more, replace(more, disks=())).vms[0].fixed == ""


def test_vms_of_a_node_that_is_drained_or_was_planned_anew_stay() -> None:
    made = views(REQUESTED, VmStarted(vm=WEB, node=N1, generation=1))
    made.apply(PlanMade(node=N1, revision=2, policy="p", moved="web", gain_pct=9.0, at_us=1_000_000))
    (one,) = made.load(lambda _: True, REPLANNED_US).vms
    assert one.fixed == "its node was planned anew a moment ago"
    assert made.load(lambda _: True, 1_000_000 + REPLANNED_US).vms[0].fixed == ""
    made.apply(NodeDrainRequested(node=N1, plan=DrainPlan()))
    assert made.load(lambda _: True, 2 * REPLANNED_US).vms[0].fixed == "its node is being drained"
    made.apply(NodeDrainEnded(node=N1, sentence="s"))
    assert made.load(lambda _: True, 2 * REPLANNED_US).vms[0].fixed == ""


def test_limits_are_those_that_are_set() -> None:
    critical = replace(REQUESTED, priority=Priority.CRITICAL)
    rules = PlacementRules(vcpus_per_pcpu=4.0, nodes={"n2": 2.0}, classes={Priority.CRITICAL: ClassRules(vcpus_per_pcpu=1.0)})
    found = load(PlacementSet(rules=rules), critical, VmStarted(vm=WEB, node=N1, generation=1))
    assert [(n.node, n.vcpus_max) for n in found.nodes] == [("n1", 4), ("n2", 8)]
    assert found.vms[0].vcpus_per_pcpu == 1.0


def test_a_move_that_waits_for_its_turn_is_not_asked_for_and_a_refused_one_is_over() -> None:
    planned = MovePlanned(
        vm=WEB, source=N1, target=N2, reason="r", gain=0.2, score_before=1.0, score_after=0.8, policy="p", at_us=1, group="db",
    )  # fmt: skip
    recorded = Recorded(1, "s", 1, "t", 1, 7, b"", b"")
    made = views()
    assert wiring.react(replace(planned, waits=True), recorded, made) == ()
    (asked,) = wiring.react(planned, recorded, made)
    assert asked == MigrateVm(vm="web", node="n2", reason="rebalancing: r", with_group=True, planned=True)
    refused = VmMigrationRefused(vm=WEB, to="n2", refusal="NO_NODE_FITS", sentence="no node fits")
    assert wiring.react(refused, recorded, made) == (), "somebody else planned it"
    made.apply(replace(planned, waits=True))
    assert not made.moving
    made.apply(planned)
    (note,) = wiring.react(refused, recorded, made)
    assert note == NoteMoveEnded(vm="web", moved=False, now_us=7, sentence="no node fits")
