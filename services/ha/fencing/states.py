"""A node's fence device, as it stands.

NoFence ──set──▶ untested ──tested well──▶ ready ──FenceRequested──▶ job ──FenceConfirmed | FencePoweredOn──▶ ready
                    ▲                        │                        │
                    └───── a test failed ────┘                        └─three tries came to nothing─▶ ready, `failed` says why
"""

from __future__ import annotations

from libs.common.messages import Value
from proto.fence import Device, Power, Want


class Tested(Value):
    ok: bool
    at_us: int
    power: Power = Power.UNKNOWN
    sentence: str = ""
    remedy: str = ""


class Job(Value):
    """What the device is asked to do. tries: that came to nothing; due_us: not to be tried before."""

    attempt: int
    want: Want
    identity: str
    apart_ms: int
    epoch: int
    boot_id: str
    at_us: int
    due_us: int
    by: str = ""
    tries: int = 0


class Failed(Value):
    want: Want
    at_us: int
    sentence: str


class Fence(Value):
    """number: of the latest test that was asked for, noted: of the latest that was answered. identity: of the machine that answered
    when it was tested well for the first time. off_us: when it was confirmed that the power is off; 0: it is not known to be."""

    node: str = ""
    device: Device | None = None
    number: int = 0
    noted: int = 0
    tested: Tested | None = None
    identity: str = ""
    doubt: str = ""
    attempt: int = 0
    job: Job | None = None
    failed: Failed | None = None
    off_us: int = 0

    @property
    def waits(self) -> bool:
        """Something is to be asked of it, now or soon."""
        return self.job is not None or (self.device is not None and self.noted < self.number)

    @property
    def ready(self) -> bool:
        """What it says may prove."""
        return self.why_not == ""

    @property
    def why_not(self) -> str:
        """Why nothing is proven by it; empty: it may be asked."""
        if self.device is None:
            return f"{self.node or 'the node'} has no fence device"
        if self.doubt:
            return self.doubt
        if self.tested is None or not self.identity:
            return (self.tested and self.tested.sentence) or f"the fence device of {self.node} was never tested"
        return "" if self.tested.ok else self.tested.sentence
