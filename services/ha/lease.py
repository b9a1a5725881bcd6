"""The lease of one node (stream `lease-NODE`). Pure. Decides what was concluded of it; each conclusion is checked again here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import replace

from libs.common.decider import Decider, Refused
from libs.common.messages import NodeId
from proto.lease import (
    ConfirmOff,
    DeclareLost,
    ForgetNode,
    IsolateNode,
    LeaseCommand,
    LeaseEvent,
    LeaseForgotten,
    LeaseTaken,
    NodeIsolated,
    NodeLost,
    NodeOffProven,
    NodePathsNoted,
    NodeReturned,
    NodeSuspected,
    NodeTrusted,
    NotePaths,
    Proof,
    ProofKind,
    Refusal,
    ReportReturned,
    SuspectNode,
    TakeLease,
    TrustNode,
)
from services.ha.proof import fault
from services.ha.states import Isolated, Lease, Lost, Suspected, Trusted, of

PATHS_MIN = 2
"""silent paths that make a suspicion; one alone is a fault of that path as likely as of the node"""


def decide(command: LeaseCommand, lease: Lease) -> Sequence[LeaseEvent]:
    node = NodeId(command.node)
    match command:
        case TakeLease():
            return _take(command, lease)
        case SuspectNode():
            return _suspect(command, lease)
        case TrustNode():
            silent = isinstance(lease, Suspected | Isolated)
            return [NodeTrusted(node=node, at_us=command.now_us)] if silent else ()
        case IsolateNode():
            return _isolate(command, lease)
        case DeclareLost():
            return _declare(command, lease)
        case NotePaths():
            noted = NodePathsNoted(
                node=node, at_us=command.now_us, pools=command.pools, networks=command.networks, move=command.move,
                mute=command.mute,
            )  # fmt: skip
            return () if evolve(lease, noted) == lease else [noted]
        case ConfirmOff():
            return _confirm(command, lease)
        case ForgetNode():
            fresh = lease == Trusted(epoch=lease.epoch)
            return () if fresh else [LeaseForgotten(node=node, epoch=lease.epoch + 1)]
        case ReportReturned():
            return _returned(command, lease)


def _take(command: TakeLease, lease: Lease) -> Sequence[LeaseEvent]:
    check_term(command.term, lease)
    if command.epoch > lease.epoch:
        return _found(command, lease)
    if lease.boot_id and command.boot_id != lease.boot_id:
        said = f"{command.node} has its lease in boot {lease.boot_id}, not {command.boot_id}"
        raise Refused(Refusal.NODE_ALIVE, said, "wait until that one is spent")
    taken = _taken(command)
    return () if evolve(lease, taken) == lease else [taken]


def _taken(command: TakeLease) -> LeaseTaken:
    return LeaseTaken(
        node=NodeId(command.node), term=command.term, boot_id=command.boot_id, at_us=command.now_us,
        pools=tuple(sorted(set(command.pools))), tolerant=command.tolerant, address=command.address, told_in=command.told_in,
    )  # fmt: skip


def _found(command: TakeLease, lease: Lease) -> Sequence[LeaseEvent]:
    """The log was restored to before this epoch began, and the node holds its lease on: whatever was of earlier epochs has ended,
    or it would not have begun."""
    if not command.told_in:
        said = f"the lease of {command.node} is of epoch {lease.epoch}, not {command.epoch}"
        raise Refused(Refusal.NOT_LOST, said, f"ask for a lease of epoch {lease.epoch}")
    node, boot_id = NodeId(command.node), command.boot_id
    back = NodeReturned(node=node, boot_id=boot_id, epoch=command.epoch, at_us=command.now_us, held=True)
    return [back, _taken(command)]


def check_term(term: int, lease: Lease) -> None:
    """A grantor whose successor has taken this lease concludes nothing about it any more."""
    if term < lease.term:
        said = f"the grantor of term {lease.term} has taken this lease; this came from term {term}"
        raise Refused(Refusal.OLD_TERM, said, "nothing: a later grantor sees to it")


def _suspect(command: SuspectNode, lease: Lease) -> Sequence[LeaseEvent]:
    if isinstance(lease, Lost) or (isinstance(lease, Suspected) and lease.unread == command.unread):
        return ()
    if isinstance(lease, Suspected):
        again = NodeSuspected(
            node=NodeId(command.node), at_us=lease.since_us, silences=command.silences or lease.silences,
            planned=lease.planned, unread=command.unread,
        )  # fmt: skip
        return [again]
    if len({silence.path for silence in command.silences}) < PATHS_MIN:
        raise Refused(
            Refusal.NODE_ALIVE, f"fewer than {PATHS_MIN} paths to {command.node} are silent", "nothing: it is alive"
        )
    suspected = NodeSuspected(
        node=NodeId(command.node), at_us=command.now_us, silences=command.silences, planned=command.planned, unread=command.unread,
    )  # fmt: skip
    return [suspected]


def _isolate(command: IsolateNode, lease: Lease) -> Sequence[LeaseEvent]:
    if isinstance(lease, Lost):
        return ()
    if isinstance(lease, Isolated) and (lease.asked or not command.evacuate):
        return ()
    letter = lease.letter + 1 if command.evacuate else 0
    return [NodeIsolated(node=NodeId(command.node), at_us=command.now_us, silences=command.silences, letter=letter)]


def _declare(command: DeclareLost, lease: Lease) -> Sequence[LeaseEvent]:
    """Once per epoch. Of a node that was lost by a proof of what it guarded, a proof of everything says more."""
    proof = command.proof
    if isinstance(lease, Lost):
        same = (command.epoch, command.boot_id) == (lease.epoch, lease.boot_id)
        return _off(command.node, lease, command.now_us, proof) if same and not fault(lease, proof) else ()
    if command.epoch < lease.epoch:
        return ()
    check_term(proof.term, lease)
    wrong = fault(lease, proof)
    if (command.epoch, command.boot_id) != (lease.epoch, lease.boot_id):
        wrong = f"it is about epoch {command.epoch} in boot {command.boot_id or 'none'}; the lease is of epoch {lease.epoch}"
    if wrong:
        raise Refused(
            Refusal.BAD_PROOF, f"{command.node} is not declared lost: {wrong}", "wait, read again, prove again"
        )
    return [lost(command.node, lease, command.now_us, proof)]


def lost(node: str, lease: Lease, at_us: int, proof: Proof) -> NodeLost:
    return NodeLost(node=NodeId(node), boot_id=lease.boot_id, epoch=lease.epoch, at_us=at_us, proof=proof)


def _off(node: str, lease: Lost, at_us: int, proof: Proof) -> Sequence[LeaseEvent]:
    if lease.proof.everything or not proof.everything:
        return ()
    return [NodeOffProven(node=NodeId(node), boot_id=lease.boot_id, epoch=lease.epoch, at_us=at_us, proof=proof)]


def _confirm(command: ConfirmOff, lease: Lease) -> Sequence[LeaseEvent]:
    if not command.known:
        raise Refused(Refusal.NODE_UNKNOWN, f"{command.node} is not a node of this cluster", "see `asvctl node ls`")
    if isinstance(lease, Lost) and lease.proof.everything:
        return ()
    if command.alive:
        said = f"{command.node} is not off: {command.alive}"
        raise Refused(
            Refusal.NODE_ALIVE, said, "switch it off first, or drain it; a node that is alive is never declared lost"
        )
    sentence = f"an operator says that it is off: {command.reason}"
    proof = Proof(kind=ProofKind.OPERATOR, at_us=command.at_us, who="operator", sentence=sentence)
    if isinstance(lease, Lost):
        return _off(command.node, lease, command.at_us, proof)
    return [lost(command.node, lease, command.at_us, proof)]


def _returned(fact: ReportReturned, lease: Lease) -> Sequence[LeaseEvent]:
    """Of a lease that ended by its own clock before anybody concluded that, the node says so itself; it begins no other of that
    epoch. Nor of one that a restored log has forgotten: that began once those before it had ended."""
    if fact.epoch < lease.epoch:
        return ()
    back = NodeReturned(node=fact.node, boot_id=fact.boot_id, epoch=fact.epoch + 1, at_us=fact.at_us)
    forgotten = fact.epoch > lease.epoch and fact.incarnation > 1
    if isinstance(lease, Lost) and (fact.epoch == lease.epoch or forgotten):
        return [back]
    if not forgotten and (fact.epoch, fact.boot_id) != (lease.epoch, lease.boot_id):
        said = f"{fact.node} was not declared lost in epoch {fact.epoch}"
        raise Refused(Refusal.NOT_LOST, said, f"ask for a lease of epoch {lease.epoch}")
    sentence = "it says itself that its lease has ended and that nothing of it is left"
    proof = Proof(kind=ProofKind.ACKNOWLEDGED, at_us=fact.at_us, sentence=sentence)
    return [NodeLost(node=fact.node, boot_id=fact.boot_id, epoch=fact.epoch, at_us=fact.at_us, proof=proof), back]


def evolve(lease: Lease, event: LeaseEvent) -> Lease:
    match event:
        case LeaseTaken():
            return replace(
                lease, term=event.term, boot_id=event.boot_id, pools=event.pools, tolerant=event.tolerant,
                address=event.address, told_in=event.told_in,
            )  # fmt: skip
        case NodeSuspected():
            return of(
                Suspected, lease, since_us=event.at_us, silences=event.silences, planned=event.planned, unread=event.unread
            )
        case NodeTrusted():
            return of(Trusted, lease)
        case NodeIsolated():
            kept = {"letter": event.letter} if event.letter else {}
            since = lease.since_us if isinstance(lease, Isolated) else event.at_us
            return of(Isolated, lease, since_us=since, silences=event.silences, asked=bool(event.letter), **kept)
        case NodeLost():
            lost_us = event.at_us if _surprises(lease, event.proof) else lease.lost_us
            return of(Lost, lease, since_us=event.at_us, proof=event.proof, lost_us=lost_us)
        case NodeOffProven():
            return replace(lease, proof=event.proof) if isinstance(lease, Lost) else lease
        case NodeReturned():
            return Trusted(
                epoch=event.epoch, boot_id=event.boot_id, term=lease.term, letter=lease.letter, lost_us=lease.lost_us
            )
        case NodePathsNoted():
            return replace(lease, stuck=event.pools, networks=event.networks, mute=event.mute)
        case LeaseForgotten():
            return Trusted(epoch=event.epoch)


def _surprises(lease: Lease, proof: Proof) -> bool:
    """A loss that we concluded ourselves, and that nobody had announced, nor the node explained: enough of these are a storm."""
    if isinstance(lease, Suspected) and lease.planned:
        return False
    concluded = proof.kind in (ProofKind.LEASE, ProofKind.FENCE) or (proof.kind == ProofKind.ACKNOWLEDGED and proof.letter > 0)
    return concluded and not proof.anew


LEASE: Decider[LeaseCommand, Lease, LeaseEvent] = Decider(
    kind="lease",
    commands=get_args(LeaseCommand),
    events=get_args(LeaseEvent),
    state=Lease,
    key=lambda command: command.node,
    initial=Trusted(),
    decide=decide,
    evolve=evolve,
)
