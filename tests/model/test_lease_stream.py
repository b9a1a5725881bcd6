"""Streams `lease-NODE` and `ha-main`: what is concluded is checked again, whoever says so."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from libs.common.messages import NodeId
from libs.common.testing import Spec
from libs.lease.times import FAST, TOLERANT
from proto.lease import (
    ArmHa,
    BeginTerm,
    ConfirmOff,
    DeclareLost,
    DisarmHa,
    ForgetNode,
    HaArmed,
    HaDisarmed,
    HaHeld,
    HaReleased,
    HaSet,
    HaSettings,
    HoldHa,
    IsolateNode,
    LeaseForgotten,
    LeaseTaken,
    NodeIsolated,
    NodeLost,
    NodeOffProven,
    NodeReturned,
    NodeSuspected,
    NodeTrusted,
    Proof,
    ProofKind,
    RearmHa,
    Refusal,
    ReportReturned,
    Reserve,
    SetHa,
    Sign,
    Silence,
    SuspectNode,
    TakeLease,
    TermBegan,
    TrustNode,
)
from services.ha.lease import LEASE
from services.ha.main import HA

N1 = NodeId("n1")
lease = Spec(LEASE)
ha = Spec(HA)
S = 1_000_000
T = 1_000 * S
W = FAST.waited_us

silent = (Silence(path=Sign.CONTROL, since_us=1, for_us=3 * S), Silence(path=Sign.STORAGE, since_us=1, for_us=3 * S))
taken = LeaseTaken(node=N1, term=3, boot_id="b1", at_us=1, pools=("p",), address="10.0.0.11:7")
suspected = NodeSuspected(node=N1, at_us=2, silences=silent)
isolated = NodeIsolated(node=N1, at_us=2, silences=silent[:1], letter=1)
good = Proof(
    kind=ProofKind.LEASE, at_us=T, term=3, granted_us=T - W - 20, seen_us={"p": T - W - 20}, sequences={"p": 9}, read_us=T - 10,
    waited_us=W, sentence="spent",
)  # fmt: skip


def declare(proof: Proof, **more: Any) -> DeclareLost:
    return replace(DeclareLost(node="n1", boot_id="b1", epoch=1, proof=proof, now_us=5), **more)


def lost_by(proof: Proof) -> NodeLost:
    return NodeLost(node=N1, boot_id="b1", epoch=1, at_us=5, proof=proof)


def test_a_spent_lease_is_lost_once() -> None:
    lease.given(taken, suspected).when(declare(good)).then(lost_by(good)).twice()


@pytest.mark.parametrize(
    "wrong",
    [
        {"granted_us": T - W},
        {"seen_us": {"p": T - W}},
        {"seen_us": {}, "sequences": {}},
        {"sequences": {}},
        {"read_us": T - 1000},
        {"read_us": T + 10},
        {"waited_us": FAST.lease_us},
        {"term": 2},
        {"kind": ProofKind.OPERATOR},
        {"kind": ProofKind.CLEAN},
        {"kind": ProofKind.FENCE},
        {"kind": ProofKind.ACKNOWLEDGED, "letter": 1},
    ],
    ids=str,
)
def test_a_proof_that_does_not_hold_by_its_own_figures_is_refused(wrong: dict[str, Any]) -> None:
    reason = Refusal.OLD_TERM if "term" in wrong else Refusal.BAD_PROOF
    lease.given(taken, suspected).when(declare(replace(good, **wrong))).refused(reason)


def test_of_another_boot_or_epoch_or_of_a_node_that_is_not_suspected_it_is_refused() -> None:
    lease.given(taken, suspected).when(declare(good, boot_id="b2")).refused(Refusal.BAD_PROOF)
    lease.given(taken, suspected).when(declare(good, epoch=2)).refused(Refusal.BAD_PROOF)
    lease.given(taken).when(declare(good)).refused(Refusal.BAD_PROOF)
    lease.given(replace(taken, pools=("p", "q")), suspected).when(declare(good)).refused(Refusal.BAD_PROOF)


def test_a_long_lease_is_waited_out_as_such() -> None:
    lease.given(replace(taken, tolerant=True), suspected).when(declare(good)).refused(Refusal.BAD_PROOF)
    long = replace(good, granted_us=0, seen_us={"p": 0}, waited_us=TOLERANT.waited_us)
    lease.given(replace(taken, tolerant=True), suspected).when(declare(long)).then(lost_by(long))


def test_without_pools_the_last_grant_alone_counts() -> None:
    bare = replace(good, seen_us={}, sequences={}, read_us=0, granted_us=T - W)
    lease.given(replace(taken, pools=()), suspected).when(declare(bare)).then(lost_by(bare))
    late = replace(bare, granted_us=T - W + 1)
    lease.given(replace(taken, pools=()), suspected).when(declare(late)).refused(Refusal.BAD_PROOF)


def test_its_own_word_counts_only_in_answer_to_the_last_letter() -> None:
    word = Proof(kind=ProofKind.ACKNOWLEDGED, at_us=T, term=3, letter=1, vms=("web-1",), sentence="ended")
    lease.given(taken, isolated).when(declare(word)).then(lost_by(word))
    lease.given(taken, isolated).when(declare(replace(word, letter=2))).refused(Refusal.BAD_PROOF)
    back = NodeTrusted(node=N1, at_us=3)
    lease.given(taken, isolated, back, replace(isolated, letter=2)).when(declare(word)).refused(Refusal.BAD_PROOF)
    lease.given(taken, replace(isolated, letter=0)).when(declare(word)).refused(Refusal.BAD_PROOF)


def test_a_device_that_confirmed_needs_no_wait() -> None:
    off = Proof(kind=ProofKind.FENCE, at_us=T, term=3, device="bmc-1", sentence="the power is off")
    lease.given(taken, suspected).when(declare(off)).then(lost_by(off))


def test_letters_are_numbered() -> None:
    ask = IsolateNode(node="n1", silences=silent[:1], evacuate=True, now_us=9)
    first = NodeIsolated(node=N1, at_us=9, silences=silent[:1], letter=1)
    lease.given(taken).when(ask).then(first).twice()
    leave = NodeIsolated(node=N1, at_us=2, silences=silent[:1])
    lease.given(taken, leave).when(ask).then(first)
    lease.given(taken, first, NodeTrusted(node=N1, at_us=10)).when(ask).then(replace(first, letter=2))


def test_one_silent_path_makes_no_suspicion() -> None:
    lease.given(taken).when(SuspectNode(node="n1", silences=silent[:1], now_us=2)).refused(Refusal.NODE_ALIVE)
    lease.given(taken).when(SuspectNode(node="n1", silences=silent, now_us=2)).then(suspected).twice()
    lease.given(taken, suspected).when(TrustNode(node="n1", now_us=4)).then(NodeTrusted(node=N1, at_us=4)).twice()


def test_an_operators_word_is_recorded_and_not_taken_of_a_node_that_lives() -> None:
    word = ConfirmOff(node="n1", reason="its rack burnt", known=True, at_us=7)
    lease.given(taken).when(replace(word, alive="it asked for a lease 0.4 s ago")).refused(Refusal.NODE_ALIVE)
    lease.given(taken).when(replace(word, known=False)).refused(Refusal.NODE_UNKNOWN)
    outcome = lease.given(taken, suspected).when(word)
    (event,) = outcome.events
    assert isinstance(event, NodeLost) and event.proof.kind == ProofKind.OPERATOR and "its rack burnt" in event.proof.sentence
    outcome.twice()


def test_a_lost_node_may_be_known_to_run_nothing_at_all_later() -> None:
    """A lease proves nothing of what it did not guard; a device or somebody's word does."""
    history = (taken, suspected, lost_by(good))
    off = Proof(kind=ProofKind.FENCE, at_us=9, device="bmc1", sentence="off")
    proven = NodeOffProven(node=N1, boot_id="b1", epoch=1, at_us=5, proof=off)
    lease.given(*history).when(declare(off)).then(proven).twice()
    lease.given(*history).when(declare(good)).nothing()
    lease.given(*history).when(replace(declare(off), epoch=2)).nothing()
    word = ConfirmOff(node="n1", reason="its rack burnt", known=True, at_us=7)
    (event,) = lease.given(*history).when(word).twice().events
    assert isinstance(event, NodeOffProven) and event.proof.everything and event.epoch == 1
    lease.given(*history).when(replace(word, alive="it spoke 0.1 s ago")).refused(Refusal.NODE_ALIVE)
    lease.given(*history, proven).when(word).nothing()


