"""What the grantor concludes at a tick: who is suspected, isolated, lost, and how soon."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest

from libs.lease.times import FAST
from proto.lease import (
    NodeIsolated,
    NodeLost,
    NodePathsNoted,
    NodeReturned,
    NodeSuspected,
    NodeTrusted,
    ProofKind,
    SetHa,
)
from tests.model.ha_rig import WHOLE_S, Rig, S, cut, kinds, settled


@pytest.mark.parametrize("seed", range(20))
def test_power_lost_is_suspected_and_lost_in_time_and_the_node_comes_back_in_the_next_epoch(seed: int) -> None:
    rig = settled(seed=seed)
    died_us = rig.now_us
    rig.nodes["n1"].alive = False
    lost = rig.until(NodeLost)
    assert rig.now_us - died_us <= WHOLE_S * S
    assert lost.proof.kind == ProofKind.LEASE and lost.epoch == 1 and lost.boot_id == "boot-n1"
    assert kinds(rig)[-2:] == ["NodeSuspected", "NodeLost"]
    rig.nodes["n1"].alive, rig.nodes["n1"].boot_id = True, "second"
    rig.until(NodeReturned)
    rig.run(3)
    assert (rig.nodes["n1"].epoch, rig.leases["n1"].boot_id) == (2, "second")
    assert rig.nodes["n1"].span_us == FAST.lease_us


def test_a_suspicion_alone_starts_nothing_and_is_taken_back() -> None:
    rig = settled()
    rig.nodes["n1"].alive = False
    rig.until(NodeSuspected)
    rig.nodes["n1"].alive = True
    rig.until(NodeTrusted)
    rig.run(30)
    assert "NodeLost" not in kinds(rig)


def test_one_node_without_storage_is_noted_and_keeps_its_lease() -> None:
    rig = settled()
    rig.nodes["n1"].storage = False
    noted = rig.until(NodePathsNoted)
    assert (noted.node, noted.pools) == ("n1", ("p",))
    rig.run(20)
    assert rig.nodes["n1"].end_us > rig.now_us
    rig.nodes["n1"].storage = True
    assert rig.until(NodePathsNoted).pools == ()
    assert "NodeLost" not in kinds(rig)


def test_an_isolated_node_is_asked_for_its_vms_and_its_own_word_is_the_proof() -> None:
    rig = settled()
    cut_us = rig.now_us
    cut(rig, "n1")
    lost = rig.until(NodeLost)
    assert rig.now_us - cut_us <= 8 * S
    assert (lost.proof.kind, lost.proof.vms, lost.proof.letter) == (ProofKind.ACKNOWLEDGED, ("web-1",), 1)
    assert kinds(rig)[-2:] == ["NodeIsolated", "NodeLost"]


def test_by_policy_its_vms_run_on_there() -> None:
    rig = settled()
    rig.decide(SetHa(isolated="leave"))  # type: ignore[arg-type]
    cut(rig, "n1")
    assert rig.until(NodeIsolated).letter == 0
    rig.run(60)
    assert "NodeLost" not in kinds(rig) and rig.nodes["n1"].end_us > rig.now_us


def test_a_silent_agent_that_others_reach_is_left_alone() -> None:
    rig = settled()
    rig.nodes["n1"].control = False
    assert rig.until(NodeIsolated).letter == 0
    rig.run(60)
    assert "NodeLost" not in kinds(rig)


def test_an_isolated_node_that_dies_is_lost_by_its_lease() -> None:
    rig = settled()
    rig.decide(SetHa(isolated="leave"))  # type: ignore[arg-type]
    cut(rig, "n1")
    rig.until(NodeIsolated)
    rig.nodes["n1"].alive = False
    assert rig.until(NodeLost).proof.kind == ProofKind.LEASE


def test_a_bridge_without_a_way_out_is_noted_as_long_as_it_is_so() -> None:
    rig = settled()
    whole = rig.members
    rig.members = whole | {"n2": changed(whole["n2"], networks=("bond0, by which bridge lan leads out, has no carrier",))}
    rig.grantor.see(rig.picture())
    rig.run(4)
    assert "NodePathsNoted" not in kinds(rig), "a cable may be out for a moment"
    noted = rig.until(NodePathsNoted)
    assert (noted.node, noted.pools, noted.move) == ("n2", (), False) and "bond0" in noted.networks[0]
    rig.members = whole
    rig.grantor.see(rig.picture())
    assert rig.until(NodePathsNoted).networks == ()
    assert rig.nodes["n2"].end_us > rig.now_us


def unlink(rig: Rig, *names: str) -> None:
    lost = {name: changed(rig.members[name], networks=("eth1 has no carrier",), unlinked=True) for name in names}
    rig.members = rig.members | lost
    rig.grantor.see(rig.picture())


def test_by_policy_the_vms_of_a_node_without_its_network_are_to_move_unless_it_is_the_networks_fault() -> None:
    rig = settled()
    rig.decide(SetHa(unlinked="migrate"))  # type: ignore[arg-type]
    unlink(rig, "n1")
    assert rig.until(NodePathsNoted).move
    rig = settled()
    rig.decide(SetHa(unlinked="migrate"))  # type: ignore[arg-type]
    unlink(rig, "n1", "n2")
    assert not rig.until(NodePathsNoted).move


def test_a_fence_device_that_confirms_proves_it_at_once_and_one_that_fails_says_nothing() -> None:
    rig = settled()
    rig.members = rig.members | {"n1": changed(rig.members["n1"], device="bmc-1")}
    rig.grantor.see(rig.picture())
    rig.nodes["n1"].alive = False
    rig.run(4.2)
    assert [f.device for f in rig.fences] == ["bmc-1"]
    rig.do(rig.grantor.on_fenced(rig.now_us, rig.wall_us, "n1", 1, False, "bmc-1", "no answer within 5 s"))
    assert "NodeLost" not in kinds(rig)
    rig.do(rig.grantor.on_fenced(rig.now_us, rig.wall_us, "n1", 1, True, "bmc-1", "it says that the power is off"))
    lost = rig.events[-1][1]
    assert isinstance(lost, NodeLost) and lost.proof.kind == ProofKind.FENCE and lost.proof.everything
