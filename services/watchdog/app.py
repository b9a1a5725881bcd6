"""The watchdog, wired: one loop that never waits for a disk, around the machine of the lease (libs/lease/holder.py). Threads write
and read the pools, look for processes, keep what a successor must know; what they find comes in by `_inbox`.
"""

from __future__ import annotations

import fcntl
import os
import selectors
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from libs.lease import words
from libs.lease.effects import AskNow, Effect, Grant, Kill, LearnGenerations, Pause, Resume, State, WriteRecord
from libs.lease.holder import Holder
from libs.lease.record import Record
from services.watchdog.agent import Line
from services.watchdog.clock import boot_id, now_us
from services.watchdog.device import Device
from services.watchdog.errands import Errands
from services.watchdog.guard import Guard
from services.watchdog.keeping import Keeper, say
from services.watchdog.learning import Learning
from services.watchdog.nursery import Nursery
from services.watchdog.peers import Echo, Probing
from services.watchdog.pool import Found, Known, Learnt, Pool, Sighted, Written
from services.watchdog.settings import Settings
from services.watchdog.table import Looked, Table

TURN_US_MAX = 200_000
HURRIES = 5
"""how often in a beat a path is tried while VMs stand still"""
SLOW_US = 500_000
"""a turn that began so much later than it should have"""
SIGHTINGS_MAX = 1024


class AlreadyRuns(Exception):
    """Another watchdog of this node has its folder."""