def test_it_comes_back_in_the_next_epoch() -> None:
    fact = ReportReturned(node=N1, boot_id="b2", epoch=1, at_us=8)
    back = NodeReturned(node=N1, boot_id="b2", epoch=2, at_us=8)
    lease.given(taken, suspected, lost_by(good)).when(fact).then(back).twice()
    lease.given(taken).when(fact).refused(Refusal.NOT_LOST)
    lease.given(taken).when(replace(fact, epoch=2)).refused(Refusal.NOT_LOST)


def test_a_lease_that_ended_by_its_own_clock_is_said_by_the_node() -> None:
    outcome = lease.given(taken).when(ReportReturned(node=N1, boot_id="b1", epoch=1, at_us=8))
    gone, back = outcome.events
    assert isinstance(gone, NodeLost) and gone.proof.kind == ProofKind.ACKNOWLEDGED and not gone.proof.everything
    assert back == NodeReturned(node=N1, boot_id="b1", epoch=2, at_us=8)
    outcome.twice()


def test_a_lease_is_taken_by_later_terms_and_for_one_boot() -> None:
    take = TakeLease(node="n1", term=3, boot_id="b1", pools=("p",), address="10.0.0.11:7", now_us=1)
    lease.given().when(take).then(taken).twice()
    lease.given(taken).when(replace(take, term=2)).refused(Refusal.OLD_TERM)
    lease.given(taken).when(replace(take, boot_id="b2")).refused(Refusal.NODE_ALIVE)
    lease.given(taken).when(replace(take, term=4)).then(replace(taken, term=4))
    lease.given(taken).when(ForgetNode(node="n1")).then(LeaseForgotten(node=N1, epoch=2)).twice()


