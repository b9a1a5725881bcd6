"""The lease as the node holds it. A stepper: what happened and the node's boot-time clock in, effects out. No clock, no I/O.

    none ──grant──▶ held ──P without renewal──▶ paused ──L - K──▶ ended ──grant of a higher epoch, nothing runs──▶ held
                     ▲                            │ renewed: learn the generations ─▶ unchanged: resume, raised: kill
                     └────────────────────────────┘
    held, paused ──ticked past its end──▶ woken (paused; asks) ──grant asked for since──▶ paused, and learns
                                              └──learn_us without──▶ ended
    any ──refused: lost ∨ letter for all──▶ ended

Time comes first: every input lets the clock act before it counts, so that what is acknowledged after the end revives nothing. A
renewal counts from when it was *sent* or begun. The storage renews by pools of the last grant only, and begins no lease.

What a lease may not do without stands in small functions of this module, each of which a test takes away (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libs.lease.effects import (
    LOST,
    Answer,
    AskNow,
    Effect,
    Grant,
    Kill,
    LearnGenerations,
    Letter,
    Pause,
    Resume,
    Saved,
    State,
    WriteRecord,
)
from libs.lease.times import FAST, Times, shrunk, times

EVERYTHING = "*"
"""among `evicted`: no VM may start in this epoch"""


# --- the guards ------------------------------------------------------------------------------------------------------


def counts_from(sent_us: int, acknowledged_us: int) -> int:
    """From when a renewal counts: the grantor's and the readers' clocks began later than that, never earlier."""
    return sent_us


def of_the_past(term: int, seen: int) -> bool:
    """Another grantor has begun since."""
    return term < seen


def renews(pools: tuple[str, ...], pool: str) -> bool:
    """The grantor looks for silence in no other pools than those it named."""
    return pool in pools


def revives(sent_us: int, woke_us: int) -> bool:
    """Only what was asked for after it woke says that it was not declared lost meanwhile."""
    return sent_us >= woke_us


def begins(epoch: int, ended: int, running: bool) -> bool:
    """A lease that ended comes back under a higher epoch only, when nothing of the former one is left."""
    return epoch > ended and not running


def must_learn() -> bool:
    """Before what was paused goes on."""
    return True


# --- the machine -----------------------------------------------------------------------------------------------------


class Holder:
    """`vms`: what it guards, by name, with the generation, as last seen. `pending`: starts that were allowed and are not over."""

    def __init__(self, boot_id: str, of: Callable[[bool], Times] = times) -> None:
        self.boot_id = boot_id
        self.state = State.NONE
        self.epoch = 0
        self.term = 0
        self.renewed_us = 0
        self.granted_us = 0
        self.pools: tuple[str, ...] = ()
        self.times: Times = FAST
        self.tolerant = False
        self.vms: dict[str, int] = {}
        self.pending: set[str] = set()
        self.evicted: set[str] = set()
        self.letter: Letter | None = None
        self.acknowledged = 0
        self.done: tuple[str, ...] = ()
        self.woke_us = 0
        self._of = of
        self._learning = 0
        self._questions = 0

    # --- what it says of itself -----------------------------------------------------------------------------------

    @property
    def pause_us(self) -> int:
        return self.renewed_us + self.times.pause_us

    @property
    def kill_us(self) -> int:
        return self.renewed_us + self.times.kill_at_us

    @property
    def end_us(self) -> int:
        return self.renewed_us + self.times.lease_us

    @property
    def doomed(self) -> tuple[str, ...]:
        """What runs and must not: to be killed until it is gone."""
        everything = self.state is State.ENDED or EVERYTHING in self.evicted
        return tuple(sorted(vm for vm in self.vms if everything or vm in self.evicted))

    @property
    def clean(self) -> bool:
        """It has ended, and nothing of it is left: it may be reported so."""
        return self.state is State.ENDED and not self.vms and not self.pending

    def why_not(self, vm: str, now_us: int) -> str:
        """Why this VM may not run now; "": it may. Asked before a start, an activation, and a resume."""
        if self.state is not State.HELD or now_us >= self.pause_us:
            return f"this node holds no lease (it is {self.state}): {vm} could be running elsewhere"
        if self.evicted & {vm, EVERYTHING}:
            return f"{vm} was asked for by letter and has been given up here"
        return ""

    # --- time -----------------------------------------------------------------------------------------------------

    def tick(self, now_us: int) -> list[Effect]:
        """Several times a second, and before anything else."""
        if self.state in (State.HELD, State.PAUSED):
            if now_us >= self.end_us:
                return self._wake(now_us)
            if now_us >= self.kill_us:
                return self._end("its lease was not renewed on any path")
            if self.state is State.HELD and now_us >= self.pause_us:
                self.state, self._learning = State.PAUSED, 0
                return [Pause(self._all(), "its lease was not renewed on any path"), AskNow()]
        elif self.state is State.WOKEN and now_us >= self.woke_us + self.times.learn_us:
            return self._end("it woke past the end of its lease and could not learn whether it is still its own")
        return []

    # --- paths ----------------------------------------------------------------------------------------------------

    def granted(self, now_us: int, grant: Grant) -> list[Effect]:
        """The grantor has answered (path A)."""
        out = self.tick(now_us)
        if of_the_past(grant.term, self.term) or grant.sent_us > now_us or not (grant.refused or grant.lease_us > 0):
            return out
        self.term = max(self.term, grant.term)
        if grant.refused:
            return out + (self._lost(grant) if grant.refused == LOST and grant.epoch >= self.epoch else [])
        match self.state:
            case State.NONE | State.ENDED:
                ended = self.epoch if self.state is State.ENDED else self.epoch - 1
                if (
                    begins(grant.epoch, ended, bool(self.vms or self.pending))
                    and now_us < grant.sent_us + grant.lease_us
                ):
                    self._begin(grant, now_us)
                    out.append(WriteRecord())
            case State.WOKEN:
                if self.epoch in (0, grant.epoch) and revives(grant.sent_us, self.woke_us):
                    self.epoch, self.state = grant.epoch, State.PAUSED
                    self._take(grant, now_us)
                    out += self._back(now_us)
            case _ if grant.epoch > self.epoch:
                out += self._end("a lease of another epoch was granted")
            case _ if grant.epoch == self.epoch:
                self._take(grant, now_us)
                out += self._back(now_us)
        return out

    def written(self, now_us: int, pool: str, begun_us: int) -> list[Effect]:
        """A write of the record into that pool, begun then, is on its disks (path B)."""
        out = self.tick(now_us)
        if self.state not in (State.HELD, State.PAUSED) or not renews(self.pools, pool) or begun_us > now_us:
            return out
        self.renewed_us = max(self.renewed_us, counts_from(begun_us, now_us))
        return out + self._back(now_us)

    def learnt(self, now_us: int, number: int, raised: tuple[str, ...] = ()) -> list[Effect]:
        """The generations of the question of that number are known; `raised`: VMs that are another's by now."""
        out = self.tick(now_us)
        if number != self._learning or self.state is not State.PAUSED:
            return out
        self._learning = 0
        self.evicted |= set(raised)
        if gone := tuple(sorted(vm for vm in self.vms if vm in raised)):
            out.append(Kill(gone, "its generation was raised elsewhere"))
        return out + (self._resume() if now_us < self.pause_us else [])

    # --- what runs ------------------------------------------------------------------------------------------------

    def seen(self, now_us: int, vms: Mapping[str, int]) -> list[Effect]:
        """All guarded processes that there are, by VM, with the generation."""
        out = self.tick(now_us)
        new = tuple(sorted(vm for vm, generation in vms.items() if self.vms.get(vm) != generation))
        self.vms = dict(vms)
        if new and self.state is State.NONE:
            out += self._wake(now_us)
        elif new and self.state in (State.PAUSED, State.WOKEN):
            out.append(Pause(new, "this node's lease is not held"))
        if doomed := tuple(vm for vm in new if vm in self.doomed):
            out.append(Kill(doomed, "it is no longer this node's own"))
        return out + self._answered()

    def begun(self, vm: str, now_us: int) -> str:
        """A start of that VM is about to be made: why not, in a sentence. "": it may, and `over` follows."""
        if why := self.why_not(vm, now_us):
            return why
        self.pending.add(vm)
        return ""

    def over(self, now_us: int, vm: str) -> list[Effect]:
        """That start has come to its end, and what came of it was `seen`."""
        out = self.tick(now_us)
        self.pending.discard(vm)
        return out + self._answered()

    # --- letters --------------------------------------------------------------------------------------------------

    def heard(self, now_us: int, letter: Letter) -> list[Effect]:
        """A letter lies in the mailbox; read again and again until another follows."""
        out = self.tick(now_us)
        newest = max(self.acknowledged, self.letter.number if self.letter else 0)
        if of_the_past(letter.term, self.term) or letter.epoch != self.epoch or letter.number <= newest:
            return out
        self.term, self.letter = max(self.term, letter.term), letter
        if not letter.vms:
            self.evicted.add(EVERYTHING)
            out += self._end("all its VMs were asked for by letter")
        else:
            self.evicted |= set(letter.vms)
            if here := tuple(sorted(vm for vm in letter.vms if vm in self.vms)):
                out.append(Kill(here, "it was asked for by letter"))
        return out + self._answered()

    # --- over a crash of the watchdog -----------------------------------------------------------------------------

    def saved(self) -> Saved:
        return Saved(
            self.boot_id, str(self.state), self.epoch, self.term, self.renewed_us, self.granted_us, self.times.lease_us,
            self.tolerant, self.pools, self.acknowledged, self.done, tuple(sorted(self.evicted)),
        )  # fmt: skip

    def adopt(self, saved: Saved) -> None:
        """What an earlier watchdog of this node knew; the first tick acts on it. Of another boot only what rises is of use: the VMs
        of that time are gone."""
        self.epoch, self.term = saved.epoch, saved.term
        if saved.boot_id != self.boot_id:
            return
        self.state = State.PAUSED if saved.state == State.WOKEN else State(saved.state)
        self.renewed_us, self.granted_us, self.pools = saved.renewed_us, saved.granted_us, saved.pools
        self.tolerant, self.times = saved.tolerant, shrunk(self._of(saved.tolerant), saved.lease_us)
        self.acknowledged, self.done, self.evicted = saved.acknowledged, saved.done, set(saved.evicted)

    # --- steps ----------------------------------------------------------------------------------------------------

    def _all(self) -> tuple[str, ...]:
        return tuple(sorted(self.vms))

    def _begin(self, grant: Grant, now_us: int) -> None:
        self.epoch, self.state, self.renewed_us, self.granted_us = grant.epoch, State.HELD, 0, 0
        self.evicted, self.letter, self.acknowledged, self.done = set(), None, 0, ()
        self._take(grant, now_us)

    def _take(self, grant: Grant, now_us: int) -> None:
        """A renewal of this epoch. An older answer that came late changes neither pools nor profile."""
        self.renewed_us = max(self.renewed_us, counts_from(grant.sent_us, now_us))
        if grant.sent_us >= self.granted_us:
            self.granted_us, self.pools, self.tolerant = grant.sent_us, grant.pools, grant.tolerant
            self.times = shrunk(self._of(grant.tolerant), grant.lease_us)

    def _back(self, now_us: int) -> list[Effect]:
        """It was renewed. What is paused goes on once the generations are learnt."""
        if self.state is not State.PAUSED or now_us >= self.pause_us or self._learning:
            return []
        if not must_learn():
            return self._resume()
        self._questions += 1
        self._learning = self._questions
        return [LearnGenerations(self._learning, tuple(sorted(self.vms.items())))]

    def _resume(self) -> list[Effect]:
        self.state = State.HELD
        return [Resume(tuple(vm for vm in self._all() if vm not in self.doomed)), WriteRecord()]

    def _wake(self, now_us: int) -> list[Effect]:
        self.state, self.woke_us, self._learning = State.WOKEN, now_us, 0
        return [Pause(self._all(), "it woke past the end of its lease"), AskNow()]

    def _lost(self, grant: Grant) -> list[Effect]:
        self.epoch = grant.epoch
        return self._end("the node was declared lost")

    def _end(self, why: str) -> list[Effect]:
        was, self.state, self._learning = self.state, State.ENDED, 0
        out: list[Effect] = [Kill(self.doomed, why)] if self.doomed else []
        return out if was is State.ENDED else [*out, WriteRecord()]

    def _answered(self) -> list[Effect]:
        """An acknowledgement means that the process is gone, and that none comes."""
        letter = self.letter
        if letter is None or letter.number <= self.acknowledged:
            return []
        left = {*self.vms, *self.pending}
        if left & set(letter.vms) if letter.vms else left:
            return []
        self.acknowledged, self.done = letter.number, letter.vms
        return [Answer(letter.number, letter.vms), WriteRecord()]
