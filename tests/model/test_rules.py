"""What is set for placement: decided in the cluster's stream, refused where it would not hold, and what it changes for VMs."""

from __future__ import annotations

import pytest
import typer
from msgspec.structs import replace

from libs.common.messages import VmId
from libs.common.testing import Spec
from proto.cluster import ClassChange, ClusterFinalized, NodeUse, PlacementSet, Refusal, SetPlacement
from proto.compute import StartVm, VmStartRequested
from proto.machine import Priority
from proto.placement import ClassRules, Filter, PlacementRules, WeightSet
from services.cli.cluster_set import body_of
from services.compute.cluster import CLUSTER
from services.compute.enriching import enrich
from services.compute.policy import PACK, SPREAD
from tests.model.compute_story import DEFINED, N1, choice, requested
from tests.model.test_policy import NOW_US, chosen, seen

USES = (
    NodeUse(node="n1", pcpus=4, vcpus=12, classes=(Priority.CRITICAL, Priority.NORMAL)),
    NodeUse(node="n2", pcpus=4, vcpus=1, classes=(Priority.NORMAL,)),
)
PACKED = PlacementRules(weights=WeightSet.PACK)


def ask(**changes: object) -> SetPlacement:
    return SetPlacement(uses=USES, **changes)  # type: ignore[arg-type]


def test_what_is_not_named_stays() -> None:
    Spec(CLUSTER).given().when(ask(weights="pack")).then(PlacementSet(rules=PACKED))
    of_class = PlacementRules(weights=WeightSet.PACK, classes={Priority.CRITICAL: ClassRules(weights=WeightSet.SPREAD)})
    change = ask(classes={Priority.CRITICAL: ClassChange(weights="spread")})
    Spec(CLUSTER).given(PlacementSet(rules=PACKED)).when(change).then(PlacementSet(rules=of_class))
    both = replace(of_class, classes={Priority.CRITICAL: ClassRules(weights=WeightSet.SPREAD, vcpus_per_pcpu=3.0)})
    change = ask(classes={Priority.CRITICAL: ClassChange(vcpus_per_pcpu=3.0)})
    Spec(CLUSTER).given(PlacementSet(rules=of_class)).when(change).then(PlacementSet(rules=both))
    gone = ask(classes={Priority.CRITICAL: ClassChange(weights="", vcpus_per_pcpu=0)})
    Spec(CLUSTER).given(PlacementSet(rules=both)).when(gone).then(PlacementSet(rules=PACKED))
    Spec(CLUSTER).given(PlacementSet(rules=PACKED), ClusterFinalized(protocol=1)).when(ask(weights="pack")).then()


def test_a_node_has_a_limit_of_its_own_until_it_has_the_clusters_again() -> None:
    own = PlacementRules(nodes={"n1": 5.0})
    Spec(CLUSTER).given().when(ask(nodes={"n1": 5.0})).then(PlacementSet(rules=own))
    Spec(CLUSTER).given(PlacementSet(rules=own)).when(ask(nodes={"n1": 0})).then(PlacementSet(rules=PlacementRules()))
    Spec(CLUSTER).given().when(ask(nodes={"n9": 5.0})).refused(Refusal.NODE_UNKNOWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"vcpus_per_pcpu": 2.9},
        {"nodes": {"n1": 2.0}},
        {"classes": {Priority.CRITICAL: ClassChange(vcpus_per_pcpu=1.0)}},
    ],
)
def test_a_limit_that_is_broken_already_is_refused_with_the_numbers(changes: dict[str, object]) -> None:
    Spec(CLUSTER).given().when(ask(**changes)).refused(Refusal.PROMISED_MORE)


def test_limits_that_hold_or_do_not_concern_a_node_are_taken() -> None:
    best = {Priority.BEST_EFFORT: ClassChange(vcpus_per_pcpu=1.0)}
    Spec(CLUSTER).given().when(ask(classes=best)).then(
        PlacementSet(rules=PlacementRules(classes={Priority.BEST_EFFORT: ClassRules(vcpus_per_pcpu=1.0)}))
    )
    Spec(CLUSTER).given().when(ask(vcpus_per_pcpu=3.0)).then(PlacementSet(rules=PlacementRules(vcpus_per_pcpu=3.0)))
    broken = PlacementRules(vcpus_per_pcpu=2.0)
    Spec(CLUSTER).given(PlacementSet(rules=broken)).when(ask(weights="pack")).then(
        PlacementSet(rules=replace(broken, weights=WeightSet.PACK))
    )