def test_terms_rise_and_a_holder_begins_one() -> None:
    first = TermBegan(term=1, holder="a.1", at_us=1, wait_us=FAST.successor_us)
    ha.given().when(BeginTerm(holder="a.1", now_us=1)).then(first).twice()
    ha.given(first).when(BeginTerm(holder="b.1", now_us=1)).then(replace(first, term=2, holder="b.1"))


def test_disarmed_armed_held() -> None:
    off = HaDisarmed(reason="works", until_us=50)
    ha.given().when(DisarmHa(reason="works", until_us=50)).then(off).twice()
    ha.given().when(DisarmHa(reason=" ")).refused(Refusal.BAD_SETTINGS)
    ha.given(off).when(RearmHa(now_us=49)).nothing()
    ha.given(off).when(RearmHa(now_us=50)).then(HaArmed(over=True)).twice()
    ha.given(off).when(ArmHa(at_us=9)).then(HaArmed(at_us=9)).twice()
    held = HaHeld(sentence="is it me?", remedy="look")
    ha.given().when(HoldHa(sentence="is it me?", remedy="look", now_us=1)).then(held).twice()
    ha.given(held).when(HoldHa(now_us=1)).then(HaReleased()).twice()
    ha.given(held).when(ArmHa(at_us=9)).then(HaArmed(at_us=9))


def test_settings() -> None:
    ha.given().when(SetHa(tolerant=True, lost_max=3)).then(HaSet(settings=HaSettings(tolerant=True, lost_max=3))).twice()
    ha.given().when(SetHa(reserve_nodes=3, nodes=3)).refused(Refusal.BAD_SETTINGS)
    ha.given().when(SetHa(reserve=Reserve.NONE, nodes=1)).then(HaSet(settings=HaSettings(reserve=Reserve.NONE)))
