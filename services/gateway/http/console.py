"""The websocket of a VM's serial console: binary frames both ways."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from litestar import WebSocket, websocket
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from libs.common.bus import BusError
from services.gateway.auth import Action, Principal
from services.gateway.console import INPUT_BYTES_MAX, Overrun, Session
from services.gateway.gateway import Gateway
from services.gateway.problems import Problem, not_running

_log = logging.getLogger(__name__)

RENEW_S = 10.0
"""How often the lease of a silent console is renewed, and its token looked at again (and at once when it is revoked)."""
REASON_BYTES_MAX = 120
TOO_SLOW, REFUSED, GONE = 4008, 4009, 4010
CODES = {401: 4001, 403: 4003, 404: 4004, 409: REFUSED, 503: GONE}

type Socket = WebSocket[Principal, Any, State]


@websocket("/{vm:str}/console", action=Action.CONSOLE)
async def console(
    socket: WebSocket[Principal, Any, State], gateway: NamedDependency[Gateway], vm: FromPath[str]
) -> None:
    """Closes with 1000 at the end of the console; 4000 + n for what an HTTP answer would have refused with 400 + n."""
    await socket.accept()
    try:
        found = await gateway.vm(socket.user, vm)
        if not found.node or found.state not in ("running", "paused"):
            raise not_running(vm, found.state)
        session = await gateway.consoles.start(found.node, vm)
    except Problem as problem:
        await _close(socket, CODES.get(problem.body.status, GONE), problem.body.detail)
        return
    try:
        code, reason = await _pass(socket, gateway, session)
        await _close(socket, code, reason)
    finally:
        gateway.consoles.drop(session)
        try:
            await session.close()
        except BusError as error:
            _log.debug("the end of a console of %s was not heard: %s", vm, error)


async def _pass(socket: Socket, gateway: Gateway, session: Session) -> tuple[int, str]:
    """Carry bytes until one side ends. Gives the closing code and why."""
    ways = [
        asyncio.ensure_future(way)
        for way in (_ending(gateway), _out(socket, session), _in(socket, session), _watch(socket, gateway, session))
    ]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _out(socket: Socket, session: Session) -> tuple[int, str]:
    try:
        while data := await session.read():
            await socket.send_bytes(data)
    except Overrun:
        return TOO_SLOW, "output came faster than it was read"
    return 1000, "the console has ended"


async def _in(socket: Socket, session: Session) -> tuple[int, str]:
    try:
        while True:
            message: Any = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return 1000, "closed by the client"
            data = message.get("bytes") or (message.get("text") or "").encode()
            for start in range(0, len(data), INPUT_BYTES_MAX):
                await session.write(data[start : start + INPUT_BYTES_MAX])
    except WebSocketDisconnect:
        return 1000, "closed by the client"
    except BusError as error:
        return GONE, f"the bus is away: {error}"


async def _ending(gateway: Gateway) -> tuple[int, str]:
    await gateway.follower.ending.wait()
    return 1001, "the gateway stops"


async def _watch(socket: Socket, gateway: Gateway, session: Session) -> tuple[int, str]:
    """A revoked or expired token ends what it opened."""
    with gateway.keyring.changes(socket.user.id) as changed:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), RENEW_S)
            changed.clear()
            if not await gateway.still(socket.user):
                return CODES[401], "the token is no longer valid"
            try:
                await gateway.consoles.renew(session)
            except Problem as problem:
                return GONE, problem.body.detail


async def _close(socket: Socket, code: int, reason: str) -> None:
    try:
        await socket.close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))
    except (WebSocketDisconnect, RuntimeError):
        pass  # the client was faster
