"""Placement: hard filters with their numbers, one score, the same choice from the same facts; and the views that feed it."""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import NodeId, Recorded, VmId
from proto.compute import (
    DefineVm,
    GoneCause,
    ImageFacts,
    NodeCordoned,
    NodeJoined,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    NoteMemory,
    RemoveNode,
    StartVm,
    VmDeleted,
    VmStartFailed,
    VmStopped,
)
from proto.io import ImageDeleteRequested, ImageImported, ImageInfo
from proto.machine import DiskFormat, DiskWish
from proto.memory import CapacitySet, MemoryReleased, MemoryReserved
from proto.networks import Bridge, Network
from proto.node import Beat
from proto.placement import Filter, Placement, Rejected
from services.compute.enriching import enrich
from services.compute.fleet import HINT_US_MAX, SILENCE_US_MAX
from services.compute.hearing import hear
from services.compute.networks import Ground
from services.compute.policy import NAMES_MAX, NodeFacts, Wishes, place, vcpus_max
from services.compute.reasons import explain
from services.compute.views import Views
from tests.model.compute_story import BOOT, DEFINED, N1, N2, N3, choice, requested
from tests.model.test_nodes import CAN

FREE = NodeFacts(
    node=N1, online=True, cordoned=False, pcpus=2, vcpus_promised=0, memory_capacity_mib=4096, memory_reserved_mib=0,
    pools=("default",), bridges=(Bridge(name="br0"),),
)  # fmt: skip
WISH = Wishes(vcpus=1, memory_mib=256, pools=("default",))
ON_BR0 = Ground(network=Network(name="blue", bridge="br0", trusted=True))
ON_BR1 = Ground(network=Network(name="red", bridge="br1", vlan=5))


def facts(**changes: object) -> NodeFacts:
    return msgspec.structs.replace(FREE, **changes)


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "node", "rejected"),
    [
        (Wishes(vcpus=1, memory_mib=1, node="n2"), FREE, Rejected(node=N1, filter=Filter.NOT_ASKED)),
        (WISH, facts(online=False, cordoned=True), Rejected(node=N1, filter=Filter.OFFLINE)),
        (WISH, facts(cordoned=True), Rejected(node=N1, filter=Filter.CORDONED)),
        (WISH, facts(pools=()), Rejected(node=N1, filter=Filter.POOL, needed=1)),
        (
            Wishes(vcpus=1, memory_mib=1, networks=(ON_BR0, ON_BR1)),
            FREE,
            Rejected(node=N1, filter=Filter.NETWORK, needed=1, reason="no bridge br1, on which network red lies; it has br0"),
        ),
        (WISH, facts(vcpus_promised=16), Rejected(node=N1, filter=Filter.CPU_LIMIT, needed=1, available=0)),
        (
            WISH,
            facts(memory_reserved_mib=4000),
            Rejected(node=N1, filter=Filter.MEMORY, needed=256, available=96),
        ),
    ],
    ids=lambda x: x.filter if isinstance(x, Rejected) else "",
)
def test_each_filter_names_itself_and_its_numbers(wish: Wishes, node: NodeFacts, rejected: Rejected) -> None:
    placement = place(wish, [node])
    assert placement.rejected == (rejected,) and not placement.candidates


def test_a_tried_node_is_named_as_such_even_when_it_went_away() -> None:
    placement = place(WISH, [facts(online=False)], tried=["n1"])
    assert placement.rejected == (Rejected(node=N1, filter=Filter.TRIED),)


def test_the_node_that_a_vm_leaves_is_named_as_its_source() -> None:
    wish = msgspec.structs.replace(WISH, source="n1")
    placement = place(wish, [FREE, facts(node=N2)])
    assert [c.node for c in placement.candidates] == ["n2"]
    assert placement.rejected == (Rejected(node=N1, filter=Filter.SOURCE),)


def test_a_whole_group_may_go_where_none_of_it_is_yet() -> None:
    nodes = [facts(together=("db",)), facts(node=N2)]
    alone = msgspec.structs.replace(WISH, together="db", source="n1")
    assert [r.filter for r in place(alone, nodes).rejected] == [Filter.SOURCE, Filter.TOGETHER]
    assert place(msgspec.structs.replace(alone, with_group=True), nodes).candidates[0].node == "n2"


def test_an_ill_node_gets_the_last_of_the_vms_and_a_very_ill_one_none_with_its_reason() -> None:
    ill = facts(health=60, health_reason="a disk is slow")
    placement = place(WISH, [ill, facts(node=N2, vcpus_promised=2)])
    assert [c.node for c in placement.candidates] == ["n2", "n1"]
    assert placement.candidates[1].terms["health"] == -0.4
    very = msgspec.structs.replace(ill, health=10)
    rejected = Rejected(node=N1, filter=Filter.HEALTH, needed=25, available=10, reason="a disk is slow")
    assert place(WISH, [very]).rejected == (rejected,)
    assert "n1 (at 10 %, 25 needed: a disk is slow)" in explain(place(WISH, [very]))[0]


