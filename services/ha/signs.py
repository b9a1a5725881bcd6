"""What the grantor has heard of each node, by its own monotonic clock (microseconds). Pure; forgotten with the process.

A record's `mark` is its sequence in the lease's boot; -1: no record, or another boot's, which is no sign of this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proto.lease import AskGrant, Proof, Sighting

GAP_US = 3_000_000
"""a witness that said nothing of a record for so long has not watched it: what it sees next is a first sight"""
BACK_US = 6_000_000
"""what was not read for so long may have been written before it was away: that it is another then is no sign of life, but only
that it moves from then on. (A witness that is slow, and tells every few seconds, still sees it move.)"""


@dataclass(slots=True)
class Sight:
    """One witness's look at one record, as long as it saw the same. told_at: the witness's own clock when it told last."""

    mark: int
    since_us: int
    last_us: int
    told_at: int


@dataclass(slots=True)
class Record:
    """One node's record in one pool. moved_us: when anybody last saw it differ from what they saw a moment before (0: never);
    newest_us: when anybody read it last; back_us: since when it is read again after nobody could for BACK_US (0: always could)."""

    sights: dict[str, Sight] = field(default_factory=dict)
    moved_us: int = 0
    newest_us: int = 0
    back_us: int = 0

    def saw(self, witness: str, mark: int, now_us: int, told_at: int) -> None:
        """What was told before what is known already says nothing new (a witness that began anew has another name here)."""
        before = self.sights.get(witness)
        if before is not None and told_at < before.told_at:
            return
        if self.newest_us and now_us - self.newest_us > BACK_US:
            self.back_us = now_us
        self.newest_us = now_us
        watched = before is not None and now_us - before.last_us <= GAP_US
        if before is not None and before.mark != mark and now_us - before.last_us <= BACK_US:
            self.moved_us = now_us
        if before is None or before.mark != mark or not watched:
            self.sights[witness] = Sight(mark, now_us, now_us, told_at)
            return
        before.last_us, before.told_at = now_us, told_at

    def still_since(self, mark: int, now_us: int) -> int | None:
        """Since when somebody who watches has seen this mark without a break; None: nobody watches. A missing record is not told
        from one that was there in between, so that all who watch must have missed it."""
        watching = [s for s in self.sights.values() if now_us - s.last_us <= GAP_US]
        same = [s.since_us for s in watching if s.mark == mark]
        if not same:
            return None
        return min(same) if mark >= 0 else max(*same, self.moved_us)

    def newest_mark(self) -> int | None:
        newest = max(self.sights.values(), key=lambda s: (s.last_us, s.mark), default=None)
        return newest.mark if newest is not None else None


@dataclass(slots=True)
class Fresh:
    """A record as it was read upon an AskRecords. sent_us: when that was sent."""

    mark: int
    sent_us: int


@dataclass(slots=True)
class Node:
    """since_us: when this epoch of it began for us. asked_us: the last AskGrant of the lease's boot; other_us: of another boot.
    granted_us: the last grant of this grantor. named_us: when each pool was named in a grant last; tolerant_us: when a long lease
    was granted last. slow_us: when it last said that it was late itself. fresh: reads upon an AskRecords. probes: by witness when
    it was asked, and whether it had an answer. answer: the record with the latest answer to a letter. declared: told to the log as
    epoch, boot, proof; nothing is granted from then on. networks: what is wrong with them, and since when. mute: its agent says
    that its watchdog does not answer. retry: what is not to be done again before when."""

    since_us: int = 0
    asked_us: int = 0
    other_us: int = -(10**12)
    ask: AskGrant | None = None
    granted_us: int = 0
    named_us: dict[str, int] = field(default_factory=dict)
    tolerant_us: int = 0
    slow_us: int = -(10**12)
    records: dict[str, Record] = field(default_factory=dict)
    fresh: dict[str, Fresh] = field(default_factory=dict)
    probes: dict[str, tuple[int, bool]] = field(default_factory=dict)
    answer: Sighting | None = None
    declared: tuple[int, str, Proof] | None = None
    networks: tuple[tuple[str, ...], int] = ((), 0)
    mute: bool = False
    retry: dict[str, int] = field(default_factory=dict)

    def record(self, pool: str) -> Record:
        known = self.records.get(pool)
        if known is None:
            known = self.records[pool] = Record()
        return known

    def noticed(self, sighting: Sighting, boot_id: str) -> None:
        """Its answer to a letter, where this is one of the lease's boot."""
        if sighting.boot_id == boot_id and (self.answer is None or sighting.acknowledged >= self.answer.acknowledged):
            self.answer = sighting

    def due(self, what: str, now_us: int, every_us: int) -> bool:
        """True at most once in every_us."""
        if now_us < self.retry.get(what, 0):
            return False
        self.retry[what] = now_us + every_us
        return True


def mark_of(sighting: Sighting, boot_id: str, epoch: int) -> int:
    """A record of a later epoch than the log knows of is of a node that holds a lease which a restored log has forgotten: it counts
    as a sign of life, whatever boot it is from."""
    return sighting.sequence if sighting.boot_id == boot_id or sighting.epoch > epoch else -1


def counts(sighting: Sighting) -> bool:
    """A read that failed says nothing of the record: neither that it moves nor that it stands still."""
    return not sighting.error
