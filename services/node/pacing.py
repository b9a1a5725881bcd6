"""How fast a recovered VM's data may come home while its guest runs. Pure: what was seen goes in, what may be done comes out.

    first ──guest works──▶ learning ──normal known──▶ ramping ──full or felt──▶ working ◀──▶ idle
      └─────guest idle─────────────────────────────────────────────────────────────────────────▲

    first     nothing is known: the copy creeps for a moment
    learning  what the guest's writes take without the copy: it creeps
    ramping   what the storage gives, where that is not known: one reader, twice as fast with each look, until the storage gives
              no more, or the guest feels it; then without a limit for a moment (probing), for the floor is a part of what it gives
    working   from the floor on: additive increase; halved when the guest's writes take too long; never below the floor
    idle      everything, by several readers at once

One reader copies in turns: it reads, then writes. Guests hardly feel that (1.1 times the latency with no limit at all, where this
was measured); several readers at once take all that the storage has, and are for guests that do nothing.
"""

from __future__ import annotations

from enum import StrEnum
from functools import reduce

import msgspec

from services.node.spread import Spread, tails

MIB = 1024 * 1024
CREEP = 2 * MIB
"""bytes a second while the guest's normal latency is learnt: what one write of the guest does not feel"""
WORSE_MAX, WORSE_WELL = 1.9, 1.4
"""how much longer than normal writes may take before the rate is halved (twice is promised), and up to which it grows: on average,
and the slowest of them"""
SLOWEST, SLOWEST_OPS = 0.01, 5
"""the share of writes that are the slowest, and how many they are at least"""
FLOOR = 0.35
"""of the highest rate seen, below which the copy never goes: a fifth of what the storage gives to several readers is promised, and
one reader sees some 0.6 of that"""
STEP = 0.08
"""of the highest rate seen, by which it grows with each look that is well"""
IDLE_OPS_S, IDLE_OPS = 8.0, 2
"""requests a second, and in one look, up to which a guest counts as idle: the journals of one that does nothing write less"""
IDLE_SHARE = 0.1
"""of the time, up to which an idle guest waits for its few requests: one that waits longer is not idle but held up"""
IDLE_S, BUSY_S = 0.5, 0.25
"""for so long, before everything is taken, or not any more: a single burst of requests is no work"""
LEARN_S, LEARN_S_MAX = 1.0, 3.0
LEARN_OPS = 25
"""writes by which what is normal is known; after LEARN_S_MAX fewer do, and after LEARN_S none: a guest that only reads is not
waited for"""
SMOOTH_S = 1.0
"""over which latencies are compared: a few dozen writes of a guest that works a little"""
NEAR, SLOWER = 0.7, 0.2
"""from this part on of a rate that was too much, it grows by this part of a step only"""
RAMP_FROM = 64 * MIB
"""bytes a second, with which ramping begins"""
FULL = 0.8
"""of its limit, below which a copy is as fast as the storage lets it"""
PROBE_S = 0.25
"""two looks: in the first the job still waits out its former limit"""
FORGETS = 0.05
"""of the way to a lower rate, with each look"""
JUDGED_OPS = 5
"""writes in SMOOTH_S, below which nothing is said of how long they take"""


class Phase(StrEnum):
    FIRST = "first"
    LEARNING = "learning"
    RAMPING = "ramping"
    PROBING = "probing"
    WORKING = "working"
    IDLE = "idle"


class Seen(msgspec.Struct, frozen=True):
    """Between two looks: the guest's own requests at all its disks, and what was copied. ops: reads, writes and flushes; write_ns,
    flush_ns, read_ns: by all of them together; copied: bytes; spread: of the writes."""

    seconds: float
    ops: int = 0
    writes: int = 0
    flushes: int = 0
    write_ns: int = 0
    flush_ns: int = 0
    copied: int = 0
    read_ns: int = 0
    spread: Spread = Spread()

    @property
    def idle(self) -> bool:
        waited_s = (self.write_ns + self.flush_ns + self.read_ns) / 1e9
        return self.ops <= max(IDLE_OPS, IDLE_OPS_S * self.seconds) and waited_s <= IDLE_SHARE * self.seconds


class Normal(msgspec.Struct, frozen=True):
    """What a write and a flush of the guest take without the copy, on average, in ns; 0: not known. spread: of the writes."""

    write_ns: float = 0.0
    flush_ns: float = 0.0
    spread: Spread = Spread()

    @property
    def known(self) -> bool:
        return self.write_ns > 0 or self.flush_ns > 0


class Pace(msgspec.Struct, frozen=True):
    """best: the highest rate seen, bytes a second; speed: what is allowed while the guest works; edge: what was too much
    last; since_s: in this phase, quiet_s and busy_s: with
    a guest that is idle, or works; lately: what was seen in it, no older than SMOOTH_S (while learning: LEARN_S_MAX)."""

    phase: Phase = Phase.FIRST
    normal: Normal = Normal()
    best: float = 0.0
    speed: float = 0.0
    edge: float = 0.0
    since_s: float = 0.0
    quiet_s: float = 0.0
    busy_s: float = 0.0
    lately: tuple[Seen, ...] = ()

    @property
    def everything(self) -> bool:
        """Several readers may copy."""
        return self.phase is Phase.IDLE

    @property
    def limit(self) -> int:
        """Bytes a second for the stream job; 0: none."""
        match self.phase:
            case Phase.FIRST | Phase.LEARNING:
                return CREEP
            case Phase.PROBING | Phase.IDLE:
                return 0
            case Phase.RAMPING | Phase.WORKING:
                return max(CREEP, round(self.speed))


