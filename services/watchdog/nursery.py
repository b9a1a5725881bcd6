"""The first process of a node's container: it starts the agent, starts it again when it ends, and reaps whom nobody waits for, such
as QEMUs of agents that have ended. Thus an agent's restart kills no QEMU; the end of this process is the end of the container.

    agent ends with 2     a wrong setting: saying it again would not help, so this ends with 2, too
    agent ends otherwise  it is started again after AGAIN_S
    SIGTERM               to the agent, too; when that has ended, or after DRAIN_S_MAX, this ends
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Sequence

from services.watchdog.keeping import say

AGAIN_S = 1.0
DRAIN_S_MAX = 20.0
WRONG_SETTING = 2


class Nursery:
    """ready: a file that says that the agent serves: removed before each start; the agent's number is put beside it. `over`: this
    process may end, with `code`."""

    def __init__(self, argv: Sequence[str], ready: str, selector: selectors.BaseSelector) -> None:
        self.over = False
        self.code = 0
        self._argv = list(argv)
        self._ready = ready
        self._agent = 0
        self._next_s = 0.0
        self._drained_s = 0.0
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its arrival wakes the loop
        wakes, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        selector.register(wakes, selectors.EVENT_READ, lambda _: os.read(wakes, 64))

    def leave(self) -> None:
        """Called once, upon SIGTERM."""
        self._drained_s = time.monotonic() + DRAIN_S_MAX
        if self._agent:
            os.kill(self._agent, signal.SIGTERM)

    def turn(self) -> None:
        """Once in every turn of the loop."""
        self._reap()
        now_s = time.monotonic()
        if self._drained_s:
            self.over = self.over or not self._agent or now_s >= self._drained_s
        elif not self._agent and not self.over and now_s >= self._next_s:
            self._start()

    def _start(self) -> None:
        if self._ready and os.path.exists(self._ready):  # noqa: PTH110
            os.unlink(self._ready)  # noqa: PTH108
        # in real time is this process alone; nor is its agent to be spared before all others
        self._agent = os.posix_spawnp(
            self._argv[0], self._argv, os.environ, setsid=True, setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD),
            scheduler=(os.SCHED_OTHER, os.sched_param(0)),
        )  # fmt: skip
        _as_others(self._agent)
        if self._ready:
            _put(f"{os.path.dirname(self._ready)}/agent.pid", f"{self._agent}\n")  # noqa: PTH120

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._agent:
                self._ended(os.waitstatus_to_exitcode(status))

    def _ended(self, code: int) -> None:
        self._agent = 0
        self._next_s = time.monotonic() + AGAIN_S
        if code == WRONG_SETTING:
            self.over, self.code = True, code
        elif not self._drained_s:
            say(f"the agent ended with {code}; it is started again")


def _as_others(pid: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, pid, 0)
        _put(f"/proc/{pid}/oom_score_adj", "0")
    except OSError:
        return  # it has ended already, which is seen at the next turn


def _put(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
