"""Whether this node's watchdog lives: it says something once a second. One that is there and says nothing for MUTE_BEATS seconds
(it is stopped, or is given no time) guards nobody: that is told, and it is ended, so that whoever keeps it starts another. That
goes on with what lies on disk, which ends no later than the former's lease would have; what has ended meanwhile it has to learn
(docs/watchdog.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from libs.lease.words import FOLDER
from services.node.drivers.qemu.process import start_ticks
from services.node.watchdog_line import WatchdogLine

log = logging.getLogger(__name__)

BEAT_S = 1.0
MUTE_BEATS = 5
"""the length of a lease: one that was silent for so long has not kept it"""
LATE_S = 2 * BEAT_S
PID = "pid"
FIRST = 1
"""the first process of a container, which nothing in it can end"""


class Mark(msgspec.Struct, frozen=True):
    """Of a process, as its watchdog signs it."""

    pid: int
    started: int


@dataclass(slots=True)
class Hush:
    """Beats in a row in which nothing was heard. A beat that was late itself counts for nothing: it could not hear."""

    at_s: float
    words: int = 0
    beats: int = 0

    def beat(self, words: int, now_s: float) -> bool:
        """words: all that were ever heard. True: it is mute."""
        late = now_s - self.at_s > LATE_S
        self.beats = 0 if late or words != self.words else self.beats + 1
        self.at_s, self.words = now_s, words
        return self.beats >= MUTE_BEATS


class WatchdogCare:
    """tell: called once a second while it is mute."""

    def __init__(self, state: Path, line: WatchdogLine, tell: Callable[[], Awaitable[None]]) -> None:
        self._path = state / FOLDER / PID
        self._line = line
        self._tell = tell
        self._ended: Mark | None = None

    async def run(self) -> None:
        hush = Hush(time.monotonic(), self._line.words)
        while True:
            await asyncio.sleep(BEAT_S)
            self._line.mute = hush.beat(self._line.words, time.monotonic())
            if self._line.mute:
                await self._tell()
                await asyncio.to_thread(self._end)

    def _end(self) -> None:
        """Once each, by a handle of the very process."""
        try:
            mark = msgspec.json.decode(self._path.read_bytes(), type=Mark)
            if mark.pid == FIRST or mark == self._ended:
                return
            handle = os.pidfd_open(mark.pid)
        except (OSError, msgspec.MsgspecError):
            return  # there is none: whoever keeps it starts another
        try:
            if start_ticks(mark.pid) == mark.started:
                log.error("the watchdog (process %s) has said nothing for %s s: it is ended", mark.pid, MUTE_BEATS)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                self._ended = mark
        except OSError as error:
            log.error("the watchdog (process %s) says nothing and cannot be ended: %s", mark.pid, error)
        finally:
            os.close(handle)
