"""What the views make of the log for placement: the index holds what the facts say, whatever happened, and after a snapshot too."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.messages import Meta, NodeId, Recorded, VmId, encode
from proto.compute import (
    GoneCause,
    NodeCordoned,
    NodeJoined,
    NodeRemoved,
    NodeReported,
    NodeUncordoned,
    StartVm,
    VmDefined,
    VmStarted,
    VmStartRequested,
    VmStopped,
)
from proto.lease import NodePathsNoted
from proto.machine import Allotment
from proto.memory import CapacitySet
from proto.node import Beat
from proto.placement import Filter, Placement, PlacementRules, WeightSet
from services.compute.choosing import cells_for, choose, wish
from services.compute.enriching import enrich
from services.compute.hearing import hear
from services.compute.lifetime_outlook import ENDS_MIN
from services.compute.policy import PACK, place
from services.compute.views import Views
from tests.model.compute_story import DEFINED
from tests.model.test_nodes import CAN

NODES = [NodeId(f"n{i}") for i in range(4)]
VMS = [VmId(f"v{i}") for i in range(5)]
SECOND_US = 1_000_000
START_US = 1_000 * SECOND_US
PACKED = PlacementRules(weights=WeightSet.PACK)


class Story:
    """A log in the making: events at a time that goes on, and heartbeats beside it."""

    def __init__(self, views: Views | None = None) -> None:
        self.views = views or Views()
        self.now_us = START_US
        self.generation = 0

    def tell(self, *events: object, owner: str = "ann") -> None:
        meta = encode(Meta("c", "", "t", "user:ann", 0, owner=owner))
        for event in events:
            self.views.apply(Recorded(1, "s", 1, "t", 1, self.now_us, b"", meta), event)

    def beat(self, node: str, load: float = 0.0) -> None:
        data = msgspec.msgpack.encode(Beat(node=node, boot_id="b", at_us=0, free_mib=0, load=load))
        hear(f"tel.{node}.beat", data, self.now_us, self.views)

    def join(self, node: NodeId) -> None:
        self.tell(
            NodeJoined(node=node, key="k"),
            NodeReported(node=node, capabilities=CAN, boot_id="b"),
            CapacitySet(node=node, capacity_mib=4000),
        )
        self.beat(node)

    def define(self, vm: VmId, allotment: Allotment | None = None) -> None:
        self.tell(msgspec.structs.replace(DEFINED, vm=vm, allotment=allotment or Allotment()))

    def start(self, vm: VmId, node: NodeId) -> None:
        defined: VmDefined = self.views.vms[vm]
        self.generation += 1
        self.tell(
            VmStartRequested(
                vm=vm, node=node, generation=self.generation, memory_mib=256, vcpus=1, priority=defined.priority,
                placement=Placement(policy="p"), allotment=defined.allotment,
            ),
            VmStarted(vm=vm, node=node, generation=self.generation, boot_id="b", pcpus=()),
        )  # fmt: skip

    def stop(self, vm: VmId) -> None:
        if (start := self.views.starts.get(vm)) is not None:
            self.tell(VmStopped(vm=vm, node=NodeId(start.node), generation=start.generation, cause=GoneCause.GUEST))

    def defined_choice(self, vm: VmId) -> Placement:
        """By the definition of the policy, from all facts as they are now."""
        wanted = self.views.vms[vm]
        facts = self.views.facts(self.now_us, asking=vm)
        weights = self.views.weights(wanted.priority)
        return place(wish(self.views, wanted, self.now_us), facts, (), weights, len(self.views.numbers))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(VMS), st.sampled_from(NODES)),
        st.tuples(st.just("stop"), st.sampled_from(VMS), st.just(NODES[0])),
        st.tuples(
            st.sampled_from(["beat", "cordon", "uncordon", "remove", "join"]), st.just(VMS[0]), st.sampled_from(NODES)
        ),
        st.tuples(st.just("ask"), st.sampled_from(VMS), st.just(NODES[0])),
        st.tuples(st.just("wait"), st.just(VMS[0]), st.just(NODES[0])),
        st.tuples(st.just("snapshot"), st.just(VMS[0]), st.just(NODES[0])),
    ),
    max_size=30,
)


def take(story: Story, step: tuple[str, VmId, NodeId]) -> None:
    match step:
        case "start", vm, node if vm not in story.views.starts:
            story.start(vm, node)
        case "stop", vm, _:
            story.stop(vm)
        case "beat", _, node:
            story.beat(node, load=float(story.now_us % 7))
        case "cordon", _, node:
            story.tell(NodeCordoned(node=node, reason="r"))
        case "uncordon", _, node:
            story.tell(NodeUncordoned(node=node))
        case "remove", _, node:
            story.tell(NodeRemoved(node=node))
        case "join", _, node:
            story.join(node)
        case "ask", vm, _:
            enrich(StartVm(vm=vm), story.views, story.now_us)
        case "wait", _, _:
            story.now_us += 2 * SECOND_US
        case "snapshot", _, _:
            story.views = msgspec.msgpack.decode(msgspec.msgpack.encode(story.views), type=Views)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_what_is_kept_up_is_what_the_facts_say(steps: list[tuple[str, VmId, NodeId]]) -> None:
    story = Story()
    for node in NODES[:3]:
        story.join(node)
    groups = [Allotment(), Allotment(apart="a"), Allotment(apart="a"), Allotment(together="t"), Allotment(together="t")]
    for vm, allotment in zip(VMS, groups, strict=True):
        story.define(vm, allotment)
    for step in steps:
        take(story, step)
        for vm in VMS:
            assert choose(story.views, vm, story.now_us) == story.defined_choice(vm), step


def rejections(placement: Placement) -> dict[str, Filter]:
    return {r.node: r.filter for r in placement.rejected}


def test_groups_keep_vms_apart_and_together_from_the_choice_on() -> None:
    story = Story()
    for node in NODES[:3]:
        story.join(node)
    for vm, allotment in zip(VMS, [Allotment(apart="a")] * 3 + [Allotment(together="t")] * 2, strict=True):
        story.define(vm, allotment)
    apart = [enrich(StartVm(vm=vm), story.views, story.now_us).choice for vm in VMS[:3]]
    assert [c.candidates[0].node for c in apart] == ["n0", "n1", "n2"]
    assert rejections(apart[2]) == {"n0": Filter.APART, "n1": Filter.APART}
    story.start(VMS[3], NODES[1])
    beside = enrich(StartVm(vm=VMS[4]), story.views, story.now_us).choice
    assert [c.node for c in beside.candidates] == ["n1"]
    assert rejections(beside) == {"n0": Filter.TOGETHER, "n2": Filter.TOGETHER}
    story.stop(VMS[3])
    story.now_us += 10 * SECOND_US
    for node in NODES[:3]:
        story.beat(node)
    assert len(enrich(StartVm(vm=VMS[4]), story.views, story.now_us).choice.candidates) == 3


def test_a_node_that_cannot_write_to_a_pool_gets_no_new_vms_until_it_can() -> None:
    story = Story()
    for node in NODES[:2]:
        story.join(node)
    story.define(VMS[0])
    story.tell(NodePathsNoted(node=NODES[0], at_us=1, pools=("pool-1",)))
    choice = enrich(StartVm(vm=VMS[0]), story.views, story.now_us).choice
    assert rejections(choice) == {"n0": Filter.HEALTH} and "pool-1" in choice.rejected[0].reason
    story.tell(NodePathsNoted(node=NODES[0], at_us=2, networks=("bond0 has no carrier",)))
    assert rejections(enrich(StartVm(vm=VMS[0]), story.views, story.now_us).choice) == {}


def test_numbers_are_in_the_order_of_joining_and_for_ever() -> None:
    story = Story()
    for node in (NODES[2], NODES[0]):
        story.join(node)
    story.tell(NodeRemoved(node=NODES[2]))
    story.join(NODES[1])
    story.join(NODES[2])
    assert story.views.numbers == {"n2": 0, "n0": 1, "n1": 2}
    assert {f.node: f.number for f in story.views.facts(story.now_us)} == story.views.numbers


def test_packing_learns_from_the_log_and_puts_short_vms_where_the_end_is_near() -> None:
    """Ann's VMs live for a minute, Bob's for a day. A new one of Ann's goes where Bob's keep the node busy anyway, though another
    of hers would leave less free."""
    story = Story(Views(rules=PACKED))
    story.join(NODES[0])
    story.join(NODES[1])
    ann, bob, new = VMS[:3]
    for vm, owner in ((ann, "ann"), (bob, "bob"), (new, "ann")):
        story.tell(msgspec.structs.replace(DEFINED, vm=vm), owner=owner)
    for _ in range(ENDS_MIN):
        for vm, lasts_s in ((ann, 60), (bob, 86_400)):
            story.start(vm, NODES[0])
            story.now_us += lasts_s * SECOND_US
            story.stop(vm)
    story.start(bob, NODES[1])
    story.now_us += 7200 * SECOND_US
    story.start(ann, NODES[0])
    for node in NODES[:2]:
        story.beat(node)
    choice = enrich(StartVm(vm=new), story.views, story.now_us).choice
    assert choice.candidates[0].node == NODES[1] and choice.policy == PACK.name
    terms = {c.node: c.terms.get("lifetime", 0.0) for c in choice.candidates}
    assert terms["n1"] > -0.25 > terms["n0"], terms
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(story.views), type=Views)
    assert again.lifetimes == story.views.lifetimes


def test_a_vm_in_one_cell_is_told_what_its_node_would_hold_of_it() -> None:
    story, (own, other) = Story(), VMS[:2]
    can = msgspec.structs.replace(CAN, pcpus=16, cells=(tuple(range(8)), tuple(range(8, 16))), cells_mib=(2000, 2000))
    story.join(NODES[0])
    story.tell(NodeReported(node=NODES[0], capabilities=can, boot_id="b"))
    for vm in (own, other):
        story.define(vm, Allotment(one_cell=vm == own))
        story.start(vm, NODES[0])
    (roomy, taken) = cells_for(story.views, own)
    assert roomy == (8, 2000), "its own part does not stand in its way"
    assert taken[1] < 2000
    assert cells_for(story.views, other) == ()
