"""A log in a file, shown by the gateway's own API: `python -m services.gateway.past.shown FILE.aslog`.

It serves the loopback, with a token that only its caller is told, until its standard input ends. On its standard output is one line
of JSON once it serves: `{"api": …, "token": …, "position": …}`. Nobody is beside it: what is asked of the present is refused.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import msgspec
import uvicorn

from libs.common import loop
from libs.common.bus.memory import Hub, MemoryBus
from libs.common.clock import SystemClock
from libs.common.log import Group, LogError
from libs.common.log.memory import MemoryLog
from libs.common.log.rows import Row, batches
from libs.past.aslog import Aslog, read
from services.gateway.app import asgi, gateway, opened
from services.gateway.auth import Role
from services.gateway.tokens import MemoryTokens, new_token

USAGE, UNUSABLE = 2, 6


def log_of(content: Aslog) -> MemoryLog:
    """As it was: positions, times, commands. Raises LogError where it is no one log."""
    at = [0]
    log = MemoryLog(lambda: at[0], content.header.incarnation)
    rows = [Row(*msgspec.structs.astuple(one)) for one in content.commands]
    for at_us, units in batches(content.events, rows, {}):
        at[0] = at_us
        if (stopped := log.append_now(Group(tuple(units))).stopped) is not None:
            raise LogError(f"it is no one log: {stopped}")
    if (head := log.head_now().position) != len(content.events) or head != content.header.last:
        raise LogError(f"it has gaps: {len(content.events)} events up to position {content.header.last}")
    return log


async def serve(path: Path) -> None:
    """Raises LogError, OSError."""
    log, tokens, clock = log_of(read(path)), MemoryTokens(), SystemClock()
    row, token = new_token("reader", Role.ADMIN, ("*",), 0)
    await tokens.add(row)
    parts = gateway(log, MemoryBus(Hub()), clock, tokens, name=path.stem)
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        asgi(parts, open_it=False), loop="none", http="h11", lifespan="off", access_log=False, log_config=None, server_header=False
    )
    server = uvicorn.Server(config)
    async with opened(parts):
        sock.listen()
        told = {"api": "http://{}:{}".format(*sock.getsockname()), "token": token, "position": log.head_now().position}
        print(json.dumps(told), flush=True)
        serving = asyncio.create_task(server.serve([sock]))
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


def main() -> int:
    if len(sys.argv) != 2:
        print("python -m services.gateway.past.shown FILE.aslog", file=sys.stderr)
        return USAGE
    try:
        loop.run(serve(Path(sys.argv[1])))
    except (LogError, OSError, ValueError) as error:
        print(f"asvctl log read: {error}", file=sys.stderr)
        return UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
