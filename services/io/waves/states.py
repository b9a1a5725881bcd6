"""A wave, and how far each step of it is; the machine is drawn in model.py."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from libs.common.messages import Value
from proto.waves import WaveStep


class Word(StrEnum):
    """running: its VM was seen to run, whatever became of it since."""

    WAITING = "waiting"
    BEGUN = "begun"
    RUNNING = "running"
    FAILED = "failed"


class Far(Value):
    """How far a step is. attempt: how often its recovery was asked for; at_us: when last; since_us: when first."""

    word: Word = Word.WAITING
    attempt: int = 0
    at_us: int = 0
    since_us: int = 0
    first_ms: int = 0


WAITING = Far()


class Wave(Value):
    """steps: none: it was not asked for yet. far: of the steps that wait no more."""

    steps: tuple[WaveStep, ...] = ()
    far: dict[str, Far] = msgspec.field(default_factory=dict)
    at_once: int = 4
    copying_max: int = 0
    bandwidth_mibps: int = 0
    cancelled: bool = False
    ended: bool = False

    def of(self, vm: str) -> Far:
        return self.far.get(vm, WAITING)
