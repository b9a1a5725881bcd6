"""The index decides as the definition does, whatever the facts and however they came to be what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import NodeId
from proto.machine import Priority
from proto.networks import Bridge, Network
from proto.placement import Filter, filter_of, removed_by
from services.compute.index import NodeIndex
from services.compute.networks import Ground
from services.compute.policy import (
    CANDIDATES_MAX,
    CHANCE,
    HEALTH_PCT_MIN,
    PACK,
    SPREAD,
    NodeFacts,
    Weights,
    Wishes,
    place,
)
from services.compute.reasons import explain

HORIZONS = 3
POOLS = st.sampled_from([(), ("default",), ("default", "fast"), ("default", "default@a")])
ROOM = st.integers(-50, 150)
ROOMS = st.dictionaries(st.sampled_from(["default", "fast"]), ROOM).map(lambda rooms: tuple(sorted(rooms.items())))
NEW_DISKS = st.just(()) | st.lists(
    st.tuples(st.sampled_from(["default", "fast", "unheard"]), st.integers(1, 200), st.sampled_from(["", "a"])),
    unique_by=lambda new: new[0], max_size=3,
).map(tuple)  # fmt: skip
FIRMWARE = st.sampled_from([(), (), ("uefi",)])
BRIDGES = st.sampled_from([(), (Bridge(name="br0"),), (Bridge(name="br0", mtu=9000), Bridge(name="br1"))])
NETWORKS = st.sampled_from(
    [
        (),
        (Ground(network=Network(name="plain", bridge="br0", trusted=True)),),
        (Ground(network=Network(name="jumbo", bridge="br0", vlan=7, mtu=9000)),),
        (Ground(network=Network(name="red", bridge="br1")), Ground(reason="there is no network green; there is only user")),
    ]
)
GROUPS = st.sampled_from([(), ("db",), ("db", "web")])
GROUP = st.sampled_from(["", "db", "web"])
MIXED = Weights(name="mixed", fit=0.7, room=0.4, lifetime=3.0, numa=0.3, health=0.2, contention=0.6)


@st.composite
def clusters(draw: st.DrawFn, most: int = 40) -> list[NodeFacts]:
    numbers = draw(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=most))
    node = st.builds(
        NodeFacts, node=st.just(NodeId("")), online=st.integers(0, 9).map(bool), cordoned=st.integers(0, 9).map(lambda n: n == 9),
        pcpus=st.sampled_from([0.0, 0.5, 2 / 3, 4.0, 64.0]), vcpus_promised=st.integers(0, 40),
        memory_capacity_mib=st.sampled_from([0, 1000, 4096]), memory_reserved_mib=st.integers(0, 1200), pools=POOLS,
        vcpus_per_pcpu=st.sampled_from([1.0, 8.0]), cpu_reserved_pct=st.integers(0, 300), bridges=BRIDGES, tap_filter=st.booleans(),
        memory_ha_mib=st.sampled_from([0, 0, 500]), memory_moves_mib=st.sampled_from([0, 0, 300]),
        memory_charged_mib=st.integers(0, 1200), ratios_pct=st.sampled_from([(100,) * 4, (100,) * 4, (100, 120, 150, 300)]),
        cells=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2000)), max_size=3).map(tuple), together=GROUPS, apart=GROUPS,
        health=st.sampled_from([100, 100, 100, 70, 25, 24, 0]), health_reason=st.sampled_from(["", "a disk is slow"]),
        load=st.sampled_from([0.0, 0.0, 0.7, 5.3]), ready_pct=st.sampled_from([0, 0, 35]), steal_pct=st.sampled_from([0, 0, 45]),
        reported=st.integers(0, 9).map(bool), lost=st.integers(0, 9).map(lambda n: n == 9),
        pool_rooms=ROOMS, firmware=FIRMWARE, ends=st.just(()) | st.tuples(*[st.integers(0, CHANCE)] * HORIZONS),
    )  # fmt: skip
    named = [msgspec.structs.replace(draw(node), node=NodeId(f"n{n}"), number=n) for n in numbers]
    # what is kept for moves is of what is kept
    return [msgspec.structs.replace(n, memory_moves_mib=min(n.memory_moves_mib, n.memory_ha_mib)) for n in named]


wishes = st.builds(
    Wishes, vcpus=st.integers(1, 8), memory_mib=st.integers(1, 2000), guaranteed_mib=st.integers(0, 1500),
    priority=st.sampled_from(Priority), pools=POOLS, networks=NETWORKS,
    node=st.sampled_from(["", "", "", "n3", "nowhere"]), source=st.sampled_from(["", "", "n2", "gone"]),
    vcpus_per_pcpu=st.sampled_from([0.0, 0.0, 0.3, 2.0]), with_group=st.booleans(),
    cpu_reserved_pct=st.sampled_from([0, 0, 150]), together=GROUP, apart=GROUP, one_cell=st.booleans(),
    failover=st.booleans(), moving=st.booleans(), health_min=st.sampled_from([HEALTH_PCT_MIN, HEALTH_PCT_MIN, 1, 100]),
    new_disks=NEW_DISKS, firmware=FIRMWARE, lasts=st.just(()) | st.tuples(*[st.integers(0, 2**34)] * HORIZONS),
)  # fmt: skip
tried = st.lists(st.sampled_from(["n1", "n2", "n3", "gone"]), unique=True)
weights = st.sampled_from([SPREAD, PACK, MIXED])


@settings(max_examples=300, deadline=None)
@given(clusters(), wishes, tried, weights)
def test_it_decides_as_the_definition(nodes: list[NodeFacts], wish: Wishes, tried: list[str], weights: Weights) -> None:
    index = NodeIndex(nodes, HORIZONS)
    defined = place(wish, nodes, tried, weights)
    assert index.place(wish, tried, weights) == defined
    if not tried:
        assert index.best(wish, weights) == (defined.candidates[0].node if defined.candidates else None)


@settings(max_examples=100, deadline=None)
@given(clusters(), clusters(), st.lists(st.integers(0, 60)), wishes, weights)
def test_it_follows_the_facts(
    before: list[NodeFacts], after: list[NodeFacts], gone: list[int], wish: Wishes, weights: Weights
) -> None:
    index, known = NodeIndex(before, HORIZONS), {n.node: n for n in before}
    for node in after:
        index.put(node)
        known[node.node] = node
    for number in gone:
        index.drop(f"n{number}")
        known.pop(NodeId(f"n{number}"), None)
    if known:
        numbers = 1 + max(n.number for n in (*before, *after))
        assert index.place(wish, (), weights, numbers) == place(wish, known.values(), (), weights, numbers)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(POOLS, ROOMS), min_size=1, max_size=6), st.lists(st.tuples(POOLS, ROOMS), max_size=6), NEW_DISKS)
def test_room_in_pools_is_looked_at_alike(
    before: list[tuple[Any, Any]], after: list[tuple[Any, Any]], new_disks: Any
) -> None:
    """Where nothing else stands in the way; also after pools have other room, or are told of for the first time."""
    wish, index = Wishes(vcpus=1, memory_mib=1, new_disks=new_disks), NodeIndex(horizons=HORIZONS)
    known: dict[str, NodeFacts] = {}
    for told in (before, after):
        for n, (pools, rooms) in enumerate(told):
            known[f"n{n}"] = NodeFacts(
                node=NodeId(f"n{n}"), online=True, cordoned=False, pcpus=4.0, vcpus_promised=0, memory_capacity_mib=1000,
                memory_reserved_mib=0, number=n, pools=pools, pool_rooms=rooms,
            )  # fmt: skip
        index.put(*known.values())
        assert index.place(wish) == place(wish, known.values())


@settings(max_examples=150, deadline=None)
@given(clusters(), wishes, tried)
def test_every_node_is_answered_for(nodes: list[NodeFacts], wish: Wishes, tried: list[str]) -> None:
    placement = NodeIndex(nodes, HORIZONS).place(wish, tried)
    counts = {f: removed_by(placement, f) for f in Filter}
    assert placement.passed + sum(counts.values()) == len(nodes)
    assert len(placement.candidates) == min(CANDIDATES_MAX, placement.passed)
    named = {r.node: r.filter for r in placement.rejected}
    if placement.removed:
        by_bits = {n.node: filter_of(placement, n.number) for n in nodes}
        assert all(by_bits[node] is filter for node, filter in named.items())
        assert {f: sum(x is f for x in by_bits.values()) for f in Filter} == counts
        assert all(by_bits[c.node] is None for c in placement.candidates)
    assert {n for n in tried if not wish.node and n in {x.node for x in nodes}} <= named.keys()
    sentence, remedy = explain(placement)
    assert placement.candidates or (sentence and remedy)


def test_an_index_without_nodes_has_no_candidates() -> None:
    wish = Wishes(vcpus=1, memory_mib=1)
    assert NodeIndex().place(wish) == place(wish, []) and NodeIndex().best(wish) is None


@dataclass
class Big:
    """A cluster of a thousand nodes in which each filter removes some."""

    facts: list[NodeFacts]
    wish: Wishes


@pytest.fixture
def big() -> Big:
    nodes = [
        NodeFacts(
            node=NodeId(f"node-{n:04}"), number=n, online=n % 7 > 0, cordoned=n % 11 == 0, pcpus=64, vcpus_promised=n % 500,
            memory_capacity_mib=262_144, memory_reserved_mib=261_000 if n % 5 == 0 else 100 * n,
        )
        for n in range(1000)
    ]  # fmt: skip
    return Big(nodes, Wishes(vcpus=40, memory_mib=2048))


def test_a_thousand_nodes_are_told_of_in_few_bytes(big: Big) -> None:
    placement = NodeIndex(big.facts).place(big.wish)
    assert placement == place(big.wish, big.facts)
    assert {r.filter for r in placement.removed} == {Filter.OFFLINE, Filter.CORDONED, Filter.CPU_LIMIT, Filter.MEMORY}
    assert len(msgspec.msgpack.encode(placement)) < 1700
