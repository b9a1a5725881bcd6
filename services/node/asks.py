"""What is asked of an agent directly and never recorded: a program in the guest, the serial console, how a VM is right now."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from libs.common.bus import Bus, BusError, Incoming
from libs.common.clock import Clock
from libs.common.messages import NodeId, encode
from proto.node import AskConsole, AskExec, AskInfo, AskScreenshot, ExecResult, Screenshot, VmInfo
from services.node.drivers import Console, Driver, DriverError

log = logging.getLogger(__name__)

EXEC_S_MAX = 300.0
GUEST_S = 0.6
"""a guest that is still booting does not keep what the host knows from whoever asks (the gateway waits for a second)"""
SESSIONS_MAX = 64

_exec = msgspec.msgpack.Decoder(AskExec).decode
_info = msgspec.msgpack.Decoder(AskInfo).decode
_screenshot = msgspec.msgpack.Decoder(AskScreenshot).decode
_console = msgspec.msgpack.Decoder(AskConsole).decode


class Asks:
    """Serves `ask.<node>.exec`, `.info`, `.screenshot`, `.console`. (`.metrics` is the runner's, `.key` in key_asks.py.)"""

    def __init__(self, node: NodeId, driver: Driver, bus: Bus, clock: Clock) -> None:
        self._node = node
        self._driver = driver
        self._bus = bus
        self._clock = clock
        self._sessions: dict[str, asyncio.Task[None]] = {}
        self._inputs: dict[str, Session] = {}

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.exec", self._on_exec)
        await self._bus.serve(f"ask.{self._node}.info", self._on_info)
        await self._bus.serve(f"ask.{self._node}.screenshot", self._on_screenshot)
        await self._bus.serve(f"ask.{self._node}.console", self._on_console)
        await self._bus.serve(f"console.{self._node}.*.in", self._on_input)

    async def stop(self) -> None:
        for task in self._sessions.values():
            task.cancel()
        await asyncio.gather(*self._sessions.values(), return_exceptions=True)

    async def _on_exec(self, message: Incoming) -> None:
        try:
            ask = _exec(message.data)
            timeout_s = min(max(ask.timeout_s, 0.1), EXEC_S_MAX)
            result = await self._driver.exec(ask.vm, ask.argv, ask.input, timeout_s)
        except DriverError as error:
            result = ExecResult(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            result = ExecResult(error=f"not a question: {bad}")
        await message.respond(encode(result))

    async def _on_screenshot(self, message: Incoming) -> None:
        try:
            answer = Screenshot(png=await self._driver.screenshot(_screenshot(message.data).vm))
        except DriverError as error:
            answer = Screenshot(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            answer = Screenshot(error=f"not a question: {bad}")
        await message.respond(encode(answer))

    async def _on_info(self, message: Incoming) -> None:
        try:
            info = await self._driver.info(_info(message.data).vm, GUEST_S)
        except DriverError as error:
            info = VmInfo(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            info = VmInfo(error=f"not a question: {bad}")
        await message.respond(encode(info))

    # --- consoles -------------------------------------------------------------------------------------------------

    async def _on_console(self, message: Incoming) -> None:
        error = ""
        try:
            ask = _console(message.data)
            if len(self._sessions) >= SESSIONS_MAX:
                error = f"{SESSIONS_MAX} consoles are open on {self._node}: close one first"
            elif ask.session not in self._sessions:
                console = await self._driver.console(ask.vm)
                session = Session(self._node, ask, console, self._bus, self._clock)
                self._inputs[ask.session] = session
                task = asyncio.create_task(session.run())
                self._sessions[ask.session] = task
                task.add_done_callback(lambda _: self._forget(ask.session))
        except DriverError as failed:
            error = str(failed) or type(failed).__name__
        except msgspec.MsgspecError as bad:
            error = f"not a question: {bad}"
        await message.respond(encode(VmInfo(error=error)))

    def _forget(self, session: str) -> None:
        self._sessions.pop(session, None)
        self._inputs.pop(session, None)

    async def _on_input(self, message: Incoming) -> None:
        session = self._inputs.get(message.subject.split(".")[2])
        if session is not None:
            await session.hear(message.data)


class Session:
    """One open console: bytes out until the console or the asker ends it, or its lease passes without input or keep-alive.

    A message of one zero byte is a keep-alive; an empty one ends the session."""

    def __init__(self, node: NodeId, ask: AskConsole, console: Console, bus: Bus, clock: Clock) -> None:
        self._out = f"console.{node}.{ask.session}.out"
        self._lease_s = min(max(ask.lease_s, 1.0), 3600.0)
        self._console = console
        self._bus = bus
        self._clock = clock
        self._heard = clock.monotonic()
        self._over = asyncio.Event()

    async def hear(self, data: bytes) -> None:
        self._heard = self._clock.monotonic()
        if not data:
            self._over.set()
        elif data != b"\0":
            await self._console.write(data)

    async def run(self) -> None:
        reader = asyncio.create_task(self._pass_on())
        over = asyncio.create_task(self._over.wait())
        try:
            while not (reader.done() or over.done()) and self._clock.monotonic() - self._heard < self._lease_s:
                await asyncio.wait({reader, over}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reader.cancel()
            over.cancel()
            await self._console.close()
            try:
                await self._bus.publish(self._out, b"")
            except BusError as error:
                log.debug("the end of a console was not said: %s", error)

    async def _pass_on(self) -> None:
        while data := await self._console.read():
            await self._bus.publish(self._out, data)
