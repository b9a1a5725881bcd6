"""Does a proof hold by its own figures? Asked again by the decider of `lease-NODE`, whoever made it. Pure.

A lease is spent when all of this is so, W being L x (1 + drift) + margin of the longest lease that can be in the node's hands:

    the last grant was W before the last fresh read was asked for: whatever the node wrote while it held that lease is there to
        be read; by its own clock the lease ended before
    in each pool by which it can renew, the record that was read was there for W already when that read was asked for
    with no such pool, the last grant was W ago
"""

from __future__ import annotations

from proto.lease import Proof, ProofKind
from services.ha.states import Isolated, Lease, Suspected


def fault(lease: Lease, proof: Proof) -> str:
    """Why it does not hold, in a sentence; "" where it does."""
    if proof.kind == ProofKind.FENCE:
        return "" if proof.device else "no device is named that would have confirmed it"
    if proof.kind == ProofKind.LEASE:
        return _spent(lease, proof)
    if proof.kind == ProofKind.ACKNOWLEDGED:
        return _acknowledged(lease, proof)
    return f"a proof of kind {proof.kind} is not made by a grantor"


def _spent(lease: Lease, proof: Proof) -> str:
    if not isinstance(lease, Suspected | Isolated):
        return "the node is not suspected"
    wait_us = lease.times.waited_us
    if proof.waited_us < wait_us:
        return f"{proof.waited_us} us were waited; its lease takes {wait_us} us to be spent"
    asked_us = proof.read_us if lease.pools else proof.at_us
    if asked_us - proof.granted_us < wait_us:
        return f"its last grant was {asked_us - proof.granted_us} us ago, less than {wait_us} us"
    if proof.at_us < asked_us:
        return "the last read was asked for after the proof was made"
    for pool in lease.pools:
        if pool not in proof.seen_us or pool not in proof.sequences:
            return f"its record in pool {pool} was not read, by which it may have renewed"
        if proof.read_us - proof.seen_us[pool] < wait_us:
            still_us = proof.read_us - proof.seen_us[pool]
            return f"its record in pool {pool} had stood still for {still_us} us, less than {wait_us} us"
    return ""


def _acknowledged(lease: Lease, proof: Proof) -> str:
    if not isinstance(lease, Isolated) or not lease.asked:
        return "the node was not asked for its VMs"
    if proof.letter != lease.letter:
        return f"it answered letter {proof.letter}, and letter {lease.letter} was the last"
    return ""
