"""A node's watchdog in the world: the production machine of the lease (libs/lease/holder.py), its records in every pool's area, its
mailbox, and what it does to processes. It lives whether or not the agent does; what its successor must know lies on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from libs.lease.effects import (
    AskNow,
    Effect,
    Grant,
    Kill,
    LearnGenerations,
    Pause,
    Resume,
    Saved,
    State,
    WriteRecord,
)
from libs.lease.holder import Holder
from libs.lease.record import Record
from proto.lease import Sighting

if TYPE_CHECKING:
    from libs.world.nodes import NodeProcess

AGAIN_US = 200_000
"""a kill, and a question for generations, is repeated"""


class Watch:
    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.net = node.world.net
        self.owner = f"watch:{node.name}"
        self.life = 0
        self.holder: Holder | None = None
        self.saved: Saved | None = None
        self.sightings: dict[tuple[str, str], Sighting] = {}
        self.slow = False
        self._question = 0
        self._tick_us = 0
        self._beat_due_us = 0

    @property
    def now_us(self) -> int:
        return self.node.clock.boot_us

    # --- life -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        if self.holder is not None or not self.node.powered:
            return
        self.life += 1
        self.holder = holder = Holder(self.node.host.boot_id)
        if self.saved is not None:
            holder.adopt(self.saved)
        self.sightings, self._tick_us, self._beat_due_us = {}, 0, self.now_us
        self._do(holder.seen(self.now_us, self._guarded()))
        self._beat()

    def crash(self) -> None:
        self.holder = None
        self.life += 1
        self.net.resume(self.owner)

    def local(self, thunk: Callable[[Holder], None]) -> None:
        """Something said to it on its own node; a watchdog that is stopped hears it when it goes on."""
        life = self.life

        def hear() -> None:
            if self.life == life and self.holder is not None:
                thunk(self.holder)

        if self.owner in self.net.paused:
            self.net.after(0, hear, self.owner)
        else:
            hear()

    # --- what it is told ------------------------------------------------------------------------------------------

    def granted(self, grant: Grant) -> None:
        self.local(lambda holder: self._do(holder.granted(self.now_us, grant)))

    def processes(self) -> None:
        """Those of its node may have changed."""
        if self.holder is not None and self._guarded() != self.holder.vms:
            self.local(lambda holder: self._do(holder.seen(self.now_us, self._guarded())))

    def over(self, vm: str) -> None:
        """A start, and the like, that was allowed has come to its end."""
        self.local(lambda holder: self._do(holder.over(self.now_us, vm)))

    def left(self) -> None:
        """Its agent is gone: what that had begun is over, and what came of it is seen."""
        self.local(self._all_over)

    def _all_over(self, holder: Holder) -> None:
        self._do(holder.seen(self.now_us, self._guarded()))
        for vm in sorted(holder.pending):
            self._do(holder.over(self.now_us, vm))

    def may(self, vm: str) -> str:
        """Whether that VM may start, be activated, or go on: why not."""
        if self.holder is None or self.owner in self.net.paused:
            return "the watchdog does not answer"
        return self.holder.begun(vm, self.now_us)

    def learnt(self, number: int, raised: tuple[str, ...]) -> None:
        self._question = 0
        self.local(lambda holder: self._do(holder.learnt(self.now_us, number, raised)))

    # --- once a second --------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        assert self.holder is not None
        now_us, beat_us = self.now_us, self.holder.times.beat_us
        self.slow = now_us - self._beat_due_us > beat_us
        self._beat_due_us = now_us + beat_us
        self._do(self.holder.tick(now_us))
        self._write()
        if self.node.owner in self.net.paused:
            self.node.later(0, self.node.lease.beat)
        else:
            self.node.lease.beat()
        for pool, area in self._areas().items():
            got = lambda found, pool=pool: self._saw(pool, found)  # noqa: E731
            area.look(self.node.name, self._others(), got, self.owner)
        self._later(beat_us, self._beat)

    def _saw(self, pool: str, found: dict[str, Any] | None) -> None:
        if self.holder is None:
            return
        for sighting in sightings(pool, self._others(), found):
            self.sightings[pool, sighting.node] = sighting
        letter = (found or {}).get("")
        if letter is not None and letter.node == self.node.name:
            self._do(self.holder.heard(self.now_us, letter))

    def _write(self) -> None:
        holder, life = self.holder, self.life
        assert holder is not None
        begun_us = self.now_us
        record = Record(
            self.node.name, holder.boot_id, holder.epoch, begun_us, str(holder.state), holder.times.lease_us,
            len(holder.vms), holder.acknowledged, holder.done,
        )  # fmt: skip
        for pool, area in self._areas().items():

            def done(failed: str, pool: str = pool) -> None:
                if not failed and self.life == life and self.holder is not None:
                    self._do(self.holder.written(self.now_us, pool, begun_us))

            area.write(self.node.name, record, done, self.owner)

    def _areas(self) -> dict[str, Any]:
        """By the pool's word, those that it reaches."""
        return {id: self.node.world.areas[id] for id in self.node.pool_words}

    def _others(self) -> tuple[str, ...]:
        return tuple(name for name in self.node.world.agents if name != self.node.name)

    def _guarded(self) -> dict[str, int]:
        vms = self.node.host.vms
        return {name: vm.spec.generation for name, vm in vms.items() if vm.spec.protected}

    # --- what it does ---------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Pause(vms):
                    self._count("paused", vms)
                    self._each(self.node.host.halt, vms)
                    self.node.world.checker.nodes.paused(self.node.name, vms)
                case Resume(vms):
                    self._count("went on after it learnt", vms)
                    self._each(self.node.host.go_on, vms)
                case Kill(vms):
                    self._count("ended by its watchdog", vms)
                    self._kill()
                case LearnGenerations(number, vms):
                    self._learn(number, dict(vms))
                case AskNow():
                    self.node.lease.ask()
                case WriteRecord():
                    self._write()
        holder = self.holder
        if holder is not None:
            self.saved = holder.saved()
            self.node.world.checker.nodes.renewed(self.node)
            self._arm(holder)

    def _count(self, what: str, vms: tuple[str, ...]) -> None:
        if vms:
            self.node.world.guards[what] += len(vms)

    def _each(self, does: Callable[[str], None], vms: tuple[str, ...]) -> None:
        for vm in vms:
            does(vm)

    def _kill(self) -> None:
        """Until none is left."""
        if self.holder is None:
            return
        doomed = self.holder.doomed
        for vm in doomed:
            self.node.host.slay(vm, self.net.now_us)
        if doomed:
            self.node.world.checker.nodes.slain(self.node.name, doomed)
            self.node.watch()
            self._later(AGAIN_US, self._kill)

    def _learn(self, number: int, vms: dict[str, int]) -> None:
        """Whether another has taken a VM's lease record, in the pool; asked again until it is known, or of no use any more."""
        self._question = number
        if self.holder is None or self.holder.state is not State.PAUSED:
            return
        self.node.lease.learn(number, vms)
        self._later(AGAIN_US, lambda: self._learn(number, vms) if self._question == number else None)

    def _arm(self, holder: Holder) -> None:
        """Its next deadline: in production it ticks several times a second, here when there is something to do."""
        match holder.state:
            case State.HELD:
                at_us = holder.pause_us
            case State.PAUSED:
                at_us = holder.kill_us
            case State.WOKEN:
                at_us = holder.woke_us + holder.times.learn_us
            case _:
                return
        if self._tick_us and self._tick_us <= at_us and self._tick_us > self.now_us:
            return
        self._tick_us = at_us
        self._later(max(0, at_us - self.now_us), self._tick)

    def _tick(self) -> None:
        assert self.holder is not None
        self._tick_us = 0
        self._do(self.holder.tick(self.now_us))

    def _later(self, delay_us: int, thunk: Callable[[], None]) -> None:
        """By its own clock, in this life."""
        life = self.life
        run = lambda: thunk() if self.life == life else None  # noqa: E731
        self.net.after(self.node.clock.world_us(delay_us), run, self.owner)


def sightings(pool: str, whose: Iterable[str], found: dict[str, Any] | None) -> list[Sighting]:
    """What a look at a pool's area says of each of these nodes."""
    if found is None:
        return [Sighting(pool, node, error="the pool does not answer") for node in whose]
    out = []
    for node in whose:
        record = found.get(node)
        if record is None:
            out.append(Sighting(pool, node))
        else:
            out.append(
                Sighting(
                    pool,
                    node,
                    record.boot_id,
                    record.epoch,
                    record.sequence,
                    record.acknowledged,
                    record.done,
                )
            )
    return out