def after(pace: Pace, seen: Seen) -> Pace:
    """The pace from this look on."""
    if seen.seconds <= 0:
        return pace
    quiet_s, busy_s = (pace.quiet_s + seen.seconds, 0.0) if seen.idle else (0.0, pace.busy_s + seen.seconds)
    best = _best(pace, seen.copied / seen.seconds)
    kept = LEARN_S_MAX if pace.phase is Phase.LEARNING else SMOOTH_S
    now = msgspec.structs.replace(
        pace, best=best, since_s=pace.since_s + seen.seconds, quiet_s=quiet_s, busy_s=busy_s,
        lately=within((*pace.lately, seen), kept),
    )  # fmt: skip
    if quiet_s >= IDLE_S or (seen.idle and pace.phase is Phase.FIRST):
        return now if pace.phase is Phase.IDLE else _enter(now, Phase.IDLE)
    match pace.phase:
        case Phase.FIRST | Phase.IDLE:
            if busy_s < BUSY_S:
                return now
            return _at_work(now) if pace.normal.known else _enter(now, Phase.LEARNING)
        case Phase.LEARNING:
            return _learnt(now)
        case Phase.RAMPING:
            return _ramped(now, seen)
        case Phase.PROBING:
            return _enter(now, Phase.WORKING) if now.since_s >= PROBE_S else now
        case Phase.WORKING:
            return _judged(now, seen)


def _best(pace: Pace, rate: float) -> float:
    """What a storage gives may become less, too: that is seen while nothing limits the copy. Nothing is seen while it creeps: a
    limit is kept to in pieces, so that for a moment it looks like more."""
    if pace.phase in (Phase.FIRST, Phase.LEARNING):
        return pace.best
    slower = pace.phase is Phase.IDLE and 0 < rate < pace.best
    return pace.best + FORGETS * (rate - pace.best) if slower else max(pace.best, rate)


def worse(normal: Normal, lately: tuple[Seen, ...]) -> float:
    """How many times what is normal the guest's writes take, or the slowest of them, or its flushes: the worst of these; 0: nothing
    is known."""
    if sum(seen.writes + seen.flushes for seen in lately) < JUDGED_OPS:
        return 0.0
    found = _mean(lately)
    ratios = [(found.write_ns, normal.write_ns), (found.flush_ns, normal.flush_ns)]
    slowest = tails(normal.spread, found.spread, SLOWEST, SLOWEST_OPS)
    return max(slowest, *(now / usual for now, usual in ratios if now and usual), 0.0)


def write_us(lately: tuple[Seen, ...]) -> int:
    """What one of the guest's writes takes; 0: too few to say."""
    enough = sum(seen.writes for seen in lately) >= JUDGED_OPS
    return round(_mean(lately).write_ns / 1000) if enough else 0


def _learnt(pace: Pace) -> Pace:
    writes = sum(seen.writes + seen.flushes for seen in pace.lately)
    enough = pace.since_s >= LEARN_S and (writes >= LEARN_OPS or not writes)
    if not enough and pace.since_s < LEARN_S_MAX:
        return pace
    return _at_work(msgspec.structs.replace(pace, normal=_mean(pace.lately)))


def _at_work(pace: Pace) -> Pace:
    """The guest works, and what is normal is known, or it writes nothing."""
    return _enter(pace, Phase.WORKING if pace.best else Phase.RAMPING)


def _ramped(pace: Pace, seen: Seen) -> Pace:
    if worse(pace.normal, pace.lately) > WORSE_MAX:
        return _enter(pace, Phase.PROBING)
    if seen.copied < FULL * pace.speed * seen.seconds:
        return _enter(pace, Phase.WORKING)
    return msgspec.structs.replace(pace, speed=2 * pace.speed, lately=())


def _judged(pace: Pace, seen: Seen) -> Pace:
    if not pace.normal.known and any(seen.writes + seen.flushes for seen in pace.lately):
        return _enter(pace, Phase.LEARNING)  # it only read until now
    times, floor = worse(pace.normal, pace.lately), FLOOR * pace.best
    speed = pace.speed
    if times > WORSE_MAX:
        # what was seen at the former rate says nothing of the new one
        return msgspec.structs.replace(pace, speed=max(floor, speed / 2), edge=speed, lately=())
    if times <= WORSE_WELL:
        speed += STEP * pace.best * (SLOWER if speed >= NEAR * pace.edge > 0 else 1.0)
    # a copy that keeps up with its limit does not show the most that the storage gives
    most = pace.best * (1.0 + STEP) if seen.copied >= FULL * pace.speed * seen.seconds else pace.best
    return msgspec.structs.replace(pace, speed=min(max(floor, speed), most))


def _enter(pace: Pace, phase: Phase) -> Pace:
    speed = pace.speed
    if phase is Phase.WORKING:
        speed = min(max(FLOOR * pace.best, speed), pace.best)
    elif phase is Phase.RAMPING:
        speed = RAMP_FROM
    return msgspec.structs.replace(pace, phase=phase, speed=speed, since_s=0.0, lately=())


def _mean(lately: tuple[Seen, ...]) -> Normal:
    writes, flushes = sum(seen.writes for seen in lately), sum(seen.flushes for seen in lately)
    return Normal(
        write_ns=sum(seen.write_ns for seen in lately) / writes if writes else 0.0,
        flush_ns=sum(seen.flush_ns for seen in lately) / flushes if flushes else 0.0,
        spread=reduce(Spread.plus, (seen.spread for seen in lately), Spread()),
    )


def within(lately: tuple[Seen, ...], seconds: float) -> tuple[Seen, ...]:
    """The last of them, that cover so long."""
    kept: list[Seen] = []
    for seen in reversed(lately):
        if sum(one.seconds for one in kept) >= seconds:
            break
        kept.append(seen)
    return tuple(reversed(kept))
