"""The agent's line: a unix socket in the node's own folder (words.py). Whoever connected last is the agent; what is left unread too
long ends the connection. Never waits."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable
from typing import Any

from libs.lease.words import BadWords, Lines, line

UNSENT_BYTES_MAX = 1 << 20
READ_BYTES = 65_536


class Line:
    """heard: each word; left: the agent is gone, or another came."""

    def __init__(
        self,
        folder: str,
        name: str,
        selector: selectors.BaseSelector,
        heard: Callable[[dict[str, Any]], None],
        left: Callable[[], None],
    ) -> None:
        self._selector = selector
        self._heard = heard
        self._left = left
        self._sock: socket.socket | None = None
        self._lines = Lines()
        self._unsent = b""
        self._server = _listening(folder, name)
        selector.register(self._server, selectors.EVENT_READ, self._accept)

    @property
    def there(self) -> bool:
        return self._sock is not None

    def say(self, word: str, **values: Any) -> None:
        """Nothing where no agent is."""
        if self._sock is not None:
            self._unsent += line(word, **values)
            self._flush()

    def close(self) -> None:
        self._drop()
        self._selector.unregister(self._server)
        self._server.close()

    # --- inside --------------------------------------------------------------------------------------------------------

    def _accept(self, _: int) -> None:
        try:
            sock, _address = self._server.accept()
        except OSError:
            return
        if self._sock is not None:
            self._drop()
        sock.setblocking(False)
        self._sock, self._lines, self._unsent = sock, Lines(), b""
        self._selector.register(sock, selectors.EVENT_READ, self._ready)

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ and self._sock is not None:
            self._read(self._sock)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_BYTES)
            for word in self._lines.feed(data):
                self._heard(word)
        except BlockingIOError:
            return
        except (OSError, BadWords):
            data = b""
        if not data and self._sock is sock:
            self._drop()

    def _flush(self) -> None:
        assert self._sock is not None
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :] if self._unsent else b""
        except BlockingIOError:
            pass
        except OSError:
            self._drop()
            return
        if len(self._unsent) > UNSENT_BYTES_MAX:
            self._drop()
            return
        more = selectors.EVENT_WRITE if self._unsent else 0
        self._selector.modify(self._sock, selectors.EVENT_READ | more, self._ready)

    def _drop(self) -> None:
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None
            self._left()


def _listening(folder: str, name: str) -> socket.socket:
    """By way of the folder's descriptor: a long path would be more than the kernel takes."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX)
    try:
        path = f"/proc/self/fd/{handle}/{name}"
        try:
            os.unlink(path)  # noqa: PTH108
        except FileNotFoundError:
            pass
        sock.bind(path)
        os.chmod(path, 0o600)  # noqa: PTH101
        sock.listen(4)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(handle)
    return sock
