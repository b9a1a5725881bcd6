"""One VM that is held still: its QEMU is told to stop, which drains what it has under way; one that does not answer in time is
stopped by signal. It goes on in the reverse order. Never waits; the loop brings bytes and time.

    asked ──answer──▶ still ──resume──▶ cont, where it ran before
      └──ANSWER_US──▶ stopped (SIGSTOP) ──resume──▶ SIGCONT, the answers come, cont
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Any

from services.watchdog.ending import send
from services.watchdog.table import Guarded

ANSWER_US = 300_000
SOCKETS = ("guard", "monitor")
"""the monitor of its own, and, of a process that was started without, the agent's, which answers while no agent has it"""
LINE_BYTES_MAX = 1 << 20
ASKED = b'{"execute":"qmp_capabilities"}{"execute":"query-status","id":"was"}{"execute":"stop","id":"stop"}\n'
STOP = b'{"execute":"stop","id":"stop"}\n'
CONT = b'{"execute":"cont","id":"cont"}\n'
RAN = "running"


class Still:
    """over: called when nothing more is to be done for it. ran: whether it is to go on at all; None: not known yet. resumed: it was
    told to."""

    def __init__(
        self,
        guarded: Guarded,
        now_us: int,
        selector: selectors.BaseSelector,
        over: Callable[[], None],
        ran: bool | None = None,
    ) -> None:
        self.guarded = guarded
        self.ran = ran
        self.stopped = False
        self.answered = False
        self._sock: socket.socket | None = None
        self._selector = selector
        self._over = over
        self._rest = b""
        self.resumed = False
        self._until_us = now_us + ANSWER_US
        self._dial()

    @property
    def due_us(self) -> int | None:
        """When `tick` has something to do."""
        return None if self.answered or self.stopped or self.resumed else self._until_us

    def tick(self, now_us: int) -> None:
        if self.due_us is not None and now_us >= self._until_us:
            self.stop()

    def stop(self) -> None:
        """By signal."""
        self.stopped = send(self.guarded, signal.SIGSTOP)

    def resume(self) -> None:
        self.resumed = True
        send(self.guarded, signal.SIGCONT)
        self.stopped = False
        if self._sock is None:
            self._over()
        elif self.answered:
            self._go_on()

    def _hear(self, _: int) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > LINE_BYTES_MAX:
            self._lost()
            return
        for line in lines:
            self._line(line)

    def close(self) -> None:
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None

    # --- inside --------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        for name in SOCKETS:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            try:
                sock.connect(f"/proc/self/fd/{self.guarded.folder}/{name}")
                sock.send(ASKED)
            except OSError:
                sock.close()
                continue
            self._sock = sock
            self._selector.register(sock, selectors.EVENT_READ, self._hear)
            return
        self.stop()  # nobody to ask

    def _line(self, line: bytes) -> None:
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        if said.get("event") == "RESUME" and not self.resumed and self._sock is not None:
            self._sock.send(STOP)  # somebody let it go on who does not know of the lease
        match said.get("id"):
            case "was" if self.ran is None:
                self.ran = said.get("return", {}).get("status") == RAN
            case "stop":
                self.answered = True
                if self.resumed:
                    self._go_on()
            case "cont":
                self._done()

    def _go_on(self) -> None:
        if not self.ran or self._sock is None:
            self._done()
            return
        try:
            self._sock.send(CONT)
        except OSError:
            self._done()  # it has ended, or its agent will see it paused and resume it

    def _lost(self) -> None:
        """Its monitor is gone, perhaps with the process."""
        self.close()
        if self.resumed:
            self._over()
        elif not self.answered and not self.stopped:
            self.stop()

    def _done(self) -> None:
        self.close()
        self._over()
