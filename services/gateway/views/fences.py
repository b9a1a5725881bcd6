"""Fence devices of nodes, as the events tell of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded
from proto import fence as f


class FenceShown(msgspec.Struct):
    """state: `untested`, `ready`, `failing` (its last test failed), `doubted` (its word did not hold), `cutting`, `switching-on`,
    `off` (it confirmed that the power is off). sentence: why it is so; remedy: what helps. power, identity: as its last test saw
    them. tested_us, changed_us: microseconds since the epoch; 0: never. attempt: the last one; failed: why that came to nothing."""

    node: str
    kind: str
    address: str
    system: str = ""
    user: str = ""
    insecure: bool = False
    own_ca: bool = False
    cipher: int = 0
    call_s: float = 0.0
    state: str = "untested"
    sentence: str = ""
    remedy: str = ""
    power: str = "unknown"
    identity: str = ""
    tested_us: int = 0
    changed_us: int = 0
    attempt: int = 0
    failed: str = ""
    secret: str = ""

    @property
    def proves(self) -> bool:
        return self.state not in ("untested", "failing", "doubted")


@dataclass(slots=True)
class FencesView:
    all: dict[str, FenceShown] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        if isinstance(event, f.FenceSet):
            self.all[event.node] = _set(event)
        elif isinstance(event, f.FenceRemoved):
            self.all.pop(event.node, None)
        elif isinstance(event, TOLD) and (fence := self.all.get(event.node)) is not None:
            _told(fence, event)
        else:
            return
        if (fence := self.all.get(event.node)) is not None:
            fence.changed_us = recorded.at_us


TOLD = (
    f.FenceTestRequested, f.FenceTested, f.FenceRequested, f.FenceConfirmed, f.FenceFailed, f.FencePoweredOn, f.FenceDropped,
    f.FenceDoubted,
)  # fmt: skip


def _set(event: f.FenceSet) -> FenceShown:
    device = event.device
    return FenceShown(
        node=event.node, kind=device.kind, address=device.address, system=device.system, user=device.user,
        insecure=device.insecure, own_ca=bool(device.ca), cipher=device.cipher, call_s=device.call_s,
        secret=device.password.ref if device.password is not None else "",
    )  # fmt: skip


def _told(fence: FenceShown, event: Any) -> None:
    match event:
        case f.FenceTestRequested():
            if fence.state == "doubted":
                _stands(fence, "untested")
        case f.FenceTested(ok=ok):
            fence.tested_us, fence.power, fence.identity = event.at_us, event.power, event.identity or fence.identity
            if fence.state != "doubted" and not (fence.state == "off" and ok and event.power == f.Power.OFF):
                _stands(fence, "ready" if ok else "failing", event.sentence, event.remedy)
        case f.FenceRequested(want=want):
            fence.attempt, fence.failed = event.attempt, ""
            _stands(fence, "cutting" if want == f.Want.OFF else "switching-on", event.reason)
        case f.FenceConfirmed():
            fence.power = f.Power.OFF
            _stands(fence, "off", event.sentence)
        case f.FencePoweredOn():
            fence.power = f.Power.ON
            _stands(fence, "ready")
        case f.FenceFailed():
            fence.failed = event.sentence
            if event.last:
                _stands(fence, "ready", f"not known to be {event.want}: {event.sentence}")
        case f.FenceDropped():
            _stands(fence, "ready", event.sentence)
        case f.FenceDoubted():
            _stands(fence, "doubted", event.sentence, f"see to it, then asvctl ha fence test {event.node}")


def _stands(fence: FenceShown, state: str, sentence: str = "", remedy: str = "") -> None:
    fence.state, fence.sentence, fence.remedy = state, sentence, remedy
