"""Verdicts on VMs, the latest few of each, as the events tell of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded
from proto.compute import VmDefined, VmDeleted
from proto.vitals import Finding, VerdictLifted, VerdictReached

KEPT_MAX = 16
"""of one VM"""


class Verdict(msgspec.Struct):
    """What was found of a VM, and why. kind: `panic`, `hang`, `died`, `watchdog`. treated: it is ended and started again; why_not:
    if not; lifted: it showed life again, and how. picture: the digest of what its screen showed ("": none was taken); screen: what
    that is, line: what was read on it. at_us: microseconds since the epoch."""

    vm: str
    number: int
    kind: str
    node: str
    generation: int
    at_us: int
    sentence: str
    treated: bool
    why_not: str = ""
    lifted: str = ""
    findings: tuple[Finding, ...] = ()
    said: str = ""
    up_s: float = 0.0
    picture: str = ""
    screen: str = ""
    line: str = ""


@dataclass(slots=True)
class VerdictsView:
    """all: of each VM that has some, the oldest first."""

    all: dict[str, list[Verdict]] = field(default_factory=dict)

    def of(self, vm: str) -> list[Verdict]:
        return self.all.get(vm, [])

    def find(self, vm: str, number: int) -> Verdict | None:
        """0: the latest."""
        found = self.of(vm)
        return found[-1] if found and not number else next((v for v in found if v.number == number), None)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case VerdictReached(vm=vm):
                self.all[vm] = [*self.of(vm)[1 - KEPT_MAX :], _reached(event)]
            case VerdictLifted(vm=vm):
                if (one := self.find(vm, event.number)) is not None:
                    one.lifted = event.sentence
            case VmDefined(vm=vm) | VmDeleted(vm=vm):
                self.all.pop(vm, None)
            case _:
                pass


def _reached(event: VerdictReached) -> Verdict:
    evidence, screen = event.evidence, event.evidence.screen
    return Verdict(
        vm=event.vm,
        number=event.number,
        kind=event.kind,
        node=event.node,
        generation=event.generation,
        at_us=event.at_us,
        sentence=event.sentence,
        treated=event.treated,
        why_not=event.why_not,
        findings=evidence.findings,
        said=evidence.said,
        up_s=evidence.up_s,
        picture=screen.digest if screen else "",
        screen=screen.look if screen else "",
        line=screen.line if screen else "",
    )
