"""What a decision was made on, as its event records it: a line each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proto.drain import NodeDrainRequested
from proto.fence import FenceConfirmed, PowerRead
from proto.ladder import LadderClimbed, LadderDescended
from proto.lease import NodeIsolated, NodeLost, NodeOffProven, NodeSuspected, Proof, ProofKind, Silence
from proto.reserve import ReserveSet
from proto.vitals import Evidence, Finding, VerdictReached
from services.gateway.reclaim import figures
from services.gateway.why.placing import evidence_of
from services.gateway.words import count

LINES_MAX = 12


def evidence(event: Any, pools: Mapping[str, str]) -> list[str]:
    """Nothing for events that no figures belong to. pools: their names, by their words."""
    match event:
        case LadderClimbed() | LadderDescended():
            return figures(event.steps)
        case NodeSuspected() | NodeIsolated():
            return [_silence(silence) for silence in event.silences]
        case NodeLost() | NodeOffProven():
            return _proof(event.proof, pools)
        case FenceConfirmed():
            return [_read(read) for read in event.reads]
        case VerdictReached():
            return _verdict(event.evidence)
        case ReserveSet(plan=plan):
            return [f"{node}: {mib} MiB" for node, mib in sorted(plan.shares.items()) if mib][:LINES_MAX]
        case NodeDrainRequested(plan=plan):
            return [f"{move.vm} fits {move.to}" for move in plan.moves[:LINES_MAX]]
        case _:
            return evidence_of(event)


def _silence(silence: Silence) -> str:
    proven = ", as two reads show" if silence.proven else ""
    return f"{silence.path}: silent for {silence.for_us / 1e6:.1f} s{proven}"


def _proof(proof: Proof, pools: Mapping[str, str]) -> list[str]:
    """Spans, as the grantor's clock is nobody else's."""
    by = proof.at_us
    match proof.kind:
        case ProofKind.LEASE:
            lines = [f"last granted {_ago(by, proof.granted_us)} before"] if proof.granted_us else []
            for pool, seen_us in sorted(proof.seen_us.items()):
                record = f"record {proof.sequences[pool]} of its lease" if pool in proof.sequences else "its record"
                lines.append(f"pool {pools.get(pool, pool)}: {record} was first seen {_ago(by, seen_us)} before, and is the last")
            lines += [f"a fresh read was asked for {_ago(by, proof.read_us)} before"] if proof.read_us else []
            waited = f"waited for {proof.waited_us / 1e6:.2f} s: the lease, what clocks may drift, and a margin"
            lines += [waited] if proof.waited_us else []
        case ProofKind.FENCE:
            lines = [f"device {proof.device}"] if proof.device else []
        case ProofKind.ACKNOWLEDGED:
            lines = [f"letter {proof.letter}, which it answered in its record; {count(len(proof.vms), 'VM')} ended"]
        case ProofKind.OPERATOR:
            lines = [f"said by {proof.who}"] if proof.who else []
        case _:
            lines = []
    return [*lines, *(["another boot of the node was asking by then"] if proof.anew else []), f"term {proof.term} of the grantor"]


def _ago(by_us: int, then_us: int) -> str:
    return f"{(by_us - then_us) / 1e6:.2f} s"


def _read(read: PowerRead) -> str:
    said = f"no answer: {read.error}" if read.error else f"power {read.power}"
    of = f", machine {read.identity}" if read.identity else ""
    return f"{read.after_ms} ms after the order: {said}{of}"


def _verdict(found: Evidence) -> list[str]:
    lines = [_finding(finding) for finding in found.findings]
    lines += [f"its screen: {found.screen.line}"] if found.screen is not None and found.screen.line else []
    lines += [f"its last word: {line}" for line in found.said.splitlines()[-1:] if line.strip()]
    return [*lines, f"it had been up for {found.up_s:.0f} s"]


def _finding(finding: Finding) -> str:
    lasted = f" for {finding.for_s:.0f} s" if finding.for_s else ""
    return f"{finding.sign}: {finding.word}{lasted}" + (f" ({finding.sentence})" if finding.sentence else "")
