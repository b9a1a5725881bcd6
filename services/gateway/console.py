"""Serial consoles: a websocket on one side, the subjects `console.<node>.<session>.in` and `.out` on the other.

Bytes pass through and are kept nowhere. A console that nobody reads is cut rather than buffered without end; the agent ends
a session by itself when its lease is not renewed.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec

from libs.common.bus import Bus, BusError, Incoming, NoResponder
from libs.common.messages import encode
from proto.node import AskConsole
from services.gateway.problems import Problem, away

SESSIONS_MAX = 256
BEHIND_MAX = 1024
"""messages of output that may wait for one slow reader"""
LEASE_S = 30.0
ASK_S = 10.0
INPUT_BYTES_MAX = 64 * 1024


class Overrun(Exception):
    """The reader was too slow for the console."""


class Session:
    """One open console. `read` gives b'' at its end."""

    def __init__(self, bus: Bus, node: str, vm: str, id: str) -> None:
        self.node = node
        self.vm = vm
        self.id = id
        self._bus = bus
        self._out: asyncio.Queue[bytes] = asyncio.Queue(BEHIND_MAX)
        self._overrun = False

    def hear(self, data: bytes) -> None:
        if self._out.full():
            self._overrun = True
        else:
            self._out.put_nowait(data)

    async def read(self) -> bytes:
        """Raises Overrun once output had to be dropped."""
        if self._overrun:
            raise Overrun
        return await self._out.get()

    async def write(self, data: bytes) -> None:
        """Raises BusError. Empty data would end the session and is not sent."""
        if data:
            await self._bus.publish(f"console.{self.node}.{self.id}.in", data)

    async def close(self) -> None:
        await self._bus.publish(f"console.{self.node}.{self.id}.in", b"")


class Consoles:
    """All open consoles of this gateway; one subscription hears them all."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._sessions: dict[tuple[str, str], Session] = {}

    async def open(self) -> None:
        await self._bus.serve("console.*.*.out", self._hear)

    async def _hear(self, message: Incoming) -> None:
        _, node, id, _ = message.subject.split(".")
        if (session := self._sessions.get((node, id))) is not None:
            session.hear(message.data)

    async def start(self, node: str, vm: str) -> Session:
        """Raises Problem: 503 when the agent does not answer or too many are open, 409 with the agent's own sentence."""
        if len(self._sessions) >= SESSIONS_MAX:
            raise away(f"{SESSIONS_MAX} consoles are open already", "close one first")
        session = Session(self._bus, node, vm, f"c-{secrets.token_hex(12)}")
        self._sessions[node, session.id] = session
        try:
            await self.renew(session)
        except Problem:
            self.drop(session)
            raise
        return session

    async def renew(self, session: Session) -> None:
        """Ask the agent for the session, or for more time. Raises Problem as `start` does."""
        ask = AskConsole(vm=session.vm, session=session.id, lease_s=LEASE_S)
        try:
            check(await self._bus.request(f"ask.{session.node}.console", encode(ask), timeout_s=ASK_S))
        except NoResponder:
            raise away(f"the agent of {session.node} does not run just now") from None
        except BusError as error:
            raise away(f"{session.node} did not open the console: {error}") from error

    def drop(self, session: Session) -> None:
        self._sessions.pop((session.node, session.id), None)


def check(answer: bytes) -> None:
    """An agent that cannot answers with an `error` sentence, whatever the rest of its answer is."""
    try:
        body = msgspec.msgpack.decode(answer, type=dict[str, Any]) if answer else {}
    except (msgspec.DecodeError, msgspec.ValidationError) as bad:
        raise Problem(502, "BAD_ANSWER", "the agent's answer cannot be read") from bad
    why = body.get("error") or ("" if body.get("accepted", True) else body.get("sentence", "refused"))
    if why:
        raise Problem(409, "NODE_CANNOT", str(why))