class Watchdog:
    """`run` returns when it was told to end and guards nothing."""

    def __init__(self, settings: Settings, agent: Sequence[str] = (), ready: str = "") -> None:
        """agent: what to start, and keep running (nursery.py)."""
        self.settings = settings
        self.selector = selectors.DefaultSelector()
        self.holder = Holder(boot_id())
        self._leaving = False
        self._inbox: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.selector.register(self._bell, selectors.EVENT_READ, lambda _: os.eventfd_read(self._bell))
        folder = f"{settings.state}/{words.FOLDER}"
        self._hold(folder)
        self._keeper = Keeper(folder)
        still: tuple[str, ...] = ()
        if (known := self._keeper.load()) is not None:
            self.holder.adopt(known[0])
            still = known[1] if known[0].boot_id == self.holder.boot_id else ()
        self.guard = Guard(self.selector, self._changed, still)
        self._table = Table(settings.state, self.holder.boot_id, lambda looked: self._put(lambda: self._looked(looked)))
        self._pools = [Pool(name, at, settings.node, self._found) for name, at in settings.pools.items()]
        self._words: dict[str, Pool] = {}
        self._line = Line(folder, words.SOCKET, self.selector, self._heard, self._left)
        self._echo = Echo(settings.listen, settings.at, self.selector, folder) if settings.listen else None
        probing = Probing(lambda number, ms: self._put(lambda: self._errands.probed(number, ms)))
        self._errands = Errands(lambda: self._words, probing, self._line.say)
        self._learning: Learning | None = None
        self._device: Device | None = None
        self._overs: list[tuple[int, str]] = []
        self._sightings: list[dict[str, Any]] = []
        self._told: tuple[object, ...] = ()
        self._saved: object = None
        self._beat_us = 0
        self._again_us = 0
        self._slow = False
        self._failing: set[str] = set()
        self._nursery = Nursery(agent, ready, self.selector) if agent else None

    # --- life ---------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """It was told to end: it does when what it guards has. The first process of a container ends with all that is in it."""
        self._leaving = True
        if self._nursery is not None:
            self._nursery.leave()
        elif guarded := self.guard.vms():
            say(f"told to end; it ends when what it guards has: {', '.join(sorted(guarded))}")

    def _over(self) -> bool:
        if self._nursery is not None:
            self._nursery.turn()
            return self._nursery.over
        return self._leaving and not self.guard.vms()

    def run(self) -> int:
        """The exit code."""
        self._looked(self._table.look())  # before anything is said of what runs here
        self._do(self.holder.tick(now_us()))
        if self.holder.state is State.HELD:
            self.guard.resume(self.guard.still(), now_us())  # its predecessor was about to
        if self.settings.device:
            times = self.holder.times
            self._device = Device(self.settings.device, times.lease_us, times.kill_us)
        self._keeper.start()
        self._table.start()
        for pool in self._pools:
            pool.start()
        while not self._over():
            try:
                self._once()
            except Exception as bug:
                if self._nursery is None:
                    raise  # another follows at once, with what is kept on disk
                say(f"internal error: {bug!r}")  # the end of this process would be the end of all VMs here
        self._line.close()
        if self._device is not None:
            self._device.close()
        return self._nursery.code if self._nursery is not None else 0

    def _once(self) -> None:
        wait_us = self._wait_us(now_us())
        due_us = now_us() + wait_us
        for key, mask in self.selector.select(wait_us / 1e6):
            key.data(mask)
        self._slow = self._slow or now_us() - due_us > SLOW_US
        while self._inbox:
            self._inbox.popleft()()
        self._turn(now_us())

    def _wait_us(self, at_us: int) -> int:
        holder = self.holder
        due = [at_us + TURN_US_MAX, self._beat_us]
        if holder.state in (State.PAUSED, State.WOKEN):
            due.append(self._again_us)
        due += [end_us for end_us in (holder.pause_us, holder.kill_us) if end_us > at_us]
        if (pausing_us := self.guard.due_us()) is not None:
            due.append(pausing_us)
        return max(0, min(due) - at_us)

    def _turn(self, at_us: int) -> None:
        self._do(self.holder.tick(at_us))
        self.guard.tick(at_us, self.holder.doomed)
        self._errands.tick(at_us)
        self._beat_us = min(self._beat_us, at_us + self.holder.times.beat_us)  # the profile may have changed
        if at_us >= self._beat_us:
            self._beat_us = at_us + self.holder.times.beat_us
            self._beat(at_us)
        elif self._told != self._own():
            self._tell(at_us)
        if self.holder.state in (State.PAUSED, State.WOKEN) and at_us >= self._again_us:
            self._again_us = at_us + self.holder.times.beat_us // HURRIES
            self._write()
            self._line.say("ask")
        saved = (self.holder.saved(), self.guard.still())
        if saved != self._saved:
            self._saved = saved
            self._keeper.put(*saved)
        if self._device is not None:
            self._device.feed()

    def _beat(self, at_us: int) -> None:
        self._write()
        for pool in self._pools:
            pool.look()
        if self._learning is not None and self._learning.late(at_us):
            self._learn(self._learning.number, self._learning.vms, at_us)
        self._tell(at_us)
        self._slow = False

    def _put(self, work: Callable[[], None]) -> None:
        """From any thread."""
        self._inbox.append(work)
        os.eventfd_write(self._bell, 1)

    # --- effects ------------------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        at_us = now_us()
        for effect in effects:
            match effect:
                case Pause(vms, why):
                    say(f"paused {', '.join(vms) or 'nothing'}: {why}")
                    self.guard.pause(vms, at_us)
                case Resume(vms):
                    say(f"{', '.join(vms) or 'nothing'} may go on: the lease is held until {self.holder.end_us}")
                    self.guard.resume(vms, at_us)
                case Kill(vms, why):
                    say(f"killed {', '.join(vms)}: {why}")
                    self.guard.kill(vms)
                case LearnGenerations(number, vms):
                    self._learn(number, vms, at_us)
                case AskNow():
                    self._line.say("ask")
                case WriteRecord():
                    self._write()

    def _write(self) -> None:
        """Path B, by the pools that were named."""
        holder = self.holder
        record = Record(
            self.settings.node, holder.boot_id, holder.epoch, 0, str(holder.state), holder.times.lease_us, len(holder.vms),
            holder.acknowledged, holder.done,
        )  # fmt: skip
        for word in holder.pools:
            if (pool := self._words.get(word)) is not None:
                pool.write(record)

    def _learn(self, number: int, vms: tuple[tuple[str, int], ...], at_us: int) -> None:
        """Of the storage and of the control plane: whoever answers first."""
        pools = [self._words[word] for word in self.holder.pools if word in self._words]
        self._learning = Learning(number, vms, {pool.name for pool in pools}, at_us + self.holder.times.beat_us)
        for pool in pools:
            pool.learn(number, vms)
        self._line.say("learn", number=number, vms=dict(vms))
        self._learnt(at_us)

    def _learnt(self, at_us: int) -> None:
        if self._learning is not None and (raised := self._learning.result(at_us)) is not None:
            number, self._learning = self._learning.number, None
            self._do(self.holder.learnt(now_us(), number, raised))

    # --- what is found ------------------------------------------------------------------------------------------------

    def _found(self, name: str, found: Found) -> None:
        self._put(lambda: self._take(name, found))

    def _take(self, name: str, found: Found) -> None:
        pool = next(pool for pool in self._pools if pool.name == name)
        match found:
            case Known(word, direct):
                self._words[word] = pool
                if not direct:
                    say(
                        f"pool {name}: its file system has no O_DIRECT, so that silence cannot be proven there: no lease by it"
                    )
            case Written(begun_us, _, error):
                self._complain(name, error)
                if not error:
                    self._do(self.holder.written(now_us(), pool.word, begun_us))
            case Sighted(_, letter, errand, _) if errand:
                self._errands.answered(name, found, pool.word)
            case Sighted(sightings, letter, _, error):
                self._complain(f"{name} (reading)", error)
                self._sightings += [{**sighting, "pool": pool.word} for sighting in sightings]
                del self._sightings[:-SIGHTINGS_MAX]
                if letter is not None:
                    self._do(self.holder.heard(now_us(), letter))
            case Learnt():
                if self._learning is not None:
                    self._learning.heard(name, found)
                    self._learnt(now_us())

    def _complain(self, what: str, error: str) -> None:
        """Once, and once when it is over."""
        if bool(error) != (what in self._failing):
            say(f"pool {what}: {error or 'it works again'}")
            (self._failing.add if error else self._failing.discard)(what)

    def _looked(self, looked: Looked) -> None:
        self.guard.looked(looked)
        for number, vm in self._overs:
            if number <= looked.number:
                self._do(self.holder.over(now_us(), vm))
        self._overs = [(number, vm) for number, vm in self._overs if number > looked.number]

    def _changed(self) -> None:
        self._do(self.holder.seen(now_us(), self.guard.vms()))

    # --- the agent ----------------------------------------------------------------------------------------------------

    def _heard(self, said: dict[str, Any]) -> None:
        try:
            self._hear(said, now_us())
        except (KeyError, TypeError, ValueError, AttributeError) as bad:
            raise words.BadWords(f"{said.get('word')}: {bad!r}") from bad

    def _hear(self, said: dict[str, Any], at_us: int) -> None:
        match said["word"]:
            case "grant":
                grant = Grant(
                    int(said["term"]), int(said["epoch"]), int(said["sent_us"]), int(said["lease_us"]),
                    tuple(map(str, said["pools"])), str(said["refused"]), bool(said["tolerant"]),
                )  # fmt: skip
                self._do(self.holder.granted(at_us, grant))
            case "learnt":
                self._do(self.holder.learnt(at_us, int(said["number"]), tuple(map(str, said["raised"]))))
            case "begin":
                self._begin(int(said["id"]), str(said["vm"]), bool(said["start"]), at_us)
            case "over":
                self._overs.append((self._table.ask(), str(said["vm"])))
            case "records":
                self._errands.records(said, at_us)
            case "letter":
                self._errands.letter(said, at_us)
            case "probe":
                self._errands.probe(said, at_us)
            case "hello":
                self._tell(at_us)

    def _begin(self, id: int, vm: str, start: bool, at_us: int) -> None:
        """What is not guarded may do as it likes."""
        guarded = start or vm in self.holder.vms
        self._line.say("begin", id=id, why_not=self.holder.begun(vm, at_us) if guarded else "")

    def _left(self) -> None:
        """What it had begun is over once what came of it is seen."""
        number = self._table.ask()
        self._overs += [(number, vm) for vm in sorted(self.holder.pending)]
        self._errands.forget()

    def _own(self) -> tuple[object, ...]:
        """What is told at once when it changes."""
        holder = self.holder
        return (
            str(holder.state),
            holder.epoch,
            holder.term,
            holder.clean,
            holder.doomed,
            len(holder.vms),
            len(self._words),
        )

    def _tell(self, at_us: int) -> None:
        holder, sightings = self.holder, self._sightings
        self._told, self._sightings = self._own(), []
        self._line.say(
            "state", own=str(holder.state), epoch=holder.epoch, term=holder.term, guarded=len(holder.vms), clean=holder.clean,
            at_us=at_us, left_us=max(0, holder.end_us - at_us) if holder.renewed_us else 0, doomed=holder.doomed, slow=self._slow,
            pools={pool.name: pool.word for pool in self._words.values() if pool.direct},
            watch_at=self._echo.at if self._echo else "", sightings=sightings, renews=holder.pools, tolerant=holder.tolerant,
        )  # fmt: skip

    # --- inside -------------------------------------------------------------------------------------------------------

    def _hold(self, folder: str) -> None:
        """The folder's lock, for good. Raises AlreadyRuns, OSError."""
        os.makedirs(folder, 0o700, exist_ok=True)  # noqa: PTH103
        self._lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRuns(f"another watchdog of {self.settings.node} runs in {folder}") from None