@pytest.mark.parametrize(
    ("node", "term"),
    [
        (facts(), 0.0),
        (facts(load=2.5), -0.5),
        (facts(load=2.5, steal_pct=50), -1.0),
        (facts(load=1.0, ready_pct=20), -0.2),
        (facts(load=2.0, ready_pct=20), -0.45),
    ],
)
def test_contention_counts_what_is_wanted_stolen_and_waited_for(node: NodeFacts, term: float) -> None:
    assert place(WISH, [node]).candidates[0].terms.get("contention", 0.0) == term


def test_the_limit_of_a_class_holds_where_it_is_lower_than_the_nodes() -> None:
    critical = msgspec.structs.replace(WISH, vcpus_per_pcpu=2.0)
    assert place(critical, [facts(vcpus_promised=3)]).candidates
    rejected = Rejected(node=N1, filter=Filter.CPU_LIMIT, needed=1, available=0)
    assert place(critical, [facts(vcpus_promised=4)]).rejected == (rejected,)
    assert place(WISH, [facts(vcpus_promised=4)]).candidates


def test_a_cell_fits_by_what_is_left_of_both_in_the_same_cell() -> None:
    wish = msgspec.structs.replace(WISH, vcpus=4, memory_mib=1000, one_cell=True)
    split = facts(pcpus=8, cells=((8, 500), (1, 3000)))
    assert place(wish, [split]).rejected == (Rejected(node=N1, filter=Filter.NUMA),)
    assert place(msgspec.structs.replace(wish, one_cell=False), [split]).candidates[0].terms["numa"] == -0.5
    assert place(wish, [facts(pcpus=8, cells=((8, 500), (4, 1000)))]).candidates[0].terms.get("numa", 0.0) == 0.0


def test_a_share_of_a_small_host_still_runs_something() -> None:
    assert vcpus_max(facts(pcpus=2 / 3)) == 5
    assert vcpus_max(facts(pcpus=0.01)) == 1


# --- score --------------------------------------------------------------------------------------------------------


def test_the_emptiest_node_comes_first_and_equals_go_by_name() -> None:
    busy = facts(node=N1, vcpus_promised=4)
    full = facts(node=N2, memory_reserved_mib=3000)
    free = facts(node=N3)
    twin = facts(node=NodeId("n4"))
    expected = ["n3", "n4", "n1", "n2"]
    for order in permutations([busy, full, free, twin]):
        assert [c.node for c in place(WISH, order).candidates] == expected
    best = place(WISH, [free]).candidates[0]
    assert best.terms == {"cpu_used": 0.0625, "memory_used": 0.0625, "room": 0.9375} and best.score == 0.9375


def test_one_scarce_resource_weighs_more_than_two_half_used() -> None:
    even = facts(node=N1, vcpus_promised=7, memory_reserved_mib=1792)
    skewed = facts(node=N2, vcpus_promised=14, memory_reserved_mib=0)
    assert [c.node for c in place(WISH, [even, skewed]).candidates] == ["n1", "n2"]


nodes = st.lists(
    st.builds(
        NodeFacts, node=st.sampled_from([NodeId(f"n{i}") for i in range(6)]), online=st.booleans(), cordoned=st.booleans(),
        pcpus=st.floats(0, 64), vcpus_promised=st.integers(0, 600), memory_capacity_mib=st.integers(0, 10_000),
        memory_reserved_mib=st.integers(0, 12_000), pools=st.sampled_from([(), ("default",)]),
    ),
    unique_by=lambda n: n.node,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(nodes, st.lists(st.sampled_from(["n0", "n1"])))
def test_every_node_is_answered_once_and_order_does_not_matter(all: list[NodeFacts], tried: list[str]) -> None:
    placement = place(WISH, all, tried)
    named = [c.node for c in placement.candidates] + [x.node for x in placement.rejected]
    assert sorted(named) == sorted(n.node for n in all)
    assert place(WISH, list(reversed(all)), tried) == placement
    by_name = {n.node: n for n in all}
    for candidate in placement.candidates:
        node = by_name[candidate.node]
        assert node.vcpus_promised + WISH.vcpus <= vcpus_max(node) and candidate.node not in tried
        assert node.memory_reserved_mib + WISH.memory_mib <= node.memory_capacity_mib
    sentence, remedy = explain(msgspec.structs.replace(placement, candidates=()))
    assert sentence and remedy


# --- sentences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rejected", "asked", "sentence", "remedy"),
    [
        ((), "", "the cluster has no nodes", "join a node"),
        ((Rejected(node=N1, filter=Filter.NOT_ASKED),), "n9", "no node is named n9", "name a node"),
        ((Rejected(node=N1, filter=Filter.CORDONED),), "", "no node fits: cordoned: n1", "uncordon n1"),
        ((Rejected(node=N1, filter=Filter.OFFLINE),), "", "no node fits: offline: n1", "bring n1 back"),
        (
            (Rejected(node=N1, filter=Filter.CPU_LIMIT, needed=4, available=3),),
            "",
            "no node fits: short of vCPUs: n1 (3 of 4 vCPUs free)",
            "free 1 vCPUs on n1",
        ),
        (
            (Rejected(node=N1, filter=Filter.POOL, needed=1),),
            "",
            "no node fits: without a storage pool",
            "add the pool",
        ),
        ((Rejected(node=N1, filter=Filter.TRIED),), "", "no node fits: already tried", "start it again"),
    ],
)
def test_a_refusal_says_what_would_help(rejected: tuple[Rejected, ...], asked: str, sentence: str, remedy: str) -> None:
    said = explain(Placement(policy="p", rejected=rejected), asked)
    assert said[0].startswith(sentence) and said[1].startswith(remedy)


