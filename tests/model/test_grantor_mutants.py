"""The grantor at generated times; each of its guards is removed once, and missed."""

from __future__ import annotations

import pytest

from libs.lease.times import Times
from services.ha import judging, lease, rules
from services.ha.grantor import Grantor
from tests.model.ha_rig import STEP_US, Rig, S, cut, kinds, settled

MUTANT_SEEDS = 40


def ordeal(seed: int) -> Rig:
    """Paths that come and go, clocks that drift, grantors that die: at any time."""
    rig = Rig("n1 n2 n3 n4", seed)
    chance = rig.random
    for node in rig.nodes.values():
        node.drift = chance.uniform(-0.0099, 0.0099)
    rig.run(9)
    for _ in range(12):
        node = rig.nodes[chance.choice(("n1", "n1", "n2"))]
        match chance.randrange(6):
            case 0:
                node.control = node.reachable = not node.control
            case 1:
                node.storage = not node.storage
            case 2:
                rig.succeed()
            case 3:
                node.control = node.storage = False
                node.reachable = False
            case 4:
                node.control = node.storage = node.reachable = True
            case 5:
                rig.checks = not rig.checks
        rig.run(chance.choice((0.5, 1, 2, 3, 4.4, 5.5)))
        rig.run(chance.randrange(0, 20) * STEP_US / S)
    return rig


@pytest.mark.parametrize("seed", range(MUTANT_SEEDS))
def test_at_no_time_is_a_node_declared_lost_whose_own_lease_runs(seed: int) -> None:
    rig = ordeal(seed)
    assert not rig.violations


def test_the_ordeal_declares_something() -> None:
    assert sum("NodeLost" in kinds(ordeal(seed)) for seed in range(10)) >= 3


def believing(patch: pytest.MonkeyPatch) -> None:
    """The stream takes what it is told: its own check of each proof is another guard, removed here to look at one at a time."""
    patch.setattr(lease, "fault", lambda lease, proof: "")


def _violated() -> bool:
    return any(ordeal(seed).violations for seed in range(MUTANT_SEEDS * 2))


def test_mutant_the_lease_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Times, "waited_us", property(lambda self: self.lease_us * 3 // 4))
    assert _violated()


def _succeeded_while_cut() -> Rig:
    rig = settled(pools=())
    rig.succeed()
    cut(rig, "n1")
    rig.run(20)
    assert "NodeLost" in kinds(rig)
    return rig


def test_mutant_a_new_grantor_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen where nothing but grants renews: with records it begins to watch them anew, which takes as long."""
    assert not _succeeded_while_cut().violations
    believing(monkeypatch)
    monkeypatch.setattr(rules, "floor_us", lambda granted_us, began_us: granted_us)
    assert _succeeded_while_cut().violations


def test_mutant_only_the_control_path_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    believing(monkeypatch)
    monkeypatch.setattr(rules, "storage_spent", lambda node, pools, read_us, now_us, wait: {})
    monkeypatch.setattr(judging.Judge, "_moves", lambda self, name, lease: False)
    monkeypatch.setattr(rules, "provable", lambda lease: True)
    assert _violated()


def test_mutant_only_the_storage_path_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    believing(monkeypatch)
    monkeypatch.setattr(rules, "control_spent", lambda asked_us, floor, wait: True)
    monkeypatch.setattr(rules, "floor_us", lambda granted_us, began_us: 0)
    assert _violated()


def test_mutant_isolated_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    believing(monkeypatch)
    monkeypatch.setattr(judging.Judge, "_moves", lambda self, name, lease: False)
    monkeypatch.setattr(rules, "provable", lambda lease: True)
    monkeypatch.setattr(rules, "storage_spent", lambda node, pools, read_us, now_us, wait: {})
    assert _violated()


def test_mutant_a_failed_read_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = settled(pools=("p", "q"))
    monkeypatch.setattr("services.ha.grantor.counts", lambda sighting: True)
    cut(rig, "n1")
    rig.nodes["n1"].storage = True
    rig.readable = set()
    rig.run(60)
    assert rig.violations


def test_mutant_a_grantor_that_has_lost_its_lock_grants_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its successor counts from its own start: the deputy that is deaf grants what nobody will wait out."""
    rig = settled()
    monkeypatch.setattr(rules, "may_sign", lambda now_us, checked_us: checked_us is not None)
    old: Grantor = rig.grantor
    rig.succeed()
    cut(rig, "n1")
    node = rig.nodes["n1"]
    node.storage = False
    while not rig.violations and rig.now_us < 120 * S:
        rig.run(1)
        new, rig.grantor = rig.grantor, old
        rig.ask(node)
        rig.grantor = new
    assert rig.violations


def test_mutant_one_silent_path_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = settled()
    monkeypatch.setattr(rules, "suspicious", bool)
    monkeypatch.setattr(lease, "PATHS_MIN", 1)
    rig.pools = ()
    rig.nodes["n1"].control = False
    rig.records.clear()
    rig.run(20)
    assert "NodeSuspected" in kinds(rig), "the unchanged grantor does not: see the test of a silent agent"


def test_mutant_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "quorum", lambda *_: None)
    monkeypatch.setattr(rules, "storm", lambda *_: None)
    rig = settled("n1 n2 n3 n4 n5")
    for name in ("n1", "n2", "n3", "n4"):
        rig.nodes[name].alive = False
    rig.run(60)
    assert kinds(rig).count("NodeLost") == 4
