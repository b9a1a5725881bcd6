"""The processes that are guarded, and what is done to them: held still, let go on, killed. By the loop; nothing here waits."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable
from functools import partial

from services.watchdog import ending
from services.watchdog.keeping import say
from services.watchdog.monitor import Still
from services.watchdog.table import Guarded, Looked

KILL_AGAIN_US = 200_000

type Key = tuple[str, int, int]
"""VM, process id, start"""


class Guard:
    """changed: called when there are other processes than before. still: VMs that an earlier watchdog held still."""

    def __init__(
        self, selector: selectors.BaseSelector, changed: Callable[[], None], still: Iterable[str] = ()
    ) -> None:
        self._selector = selector
        self._changed = changed
        self._here: dict[Key, Guarded] = {}
        self._stills: dict[Key, Still] = {}
        self._inherited = set(still)
        self._kill_us = 0

    def vms(self) -> dict[str, int]:
        """All that is guarded, with the generation; of two processes of one VM, the higher."""
        found: dict[str, int] = {}
        for each in self._here.values():
            found[each.vm] = max(found.get(each.vm, 0), each.generation)
        return found

    def still(self) -> tuple[str, ...]:
        """VMs that go on when the lease is back."""
        held = {each.guarded.vm for each in self._stills.values() if each.ran is not False}
        return tuple(sorted(held | self._inherited))

    def looked(self, looked: Looked) -> None:
        """What is missing there is here until its handle says that it has ended."""
        new = False
        for each in looked.found.values():
            key = (each.vm, each.pid, each.ticks)
            if key in self._here:
                each.close()
                continue
            self._here[key] = each
            self._selector.register(each.pidfd, selectors.EVENT_READ, partial(self._ended, key))
            new = True
        if new:
            self._changed()

    def pause(self, vms: Iterable[str], now_us: int) -> None:
        for key, each in self._of(vms):
            before = self._stills.get(key)
            if before is not None and not before.resumed:
                continue
            ran = True if each.vm in self._inherited else before.ran if before is not None else None
            self._forget(key)
            self._stills[key] = Still(each, now_us, self._selector, partial(self._forget, key), ran)

    def resume(self, vms: Iterable[str], now_us: int) -> None:
        """Those of an earlier watchdog are asked anew how they are: what they were before is known by their names."""
        wanted = tuple(vms)
        for key, each in self._of(wanted):
            if key not in self._stills and each.vm in self._inherited:
                self.pause((each.vm,), now_us)
            if (still := self._stills.get(key)) is not None:
                still.resume()
        self._inherited -= set(wanted)

    def kill(self, vms: Iterable[str]) -> None:
        for _, each in self._of(vms):
            ending.kill(each)

    def tick(self, now_us: int, doomed: Iterable[str]) -> None:
        for still in tuple(self._stills.values()):
            still.tick(now_us)
        if now_us >= self._kill_us:
            self._kill_us = now_us + KILL_AGAIN_US
            self.kill(doomed)

    def due_us(self) -> int | None:
        due = [still.due_us for still in self._stills.values() if still.due_us is not None]
        return min(due, default=None)

    # --- inside --------------------------------------------------------------------------------------------------------

    def _of(self, vms: Iterable[str]) -> list[tuple[Key, Guarded]]:
        wanted = set(vms)
        return [(key, each) for key, each in self._here.items() if each.vm in wanted]

    def _forget(self, key: Key) -> None:
        still = self._stills.pop(key, None)
        if still is not None:
            still.close()

    def _ended(self, key: Key, _: int) -> None:
        each = self._here.pop(key)
        self._forget(key)
        self._selector.unregister(each.pidfd)
        each.close()
        self._inherited.discard(each.vm)
        say(f"{each.vm} (generation {each.generation}, process {each.pid}) has ended")
        self._changed()