def test_a_sentence_names_few_nodes() -> None:
    many = tuple(Rejected(node=NodeId(f"n{i}"), filter=Filter.OFFLINE) for i in range(50))
    assert f"{50 - NAMES_MAX} more" in explain(Placement(policy="p", rejected=many))[0]


# --- views --------------------------------------------------------------------------------------------------------

RECORDED = Recorded(1, "s", 1, "t", 1, 0, b"", b"")
NOW_US = 100_000_000
TINY = ImageImported(
    image="tiny", pool="default", info=ImageInfo(format=DiskFormat.QCOW2, size_mib=64, sha256="0" * 64), boot=BOOT
)
CLUSTER = (
    *(NodeJoined(node=n, key="k") for n in (N1, N2, N3)),
    *(NodeReported(node=n, capabilities=CAN, boot_id="b") for n in (N1, N2)),
    *(CapacitySet(node=n, capacity_mib=1000) for n in (N1, N2)),
    TINY,
    DEFINED,
)


def beat(node: str) -> bytes:
    return msgspec.msgpack.encode(Beat(node=node, boot_id="b", at_us=0, free_mib=0, load=0.0))


def seen(*events: object, heard: tuple[str, ...] = ("n1", "n2")) -> Views:
    views = Views()
    for event in (*CLUSTER, *events):
        views.apply(RECORDED, event)
    for node in heard:
        hear(f"tel.{node}.beat", beat(node), NOW_US, views)
    return views


def chosen(views: Views, now_us: int = NOW_US, node: str = "") -> Placement:
    command = enrich(StartVm(vm="a", node=node), views, now_us)
    assert command.choice is not None
    result: Placement = command.choice
    return result


def test_a_node_is_online_while_its_heartbeats_come_in_its_own_name() -> None:
    views = seen(heard=("n1",))
    hear("tel.n1.beat", beat("n2"), NOW_US, views)
    hear("tel.n9.beat", beat("n9"), NOW_US, views)
    assert [r.filter for r in chosen(views).rejected] == [Filter.OFFLINE, Filter.NEVER_REPORTED]
    assert chosen(views, NOW_US + SILENCE_US_MAX).candidates
    assert not chosen(views, NOW_US + SILENCE_US_MAX + 1).candidates
    assert not chosen(seen(heard=())).candidates, "a node that never beat"


def test_a_node_without_a_hello_is_not_asked_for_anything_and_is_named_as_such() -> None:
    placement = chosen(seen(heard=("n1", "n2", "n3")))
    assert [c.node for c in placement.candidates] == ["n1", "n2"]
    assert placement.rejected == (Rejected(node=N3, filter=Filter.NEVER_REPORTED),)
    assert explain(msgspec.structs.replace(placement, candidates=()))[1] == "start the agent of n3"


def test_promises_count_from_the_choice_to_the_end() -> None:
    request = requested(N1, 1, choice(N1))
    reserved = MemoryReserved(node=N1, vm=VmId("a"), generation=1, memory_mib=356, reserved_mib=356, capacity_mib=1000)
    views = seen(request, reserved)
    n1 = views.facts(NOW_US)[0]
    assert (n1.vcpus_promised, n1.memory_reserved_mib, n1.memory_capacity_mib) == (1, 356, 1000)
    assert chosen(views).candidates[0].node == "n2"
    ends = (
        VmStopped(vm=VmId("a"), node=N1, generation=1, cause=GoneCause.GUEST),
        VmStartFailed(vm=VmId("a"), node=N1, generation=1, sentence="s"),
    )
    for end in ends:
        views = seen(request, reserved, end, MemoryReleased(node=N1, vm=VmId("a"), generation=1, released_mib=356))
        n1 = views.facts(NOW_US)[0]
        assert (n1.vcpus_promised, n1.memory_reserved_mib) == (0, 0)


