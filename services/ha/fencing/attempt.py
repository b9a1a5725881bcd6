"""One try to switch a node's power. A stepper: what the device answered and the time in, what it is to be asked next out; a
NoteFence ends it. All judgement is the decider's (judge.py); here is only seen to it that the wrong machine is never switched.
No clock, no I/O.

    Look ──the machine of the test──▶ Order ──taken, needless──▶ Look, again and again ──wanted for long enough──▶ NoteFence
      └─ no answer, another one ─▶ NoteFence    └─ refused, silent ─▶ NoteFence     └─ the time is over ─▶ NoteFence
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proto.fence import READS_MAX, NoteFence, Ordered, Power, PowerRead, Want
from services.ha.fencing.device import AlreadySo, DeviceError, Seen, TimedOut
from services.ha.fencing.states import Job

TRY_MS = 12_000
"""from the order until the power has to be seen as wanted; BMCs take some seconds"""
EVERY_MS = 150
"""between two reads"""
PROOF_READS = READS_MAX // 2
"""those of a proof are all told, so they lie further apart where the first and the last do"""


@dataclass(frozen=True, slots=True)
class Moment:
    """wall_us: the time of day; mono_ms: by a clock that is never set."""

    wall_us: int
    mono_ms: int


@dataclass(frozen=True, slots=True)
class Look:
    """Ask for its power, so long from now."""

    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """Right before, whether it still is wanted is to be asked (`unwanted`)."""

    want: Want


type Step = Look | Order | NoteFence


@dataclass(slots=True)
class Try:
    """It begins with a Look. try_ms: for all reads after the order."""

    node: str
    job: Job
    try_ms: int = TRY_MS
    every_ms: int = EVERY_MS
    reads: list[PowerRead] = field(default_factory=list)
    became: Ordered = Ordered.NOT_SENT
    sent_ms: int = -1
    first: PowerRead | None = None
    """of those that say, without another word since, what is wanted"""

    def seen(self, asked: Moment, now: Moment, answer: Seen | DeviceError) -> Step:
        """after_ms of a read is that of its question, so that none counts as later than it is."""
        after_ms = -1 if self.sent_ms < 0 else asked.mono_ms - self.sent_ms
        if isinstance(answer, DeviceError):
            read = PowerRead(at_us=asked.wall_us, after_ms=after_ms, error=answer.sentence)
        else:
            read = PowerRead(at_us=asked.wall_us, after_ms=after_ms, power=answer.power, identity=answer.identity)
        self.reads.append(read)
        return self._before(read, now) if self.sent_ms < 0 else self._after(read, now)

    def unwanted(self, now: Moment) -> NoteFence:
        return self._note(now, Ordered.NOT_SENT, "not ordered, as it is not wanted any more")

    def ordered(self, sent: Moment, now: Moment, refused: DeviceError | None) -> Step:
        match refused:
            case None:
                self.became = Ordered.TAKEN
            case AlreadySo():
                self.became = Ordered.NEEDLESS
            case TimedOut():
                return self._note(now, Ordered.SILENT, refused.sentence)
            case DeviceError():
                return self._note(now, Ordered.FAILED, refused.sentence)
        self.sent_ms = sent.mono_ms
        return Look()

    def _before(self, read: PowerRead, now: Moment) -> Step:
        if read.error:
            return self._note(now, Ordered.NOT_SENT, f"not ordered, as it does not answer: {read.error}")
        if read.identity != self.job.identity:
            return self._note(now, Ordered.NOT_SENT)
        return Order(self.job.want)

    def _after(self, read: PowerRead, now: Moment) -> Step:
        """Until it was seen as wanted for long enough, or the time is over."""
        job, first = self.job, self.first
        good = not read.error and read.power == Power(job.want) and read.identity == job.identity
        self.first = (first or read) if good else None
        if first is not None and good and read.after_ms - first.after_ms >= job.apart_ms:
            return self._note(now, self.became)
        over = now.mono_ms - self.sent_ms >= self.try_ms
        if over or (not read.error and read.identity != job.identity):
            return self._note(now, self.became)
        return Look(max(self.every_ms, job.apart_ms // PROOF_READS))

    def _note(self, now: Moment, ordered: Ordered, error: str = "") -> NoteFence:
        return NoteFence(
            node=self.node, attempt=self.job.attempt, now_us=now.wall_us, ordered=ordered, reads=tuple(self.reads[-READS_MAX:]),
            error=error,
        )  # fmt: skip
