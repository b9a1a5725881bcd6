"""The grantor: who is granted a lease and when, by which grantor, and for how long."""

from __future__ import annotations

from msgspec.structs import replace

from libs.lease.times import FAST
from proto.lease import AskGrant, NodeLost, NodeReturned, NodeSuspected, Proof, ProofKind, SetHa
from services.ha.effects import Reply
from services.ha.states import Lost, Suspected, Trusted
from tests.model.ha_rig import Rig, S, kinds, settled


def test_nothing_is_granted_before_the_term_and_the_lease_are_in_the_log() -> None:
    rig = Rig("n1 n2")
    rig.checks = False
    rig.run(3)
    assert not rig.events and all(not node.span_us for node in rig.nodes.values())
    rig.checks = True
    rig.run(3)
    assert kinds(rig)[:1] == ["TermBegan"]
    assert all(node.span_us == FAST.lease_us and node.pools == ("p",) for node in rig.nodes.values())
    assert rig.leases["n1"] == Trusted(boot_id="boot-n1", term=1, pools=("p",), address="n1")


def test_no_lease_begins_without_its_second_path() -> None:
    rig = Rig("n1 n2")
    for _ in range(80):
        rig.run(0.1)
        assert all(node.pools == ("p",) for node in rig.nodes.values() if node.span_us)
    assert all(node.span_us for node in rig.nodes.values())


def test_a_healthy_cluster_decides_nothing() -> None:
    rig = settled()
    before = len(rig.events)
    rig.run(300)
    assert rig.events[before:] == []


def test_a_grantor_that_lost_its_lock_grants_nothing_and_its_successor_waits() -> None:
    rig = settled()
    rig.checks = False
    rig.run(1.5)
    assert not rig.grantor.leads(rig.now_us)
    rig.run(2)
    assert rig.nodes["n2"].refused == "not-leading"
    rig.nodes["n1"].alive = False
    rig.run(10)
    assert "NodeSuspected" not in kinds(rig)
    rig.checks = True
    rig.succeed()
    began_us = rig.now_us
    rig.until(NodeLost)
    assert rig.now_us - began_us >= FAST.successor_us


def test_what_an_earlier_grantor_concluded_is_refused_once_its_successor_has_taken_the_lease() -> None:
    rig = settled()
    rig.nodes["n1"].alive = False
    rig.until(NodeSuspected)
    told = [Trusted]
    old, old_lease = rig.grantor, rig.leases["n1"]
    assert isinstance(old_lease, Suspected)
    rig.succeed()
    rig.run(2)
    assert rig.leases["n1"].term == 2
    late = Proof(kind=ProofKind.FENCE, at_us=rig.now_us, term=1, device="bmc-1", sentence="off")
    for effect in old.declare("n1", rig.wall_us, late):
        rig.do([effect])
    assert rig.refusals and rig.refusals[-1].reason == "OLD_TERM" and told
    assert not isinstance(rig.leases["n1"], Lost)


def test_a_declared_node_is_granted_nothing_from_that_moment_on() -> None:
    rig = settled()
    rig.nodes["n1"].alive = False
    rig.run(4)
    decide = rig.decide
    rig.decide = lambda command: None  # type: ignore[method-assign]
    rig.run(10)
    assert rig.grantor.node("n1").declared is not None, "it was told, and the log is away"
    rig.nodes["n1"].alive = True
    rig.nodes["n1"].span_us = 0
    rig.run(3)
    assert rig.nodes["n1"].refused == "not-leading"
    rig.decide = decide  # type: ignore[method-assign]
    rig.run(1)
    assert "NodeLost" in kinds(rig)


def test_a_node_started_anew_waits_until_its_former_boot_is_spent() -> None:
    rig = settled()
    rig.nodes["n1"].boot_id, rig.nodes["n1"].epoch, rig.nodes["n1"].span_us = "second", 0, 0
    rig.run(3)
    assert rig.nodes["n1"].refused == "other-boot"
    assert rig.until(NodeLost).boot_id == "boot-n1"
    rig.until(NodeReturned)
    rig.run(3)
    assert rig.nodes["n1"].span_us


def test_of_two_nodes_with_one_name_the_one_that_has_the_lease_keeps_it() -> None:
    rig = settled()
    before = len(rig.events)
    twin = AskGrant("n1", "twin", 0, 1, pools=("p",))
    for _ in range(60):
        rig.run(1)
        (reply,) = rig.grantor.ask(rig.now_us, None, twin)
        assert isinstance(reply, Reply) and reply.granted.refused == "other-boot"
    assert rig.events[before:] == [] and rig.nodes["n1"].end_us > rig.now_us


def test_a_stranger_and_one_of_a_later_epoch_are_granted_nothing() -> None:
    rig = settled()
    (stranger,) = rig.grantor.ask(rig.now_us, None, AskGrant("n9", "b", 0, 1))
    (ahead,) = rig.grantor.ask(rig.now_us, None, AskGrant("n1", "boot-n1", 7, 1))
    assert isinstance(stranger, Reply) and isinstance(ahead, Reply)
    assert (stranger.granted.refused, ahead.granted.refused) == ("stranger", "not-leading")


def test_from_long_leases_to_short_ones_each_long_one_is_waited_out() -> None:
    rig = Rig()
    rig.ha = replace(rig.ha, settings=replace(rig.ha.settings, tolerant=True))
    rig.run(40)
    assert rig.nodes["n1"].span_us == 30 * S and rig.leases["n1"].tolerant
    rig.decide(SetHa(tolerant=False))
    rig.run(5)
    assert rig.nodes["n1"].span_us == 5 * S and rig.leases["n1"].tolerant, "a long one may be on its way"
    rig.run(35)
    assert not rig.leases["n1"].tolerant


def test_a_pool_that_is_named_no_more_stays_to_be_read_until_the_node_says_that_it_is_none_of_its_own() -> None:
    rig = settled(pools=("p", "q"))
    rig.pools = ("p",)
    rig.run(4)
    assert rig.leases["n1"].pools == ("p", "q")
    rig.run(5)
    assert list(rig.leases["n1"].pools) == ["p"]
