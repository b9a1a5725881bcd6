"""The guards of the grantor, each a small function of figures. Pure. docs/ha.md says what goes wrong without each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from libs.lease.times import FAST, Times
from proto.lease import AskGrant, Proof, ProofKind, Silence
from services.ha.signs import Node
from services.ha.states import Isolated, Lease, Lost, Suspected

WIDEN = 2
"""how many times longer it takes to become suspicious of a node that says it is slow, or when the grantor itself was late"""
SLOW_US = 10_000_000
PATHS_MIN = 2


def may_sign(now_us: int, checked_us: int | None) -> bool:
    """A grantor signs (grants, declares) only while it knows its lock: G after it *sent* the last check that succeeded."""
    return checked_us is not None and now_us - checked_us <= FAST.sign_us


def wait_us(times: Times) -> int:
    """From the last sign of life: the lease is spent, by any clock that drifts no more than it may."""
    return times.waited_us


def floor_us(granted_us: int, began_us: int) -> int:
    """When the node can have been granted something last: by this grantor, or by the one before, which signs for G more at most."""
    return max(granted_us, began_us + FAST.sign_us)


def suspicious(silences: Sequence[Silence]) -> bool:
    """One path that is silent is a fault of the path as likely as of the node."""
    return len({silence.path for silence in silences}) >= PATHS_MIN


def patience_us(now_us: int, node: Node, times: Times, late_us: int) -> int:
    """How long a path may be silent before that counts towards a suspicion (never towards a proof)."""
    tired = now_us - node.slow_us < SLOW_US or now_us - late_us < SLOW_US
    return times.suspect_us * (WIDEN if tired else 1)


def provable(lease: Lease) -> bool:
    """A suspicion starts nothing, and without one nothing is proven. A node whose record moves lives, however silent it is."""
    return isinstance(lease, Suspected)


def untold(lease: Lease, ask: AskGrant, incarnation: int) -> bool:
    """The log was restored, and may have forgotten when this lease began, or that it was declared lost: the node's word comes
    first, whether it has ended by its own clock."""
    if incarnation <= 1 or lease.told_in >= incarnation:
        return False
    known = ask.epoch == lease.epoch and ask.boot_id == lease.boot_id and not isinstance(lease, Lost)
    return known or ask.epoch > lease.epoch


def lasts(lease: Lease, ask: AskGrant) -> bool:
    """Nobody can have declared it lost: it has been held without a break, and by the node's own clock it has not ended. An agent
    that never says is believed for what the log knows of."""
    return ask.left_us > 0 if ask.left_us is not None else ask.epoch == lease.epoch


def over(ask: AskGrant) -> bool:
    """It has ended by the node's own clock: that it was declared lost may be forgotten."""
    return ask.left_us == 0


UNREAD_US = 10_000_000
"""of a node that is heard: so long after nobody has read its record in a pool any more, that pool is none of its lease's"""


def unread(node: Node, pools: Collection[str], since_us: int, now_us: int) -> frozenset[str]:
    """Pools in which nobody reads this node's record any more, while it is read in another: they prove nothing, and a node that
    renewed by them could never be proven lost. It is granted by the others only. since_us: when this observer began to listen."""
    ago = {pool: now_us - max(node.record(pool).newest_us, since_us, node.since_us) for pool in pools}
    read = any(for_us <= FAST.suspect_us for for_us in ago.values())
    return frozenset(pool for pool, for_us in ago.items() if read and for_us > UNREAD_US)


def control_spent(asked_us: int, floor: int, wait: int) -> bool:
    """asked_us: when the last read was asked for (without pools: now)."""
    return asked_us - floor >= wait


def storage_spent(node: Node, pools: Sequence[str], read_us: int, now_us: int, wait: int) -> dict[str, int] | None:
    """By pool since when its record stands still, that having been so for long enough when it was read afresh; None: not so, or not
    known, in one of them. read_us: when the earliest of those reads was asked for."""
    still: dict[str, int] = {}
    for pool in pools:
        read = node.fresh.get(pool)
        since = node.record(pool).still_since(read.mark, now_us) if read is not None else None
        if since is None or read_us - since < wait:
            return None
        still[pool] = since
    return still


def spent(now_us: int, lease: Lease, node: Node, floor: int, term: int) -> Proof | None:
    """The proof that the lease is spent on both paths, once it is."""
    wait = wait_us(lease.times)
    read_us = min((node.fresh[pool].sent_us for pool in lease.pools if pool in node.fresh), default=now_us)
    if not control_spent(read_us, floor, wait):
        return None
    still = storage_spent(node, lease.pools, read_us, now_us, wait)
    if still is None:
        return None
    last_us = max([floor, *still.values()])
    ago = f"its last sign of life was {(now_us - last_us) / 1e6:.2f} s ago"
    said = f"{ago}; after {wait / 1e6:.2f} s its lease is spent on every path"
    return Proof(
        kind=ProofKind.LEASE, at_us=now_us, term=term, granted_us=floor, seen_us=still,
        sequences={pool: node.fresh[pool].mark for pool in lease.pools if pool in node.fresh},
        read_us=read_us if lease.pools else 0, waited_us=wait, sentence=said,
    )  # fmt: skip


def acknowledged(now_us: int, lease: Lease, node: Node, term: int) -> Proof | None:
    """The node's own word in its record, in answer to the last letter, that what it had under the lease is gone."""
    answer = node.answer
    if not isinstance(lease, Isolated) or not lease.asked or answer is None or answer.boot_id != lease.boot_id:
        return None
    if answer.acknowledged != lease.letter or answer.epoch != lease.epoch:
        return None
    what = ", ".join(answer.done) or "all that it had under its lease"
    said = f"its record says, in answer to letter {lease.letter}, that it has ended {what}"
    return Proof(
        kind=ProofKind.ACKNOWLEDGED, at_us=now_us, term=term, letter=lease.letter, vms=answer.done, sentence=said
    )


def moves(unlinked: int, nodes: int) -> bool:
    """Where as many nodes have lost a network as have it, it is not the nodes: moving VMs about helps nobody."""
    return 2 * unlinked < nodes


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing is declared lost by itself, and what helps."""

    sentence: str
    remedy: str


WORD = "look at them; `asvctl ha arm` says that they are down indeed, `asvctl ha confirm-off NODE --reason …` of one of them"


def quorum(nodes: int, heard: int, storage: bool, silent: Sequence[str]) -> Hold | None:
    """The observer doubts itself unless more than half of the nodes that are not lost are heard (they ask for grants, or their
    records move); that the shared storage is read counts as one more voice."""
    if 2 * (heard + storage) > nodes:
        return None
    said = f"of {nodes} nodes {heard} are heard; {_named(silent)} may be as well as I am: is it me?"
    return Hold(said, WORD)


def surprising(lease: Lease, anew: bool) -> bool:
    """Its silence is neither planned (a node that somebody had cordoned, or on which no VM ran) nor explained by the node itself,
    of which another boot asks: so that a cluster may be brought up to date, node by node, and still be guarded."""
    return not (anew or (isinstance(lease, Suspected) and lease.planned))


def storm(recent: Sequence[str], silent: Sequence[str], most: int, window_s: float) -> Hold | None:
    """Too many surprises at once: something else is wrong."""
    if not silent:
        return None
    count = len(set(recent) | set(silent))
    if count <= most:
        return None
    lost = f"{len(recent)} lost within {window_s:.0f} s and " if recent else ""
    said = f"{lost}{len(silent)} silent ({_named(silent)}): more than {most} at once"
    return Hold(said, WORD)


def _named(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