def test_the_weights_in_force_are_named_by_every_choice() -> None:
    assert chosen(seen()).policy == SPREAD.name
    assert chosen(seen(PlacementSet(rules=PACKED))).policy == PACK.name
    own = PlacementRules(classes={DEFINED.priority: ClassRules(weights=WeightSet.PACK)})
    assert chosen(seen(PlacementSet(rules=own))).policy == PACK.name
    other = PlacementRules(classes={Priority.CRITICAL: ClassRules(weights=WeightSet.PACK)})
    assert chosen(seen(PlacementSet(rules=other))).policy == SPREAD.name


def test_packing_fills_and_spreading_empties() -> None:
    there = requested(N1, 1, choice(N1))
    other = replace(DEFINED, vm=VmId("b"))
    for rules, node in ((PlacementRules(), "n2"), (PACKED, "n1")):
        views = seen(there, other, PlacementSet(rules=rules))
        assert enrich(StartVm(vm="b"), views, NOW_US).choice.candidates[0].node == node


def started(priority: Priority, vcpus: int) -> VmStartRequested:
    return replace(requested(N1, 1, choice(N1)), priority=priority, vcpus=vcpus, vm=VmId("c"))


def filters(*events: object) -> dict[str, Filter]:
    return {r.node: r.filter for r in chosen(seen(*events)).rejected}


def test_a_node_keeps_the_limit_of_each_class_that_it_has() -> None:
    rules = PlacementSet(rules=PlacementRules(classes={Priority.CRITICAL: ClassRules(vcpus_per_pcpu=1.0)}))
    assert filters(rules, started(Priority.CRITICAL, 2))["n1"] is Filter.CPU_LIMIT, "2 vCPUs on 2 pCPUs, one of them critical"
    assert "n1" not in filters(rules, started(Priority.NORMAL, 2))
    assert filters(PlacementSet(rules=PlacementRules(nodes={"n1": 1.0})), started(Priority.NORMAL, 2))["n1"] is Filter.CPU_LIMIT


def test_what_is_promised_comes_from_the_views_whoever_asks() -> None:
    command = enrich(SetPlacement(uses=(NodeUse(node="lie", pcpus=1, vcpus=1),)), seen(started(Priority.CRITICAL, 2)), NOW_US)
    assert command.uses == (
        NodeUse(node="n1", pcpus=2, vcpus=2, classes=(Priority.CRITICAL,)),
        NodeUse(node="n2", pcpus=2, vcpus=0),
    )


def test_settings_as_they_are_written() -> None:
    words = ["placement=pack", "vcpus-per-pcpu=4", "placement.critical=spread", "vcpus-per-pcpu.critical=1", "vcpus-per-pcpu@n.1=2"]
    assert body_of(words) == {
        "weights": "pack", "vcpus_per_pcpu": 4.0, "nodes": {"n.1": 2.0},
        "classes": {"critical": {"weights": "spread", "vcpus_per_pcpu": 1.0}},
    }  # fmt: skip
    back = ["placement.best-effort=cluster", "vcpus-per-pcpu.best-effort=none", "vcpus-per-pcpu@n1=cluster"]
    assert body_of(back) == {"classes": {"best-effort": {"weights": "", "vcpus_per_pcpu": 0}}, "nodes": {"n1": 0}}


@pytest.mark.parametrize(
    "word",
    [
        *("placement", "placement=fill", "placement.gold=pack", "placement@n1=pack", "x=1"),
        *("vcpus-per-pcpu=0", "vcpus-per-pcpu=nan", "vcpus-per-pcpu=none"),
    ],
)
def test_what_cannot_be_set_is_said(word: str) -> None:
    with pytest.raises(typer.BadParameter):
        body_of([word])
