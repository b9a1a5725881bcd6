"""`python -m services.watchdog`; or, in milliseconds, `python -I -S …/services/watchdog/__main__.py`.

With words behind `--`, such as `-- python -m services.node`, it is the first process of a node's container: it starts those, starts
them again when they end, and reaps what nobody waits for; the end of it is the end of the container.

Exits 2 on a wrong setting, 3 where another one runs in the same folder, 1 when it cannot begin.
"""

from __future__ import annotations

import os
import signal
import sys

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

import threading

from services.watchdog import settings, standing
from services.watchdog.app import AlreadyRuns, Watchdog
from services.watchdog.clock import start_ticks
from services.watchdog.device import NoDevice
from services.watchdog.keeping import say

STACK_BYTES = 256 * 1024
"""of each thread: all of it is locked in memory"""
PID = "pid"


def main(argv: list[str]) -> int:
    threading.stack_size(STACK_BYTES)
    try:
        told = settings.read(os.environ)
    except ValueError as wrong:
        print(f"services.watchdog: {wrong}", file=sys.stderr)
        return 2
    try:
        agent = argv[argv.index("--") + 1 :] if "--" in argv else []
        watchdog = Watchdog(told, agent, os.environ.get("ASV_READY", "") if agent else "")
    except AlreadyRuns as other:
        print(f"services.watchdog: {other}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"services.watchdog: {error}", file=sys.stderr)
        return 1
    for said in standing.enter():
        say(said)
    _sign(f"{told.state}/watchdog/{PID}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watchdog.leave())
    try:
        return watchdog.run()
    except NoDevice as error:
        print(f"services.watchdog: {error}", file=sys.stderr)
        return 1


def _sign(path: str) -> None:
    """Who it is, for whoever supervises it: process id and start time."""
    fd = os.open(f"{path}.draft", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(fd, b'{"pid":%d,"started":%d}\n' % (os.getpid(), start_ticks(os.getpid()) or 0))
    os.close(fd)
    os.replace(f"{path}.draft", path)  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
