"""Verdicts on one VM (stream `verdict-VM`): its guest panicked, hangs, or its process died. Pure.

    JudgeVm, with evidence ──▶ VerdictReached, once per generation and kind ──▶ compute ends it, its guard has it started again
                                      └─ treated=False (its guard says so): VerdictLifted once it shows life again

Who judges by telemetry judges again here, on what the command holds: so a recorded verdict can be decided again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import replace

from libs.common.decider import Decider
from libs.common.messages import NodeId, Value, VmId
from proto.vitals import (
    Evidence,
    Finding,
    JudgeVm,
    Kind,
    LiftVerdict,
    Look,
    Sign,
    VerdictCommand,
    VerdictEvent,
    VerdictLifted,
    VerdictReached,
)
from services.ha.verdict_rule import lone_watchdog, two_signs

FINAL = (Kind.PANIC, Kind.HANG, Kind.DIED)
"""after one of these that was treated, nothing is judged of that generation any more"""


class Judged(Value, tag=True, kw_only=True):
    """number: of verdicts so far. reached: of this generation, in order; open: those of them upon which nothing was done."""

    number: int = 0
    generation: int = 0
    reached: tuple[Kind, ...] = ()
    open: tuple[VerdictReached, ...] = ()
    treated: bool = False


def decide(command: VerdictCommand, state: Judged) -> Sequence[VerdictEvent]:
    match command:
        case JudgeVm():
            return _judge(command, state)
        case LiftVerdict():
            return _lift(command, state)


def _judge(command: JudgeVm, state: Judged) -> Sequence[VerdictEvent]:
    kind, evidence = command.kind, command.evidence
    if kind is None or evidence is None or command.held or known(command, kind, state):
        return ()
    if kind is Kind.HANG and not two_signs(evidence.findings):
        return ()
    if kind is Kind.WATCHDOG and not lone_watchdog(evidence.findings):
        return ()
    treated = command.treated and kind is not Kind.WATCHDOG
    return [
        VerdictReached(
            vm=VmId(command.vm), node=NodeId(command.node), generation=command.generation, number=state.number + 1,
            kind=kind, at_us=command.now_us, sentence=sentence(kind, evidence), evidence=evidence, treated=treated,
            why_not="" if treated else command.why_not or "one sign is no verdict",
        )
    ]  # fmt: skip


def known(command: JudgeVm, kind: Kind, state: Judged) -> bool:
    """Judged already, or of the past."""
    if command.generation != state.generation:
        return command.generation < state.generation
    return not command.again if state.treated else kind in state.reached


def _lift(command: LiftVerdict, state: Judged) -> Sequence[VerdictEvent]:
    if command.generation != state.generation:
        return ()
    return [
        VerdictLifted(vm=v.vm, generation=v.generation, number=v.number, kind=v.kind, sentence=command.sentence)
        for v in state.open
    ]


def evolve(state: Judged, event: VerdictEvent) -> Judged:
    match event:
        case VerdictReached():
            same = event.generation == state.generation
            return Judged(
                number=event.number,
                generation=event.generation,
                reached=(*(state.reached if same else ()), event.kind),
                open=(*(state.open if same else ()), *(() if event.treated else (event,))),
                treated=event.treated and event.kind in FINAL,
            )
        case VerdictLifted():
            # what it shows later is judged anew
            return replace(
                state,
                reached=tuple(kind for kind in state.reached if kind is not event.kind),
                open=tuple(v for v in state.open if v.number != event.number),
            )


def sentence(kind: Kind, evidence: Evidence) -> str:
    said = ", ".join(word for finding in evidence.findings if (word := in_words(finding)))
    match kind:
        case Kind.PANIC:
            return evidence.said or "the guest panicked"
        case Kind.DIED:
            return evidence.said or "QEMU ended by itself"
        case Kind.HANG:
            return f"its guest hangs: {said}"
        case Kind.WATCHDOG:
            return f"its guest's watchdog ran out, and no other sign agrees: {said}"


def in_words(finding: Finding) -> str:
    if finding.sentence:
        return finding.sentence
    for_s = f" for {finding.for_s:.0f} s"
    match finding.sign, finding.word:
        case Sign.AGENT, "silent":
            return f"its agent has not answered{for_s}"
        case Sign.WATCHDOG, "ran-out":
            return f"its watchdog ran out {finding.for_s:.0f} s ago"
        case Sign.IO, "still":
            return f"nothing was read, written or sent{for_s}"
        case Sign.CPU, "spins":
            return f"a vCPU turns round without a pause{for_s}"
        case Sign.CPU, "stands":
            return f"no vCPU has run{for_s}"
        case Sign.SCREEN, Look.PANIC:
            return "its screen shows a kernel's last words"
        case Sign.SCREEN, Look.BLUE:
            return "its screen is blue"
        case _:
            return ""


VERDICT: Decider[VerdictCommand, Judged, VerdictEvent] = Decider(
    kind="verdict",
    commands=get_args(VerdictCommand),
    events=get_args(VerdictEvent),
    state=Judged,
    key=lambda command: command.vm,
    initial=Judged(),
    decide=decide,
    evolve=evolve,
)
