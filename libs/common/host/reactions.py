"""Others' events and the own commands they lead to, in log order, once each.

    inbox (events) ──take: views, react──▶ todo (jobs) ──decide on drafts──▶ one group under way ──▶ committed prefix

A group chains decisions on drafts of the streams it touches; its longest prefix is committed together with the consumer
position, the rest goes back to the head of `todo`. The position never passes a job that is not committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from libs.common.host.jobs import Decision, Job, Slot, advance, unit
from libs.common.log import Group
from libs.common.messages import Recorded

INBOX_MAX = 5000
"""events waiting for their reactions; the driver stops fetching beyond"""
GROUP_MAX = 256
"""reactions committed together"""
MARK_EVERY = 1000
"""events without reactions after which the consumer position is stored all the same"""

type Pairs = list[tuple[Job, Decision]]


@dataclass(slots=True)
class Reactions:
    """`react(recorded)` applies the views and gives the jobs; `decide(job, slot)` gives None where there is nothing to write;
    `slot(stream)`; `blocked(stream)`: it is being read or an append of somebody else's is under way."""

    consumer: str
    react: Callable[[Recorded], Sequence[Job]]
    decide: Callable[[Job, Slot], Decision | None]
    slot: Callable[[str], Slot]
    blocked: Callable[[str], bool]
    taken: int = 0
    marked: int = 0
    inbox: deque[Recorded] = field(default_factory=deque)
    todo: deque[Job] = field(default_factory=deque)
    under_way: Pairs = field(default_factory=list)

    @property
    def next_position(self) -> int:
        """The position that the next event must have."""
        return (self.inbox[-1].position if self.inbox else self.taken) + 1

    @property
    def position(self) -> int:
        """All reactions to events up to here are committed (or there were none)."""
        first = self.under_way[0][0] if self.under_way else self.todo[0] if self.todo else None
        return self.taken if first is None else first.cause_position - 1

    def hear(self, records: Iterable[Recorded]) -> None:
        """Events without holes; those heard before are skipped. Raises ValueError on a hole."""
        expected = self.next_position
        for recorded in records:
            if recorded.position > expected:
                raise ValueError(f"hole in the events: {expected} expected, {recorded.position} given")
            if recorded.position == expected:
                self.inbox.append(recorded)
                expected += 1

    def next_group(self) -> Group | None:
        """The next group to append, unless one is under way; its slots are busy until `done` or `failed`."""
        if self.under_way:
            return None
        while not self.todo and self._take():
            pass
        if not self.todo:
            return self._group([]) if self.taken - self.marked >= MARK_EVERY else None
        drafts: dict[str, Slot] = {}
        pairs: Pairs = []
        while len(pairs) < GROUP_MAX and (self.todo or self._take()):
            if not self.todo:
                continue
            job = self.todo[0]
            if job.stream not in drafts and self.blocked(job.stream):
                break
            self.todo.popleft()
            draft = drafts.get(job.stream) or self.slot(job.stream)
            decision = self.decide(job, draft)
            if decision is not None:
                drafts[job.stream] = advance(draft, job, decision)
                pairs.append((job, decision))
        for stream in drafts:
            self.slot(stream).busy = True
        self.under_way = pairs
        if pairs or self.position - self.marked >= MARK_EVERY:
            return self._group(pairs)
        return None

    def mark(self) -> Group | None:
        """A group that stores the position alone, when it moved since it was last stored."""
        return None if self.under_way or self.position == self.marked else self._group([])

    def _group(self, pairs: Pairs) -> Group:
        ends = [job.cause_position - 1 for job, _ in pairs[1:]]
        ends.append(self.todo[0].cause_position - 1 if self.todo else self.taken)
        units = tuple(unit(job, decision, end) for (job, decision), end in zip(pairs, ends, strict=bool(pairs)))
        return Group(units, self.consumer, ends[-1])

    def _take(self) -> bool:
        if not self.inbox:
            return False
        recorded = self.inbox.popleft()
        self.taken = recorded.position
        self.todo.extend(self.react(recorded))
        return True

    def done(self, count: int, skip_next: bool) -> Pairs:
        """`count` units were committed; with skip_next the one behind them was decided before. Gives the committed pairs."""
        committed, rest = self.under_way[:count], self.under_way[count + skip_next :]
        self._free()
        self.todo.extendleft(job for job, _ in reversed(rest))
        self.marked = self.position
        return committed

    def failed(self) -> list[str]:
        """Nothing was written: all is to be decided again. Gives the streams that are free now."""
        streams = list(dict.fromkeys(job.stream for job, _ in self.under_way))
        again = self.under_way
        self._free()
        self.todo.extendleft(job for job, _ in reversed(again))
        return streams

    def _free(self) -> None:
        for job, _ in self.under_way:
            self.slot(job.stream).busy = False
        self.under_way = []
