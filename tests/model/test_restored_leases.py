"""A restored log and the leases that nodes hold: what it has forgotten of them. One that lasts goes on; one that may have been
declared lost meanwhile is over; and nobody stays without a lease for ever."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId, floor_of
from libs.common.testing import Spec
from libs.lease.times import FAST
from proto.lease import (
    UNKNOWN,
    AskGrant,
    BeginTerm,
    Granted,
    LeaseTaken,
    NodeLost,
    NodeReturned,
    NodeSuspected,
    Proof,
    ProofKind,
    Refusal,
    Refuse,
    ReportReturned,
    Sighting,
    TakeLease,
    TermBegan,
)
from services.ha import rules
from services.ha.effects import Picture, Reply
from services.ha.lease import LEASE
from services.ha.main import HA
from services.ha.states import Lease, Lost, Suspected, Trusted
from services.node.leasing import forgotten, left_us
from tests.model.ha_rig import Rig, S, kinds

N1 = NodeId("n1")
lease = Spec(LEASE)
ha = Spec(HA)
spent = Proof(kind=ProofKind.LEASE, at_us=9)
taken = LeaseTaken(node=N1, term=3, boot_id="b1", at_us=1, pools=("p",))
gone = NodeLost(node=N1, boot_id="b1", epoch=1, at_us=5, proof=spent)


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_lease_that_lasts_in_an_epoch_that_was_forgotten_is_taken_as_it_is() -> None:
    take = TakeLease(node="n1", term=9, boot_id="b2", pools=("p", "q"), tolerant=True, epoch=4, told_in=2, now_us=7)
    back = NodeReturned(node=N1, boot_id="b2", epoch=4, at_us=7, held=True)
    now = LeaseTaken(node=N1, term=9, boot_id="b2", at_us=7, pools=("p", "q"), tolerant=True, told_in=2)
    for history in ((), (taken,), (taken, NodeSuspected(node=N1, at_us=2)), (taken, gone)):
        lease.given(*history).when(take).then(back, now).twice()
    lease.given(taken, gone).when(replace(take, told_in=0)).refused(Refusal.NOT_LOST)
    lease.given(replace(taken, term=10)).when(take).refused(Refusal.OLD_TERM)


def test_an_epoch_that_was_forgotten_and_has_ended_is_followed_by_the_next() -> None:
    fact = ReportReturned(node=N1, boot_id="b2", epoch=4, at_us=8, incarnation=2)
    back = NodeReturned(node=N1, boot_id="b2", epoch=5, at_us=8)
    lease.given(taken, gone).when(fact).then(back).twice()
    lost, returned = lease.given(taken).when(fact).twice().events
    assert returned == back and isinstance(lost, NodeLost)
    assert (lost.epoch, lost.boot_id, lost.proof.kind) == (4, "b2", ProofKind.ACKNOWLEDGED)
    lease.given(taken, gone).when(replace(fact, incarnation=1)).refused(Refusal.NOT_LOST)


def test_terms_of_a_restored_log_are_above_all_that_nodes_have_seen() -> None:
    (begun,) = ha.given(TermBegan(term=2, holder="a", at_us=1)).when(BeginTerm(holder="b", incarnation=2, now_us=3)).events
    assert isinstance(begun, TermBegan) and begun.term == floor_of(2) + 1
    (after,) = ha.given(begun).when(BeginTerm(holder="c", incarnation=2, now_us=3)).events
    assert isinstance(after, TermBegan) and after.term == floor_of(2) + 2


# --- the grantor ----------------------------------------------------------------------------------------------------


class Restored(Rig):
    """The log is another incarnation, and says of leases what it said before."""

    incarnation = 1

    def picture(self) -> Picture:
        return Picture(self.ha, dict(self.leases), self.members, incarnation=self.incarnation)


def restored(was: Lease, left: int | None, *, epoch: int = 2, boot: str = "boot-n1") -> tuple[Restored, list[Granted]]:
    """n1 has had `epoch`; the log says `was` of it. What it was answered within three seconds."""
    rig = Restored("n1 n2 n3")
    rig.run(10)
    rig.nodes["n1"].alive = False
    rig.incarnation, rig.leases["n1"] = 2, was
    rig.succeed()
    answers: list[Granted] = []
    for _ in range(12):
        rig.run(0.25)
        ask = AskGrant("n1", boot, epoch, rig.now_us, pools=("p",), renews=("p", "old"), address="n1", left_us=left)
        for effect in rig.grantor.ask(rig.now_us, None, ask):
            assert isinstance(effect, Reply)
            answers.append(effect.granted)
    return rig, answers


BEFORE = (
    Trusted(boot_id="boot-n1", term=1, pools=("p",)),
    Trusted(boot_id="boot-0", term=1, pools=("p",)),
    Lost(boot_id="boot-n1", term=1, pools=("p",), since_us=1, proof=spent),
    Suspected(boot_id="boot-0", term=1, pools=("p",), since_us=1),
)


@pytest.mark.parametrize("was", BEFORE, ids=lambda was: f"{type(was).__name__} {was.boot_id}")
def test_a_node_goes_on_under_the_epoch_that_it_holds(was: Lease) -> None:
    rig, answers = restored(was, 4 * S)
    assert {(a.refused, a.epoch) for a in answers if a.lease_us} == {("", 2)}
    assert not any(a.refused == Refuse.LOST for a in answers)
    now = rig.leases["n1"]
    assert (now.epoch, now.boot_id, now.pools, now.told_in) == (2, "boot-n1", ("old", "p"), 2)
    assert kinds(rig).count("NodeReturned") == 1


@pytest.mark.parametrize("was", BEFORE, ids=lambda was: f"{type(was).__name__} {was.boot_id}")
def test_what_ended_meanwhile_is_granted_no_more_though_the_log_forgot_its_loss(was: Lease) -> None:
    rig, answers = restored(was, 0)
    assert not any(a.lease_us for a in answers) and answers[-1] == replace(answers[-1], refused=Refuse.LOST, epoch=2)
    rig.decide(ReportReturned(node=N1, boot_id="boot-n1", epoch=2, at_us=rig.wall_us, incarnation=2))
    assert (rig.leases["n1"].epoch, type(rig.leases["n1"])) == (3, Trusted)


@pytest.mark.parametrize("left", [UNKNOWN, None])
def test_while_nobody_knows_whether_it_lasts_it_is_neither_granted_nor_ended(left: int | None) -> None:
    _, answers = restored(BEFORE[2], left)
    assert {a.refused for a in answers} == {Refuse.NOT_LEADING}


def test_a_lease_of_the_epoch_that_the_log_knows_may_have_been_declared_lost_too() -> None:
    was = BEFORE[0]
    rig, answers = restored(was, 0, epoch=1)
    assert not any(a.lease_us for a in answers) and answers[-1].refused == Refuse.LOST
    rig, answers = restored(was, UNKNOWN, epoch=1)
    assert {a.refused for a in answers} == {Refuse.NOT_LEADING}
    rig, answers = restored(was, 4 * S, epoch=1)
    assert answers[-1].lease_us == FAST.lease_us and rig.leases["n1"].pools == ("old", "p")
    rig, answers = restored(was, None, epoch=1)
    assert answers[-1].lease_us == FAST.lease_us, "an agent that never says is granted as it ever was"
    assert "NodeReturned" not in kinds(rig)


def test_of_what_is_known_to_be_lost_its_word_makes_no_difference() -> None:
    rig, answers = restored(BEFORE[2], 4 * S, epoch=1)
    assert {a.refused for a in answers} <= {Refuse.LOST, Refuse.NOT_LEADING} and answers[-1].refused == Refuse.LOST
    assert isinstance(rig.leases["n1"], Lost)


def test_a_log_that_was_never_restored_takes_nobodys_word_for_an_epoch() -> None:
    rig = Rig("n1 n2 n3")
    rig.run(10)
    for left in (4 * S, 0):
        ask = AskGrant("n1", "boot-n1", 2, rig.now_us, pools=("p",), left_us=left)
        (reply,) = rig.grantor.ask(rig.now_us, None, ask)
        assert isinstance(reply, Reply) and reply.granted.refused == Refuse.NOT_LEADING
    rig.run(2)
    assert rig.leases["n1"].epoch == 1


def test_a_record_of_an_epoch_that_was_forgotten_says_that_the_node_lives() -> None:
    """It cannot ask, and renews by its record in a boot that the log does not know."""
    rig, _ = restored(BEFORE[1], None)
    before = len(rig.events)
    for sequence in range(1, 200):
        rig.records["p", "n1"] = Sighting("p", "n1", "boot-n1", 2, 1000 + sequence, 0, ())
        rig.run(0.25)
    assert "NodeLost" not in {type(event).__name__ for _, event in rig.events[before:]}


# --- the agent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "left"),
    [
        ({"own": "held", "at_us": 100, "left_us": 50}, 30),
        ({"own": "paused", "at_us": 100, "left_us": 50}, 30),
        ({"own": "held", "at_us": 60, "left_us": 50}, UNKNOWN),
        ({"own": "held", "left_us": 50}, None),
        ({"own": "woken", "at_us": 100, "left_us": 50}, 0),
        ({"own": "ended", "at_us": 100, "left_us": 0}, 0),
        ({"own": "none", "at_us": 100, "left_us": 0}, 0),
    ],
    ids=str,
)
def test_an_agent_says_only_what_its_watchdog_said_of_now(state: dict[str, Any], left: int | None) -> None:
    assert left_us(state, 120) == left


def test_a_return_that_was_forgotten_is_told_again() -> None:
    assert forgotten(Granted(1, 2, 0, 5 * S), 2) and forgotten(Granted(1, 2, 0, refused=Refuse.LOST), 2)
    assert not forgotten(Granted(1, 3, 0, 5 * S), 2) and not forgotten(Granted(1, 0, 0, refused=Refuse.NOT_LEADING), 2)
    assert not forgotten(Granted(1, 2, 0, refused=Refuse.OTHER_BOOT), 2)


def test_the_rule_bears_on_restored_logs_alone() -> None:
    ask = AskGrant("n1", "b1", 2, 0, left_us=0)
    assert not rules.untold(Trusted(boot_id="b1"), ask, 1) and rules.untold(Trusted(boot_id="b1"), ask, 2)
    assert not rules.untold(Trusted(boot_id="b1", told_in=2), ask, 2) and rules.untold(Trusted(boot_id="b1", told_in=2), ask, 3)
