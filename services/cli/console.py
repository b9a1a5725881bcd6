"""`vm console`: a serial port over a websocket, on a raw terminal. Ctrl-] leaves; the guest goes on."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.cli import show
from services.cli.client import path
from services.cli.failure import DENIED, NOT_FOUND, REFUSED, UNREACHABLE, Failure, code_of
from services.cli.where import Where

LEAVE = b"\x1d"
OPEN_S_MAX = 15.0
PIECE_BYTES = 4096
MESSAGE_BYTES_MAX = 1 << 20
CLOSED = {4001: DENIED, 4003: DENIED, 4004: NOT_FOUND, 4009: REFUSED}
"""Exit codes by the gateway's closing codes: 4000 + n for what HTTP would have refused with 400 + n."""


def attach(where: Where, vm: str) -> None:
    """Until Ctrl-], the end of the input (when it is no terminal), or the end of the console. Raises Failure."""
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
    from websockets.sync.client import connect

    url = where.api.replace("http", "ws", 1) + path("vms", vm, "console")
    headers = {"Authorization": f"Bearer {where.token}"}
    try:
        with connect(
            url,
            additional_headers=headers,
            open_timeout=OPEN_S_MAX,
            max_size=MESSAGE_BYTES_MAX,
            compression=None,
            proxy=None,
        ) as socket:
            show.note(f"console of {vm}; Ctrl-] leaves")
            with raw_terminal(sys.stdin.fileno()):
                _pump(socket, sys.stdin.fileno(), sys.stdout.fileno())
            show.note("")
    except InvalidStatus as refused:
        raise _refusal(refused.response.status_code, refused.response.body, vm) from refused
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else 0
        why = closed.rcvd.reason if closed.rcvd and closed.rcvd.reason else "the connection was cut"
        sentence = f"the console of {vm} ended: {show.clean(why)}"
        raise Failure(CLOSED.get(code, UNREACHABLE), sentence, f"see `asvctl vm show {vm}`") from closed
    except (OSError, InvalidHandshake) as error:
        raise Failure(
            UNREACHABLE, f"{where.api} cannot be reached ({error})", "see `make status`, or check --api"
        ) from error


def _refusal(status: int, body: bytes | bytearray | None, vm: str) -> Failure:
    import json

    try:
        problem = json.loads(body or b"{}")
    except ValueError:
        problem = {}
    sentence = problem.get("detail") or f"the gateway gave no console of {vm} (status {status})"
    return Failure(code_of(status), sentence, problem.get("remedy", ""), problem)


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too; the terminal is as before afterwards. Nothing for what is no terminal."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _pump(socket: Any, keys: int, screen: int) -> None:
    """Both ways until one side ends. The reader runs beside; a pipe wakes the writer when it is over."""
    over, ended = os.pipe()
    fault: list[Exception] = []

    def read() -> None:
        try:
            for message in socket:
                _write_all(screen, message if isinstance(message, bytes) else message.encode())
        except Exception as error:  # handed to the thread that waits
            fault.append(error)
        finally:
            os.close(ended)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        _send_keys(socket, keys, over)
        socket.close()
        reader.join(OPEN_S_MAX)
    finally:
        os.close(over)
    if fault:
        raise fault[0]


def _send_keys(socket: Any, keys: int, over: int) -> None:
    watched = [keys, over]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if over in ready:
            return
        piece = os.read(keys, PIECE_BYTES)
        before, leave, _ = piece.partition(LEAVE)
        if before:
            socket.send(before)
        if leave:
            return
        if not piece:
            watched = [over]  # a pipe is at its end: listen on until the console is


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