def test_cordon_and_removal_are_seen() -> None:
    assert [c.node for c in chosen(seen(NodeCordoned(node=N1))).candidates] == ["n2"]
    assert len(chosen(seen(NodeCordoned(node=N1), NodeUncordoned(node=N1))).candidates) == 2
    assert [c.node for c in chosen(seen(NodeRemoved(node=N1))).candidates] == ["n2"]
    assert [c.node for c in chosen(seen(), node="n2").candidates] == ["n2"]


def test_a_denial_is_followed_by_a_fresh_choice_without_those_tried() -> None:
    denial = NoteMemory(vm="a", node=N1, generation=1, granted=False)
    fresh = enrich(denial, seen(requested(N1, 1, choice(N1))), NOW_US).choice
    assert [c.node for c in fresh.candidates] == ["n2"]
    assert fresh.rejected[0] == Rejected(node=N1, filter=Filter.TRIED)
    only_there = Placement(
        policy="p", candidates=choice(N1).candidates, rejected=(Rejected(node=N2, filter=Filter.NOT_ASKED),)
    )
    assert enrich(denial, seen(requested(N1, 1, only_there)), NOW_US).choice is None
    assert enrich(denial, seen(requested(N1, 2, choice(N1))), NOW_US).choice is None
    granted = msgspec.structs.replace(denial, granted=True)
    assert enrich(granted, seen(requested(N1, 1, choice(N1))), NOW_US) == granted


def test_what_is_known_of_images_is_never_taken_from_outside() -> None:
    lie = ImageFacts(sizes_mib={"none": 1})
    define = DefineVm(vm="b", disks=(DiskWish(image="tiny"), DiskWish(image="none")), known=lie)
    known = enrich(define, seen(), NOW_US).known
    assert known == ImageFacts(missing=("none",), sizes_mib={"tiny": 64}, boot=BOOT, boot_image="tiny")
    gone = seen(ImageDeleteRequested(image="tiny", node=N1, pool="default"))
    assert enrich(define, gone, NOW_US).known.missing == ("none", "tiny")
    assert enrich(DefineVm(vm="b"), seen(), NOW_US).known == ImageFacts()


def test_a_nodes_vms_are_known_when_it_is_to_be_removed() -> None:
    assert enrich(RemoveNode(node="n1"), seen(requested(N1, 1, choice(N1))), NOW_US).vms == ("a",)
    assert enrich(RemoveNode(node="n1", vms=("lie",)), seen(), NOW_US).vms == ()
    assert enrich(RemoveNode(node="n9"), seen(), NOW_US).vms == ()


def test_a_vm_that_is_not_defined_has_no_choice() -> None:
    views = seen(VmDeleted(vm=VmId("a")))
    assert enrich(StartVm(vm="a"), views, NOW_US).choice is None


def test_starts_of_one_burst_spread_before_the_log_comes_back() -> None:
    others = [msgspec.structs.replace(DEFINED, vm=VmId(f"v{i}")) for i in range(4)]
    views = seen(*others)
    burst = [enrich(StartVm(vm=vm.vm), views, NOW_US).choice.candidates[0].node for vm in others]
    assert burst == ["n1", "n2", "n1", "n2"]
    assert [f.memory_reserved_mib for f in views.facts(NOW_US) if f.reported] == [456, 456], "two guarantees"
    assert [f.vcpus_promised for f in views.facts(NOW_US + HINT_US_MAX) if f.reported] == [0, 0], "a choice that came to nothing"


def test_a_start_counts_once_however_it_is_known() -> None:
    views = seen()
    chosen(views)
    chosen(views)
    views.apply(msgspec.structs.replace(RECORDED, at_us=NOW_US), requested(N1, 1, choice(N1)))
    n1 = views.facts(NOW_US)[0]
    assert (n1.vcpus_promised, n1.memory_reserved_mib) == (1, 228)
    reserved = MemoryReserved(node=N1, vm=VmId("a"), generation=1, memory_mib=356, reserved_mib=356, capacity_mib=1000)
    views.apply(RECORDED, reserved)
    chosen(views)
    n1 = views.facts(NOW_US)[0]
    assert (n1.vcpus_promised, n1.memory_reserved_mib) == (1, 356), "a VM that runs is not expected again"


def test_what_was_expected_of_a_vm_does_not_stand_in_its_own_way() -> None:
    views = seen(CapacitySet(node=N1, capacity_mib=300), NodeCordoned(node=N2))
    assert chosen(views).candidates == chosen(views).candidates != ()
