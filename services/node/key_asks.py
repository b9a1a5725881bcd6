"""Keys of backups are given to this node, and let go: `ask.<node>.key`. Never recorded; what is given is sealed for this node
alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from libs.common.bus import Bus, Incoming
from libs.common.messages import NodeId, encode
from proto.backup_keys import AskKey, KeyAnswer
from services.node.drivers import Driver, DriverError

RETRY_S = 2.0

log = logging.getLogger(__name__)
_ask = msgspec.msgpack.Decoder(AskKey).decode


class KeyAsks:
    """renew: what the node says of itself is another then; False: nobody heard."""

    def __init__(self, node: NodeId, driver: Driver, bus: Bus, renew: Callable[[], Awaitable[bool]]) -> None:
        self._node = node
        self._driver = driver
        self._bus = bus
        self._renew = renew
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._bus.serve(f"ask.{self._node}.key", self._on_key)

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    async def _on_key(self, message: Incoming) -> None:
        try:
            answer = await self._answer(_ask(message.data))
        except DriverError as error:
            answer = KeyAnswer(error=str(error) or type(error).__name__)
        except msgspec.MsgspecError as bad:
            answer = KeyAnswer(error=f"not a question: {bad}")
        await message.respond(encode(answer))

    async def _answer(self, ask: AskKey) -> KeyAnswer:
        """Raises DriverError."""
        if ask.sealed:
            key = await self._driver.take_key(ask.sealed)
        elif key := ask.forget:
            await self._driver.drop_key(key)
        else:
            return KeyAnswer(error="neither a key nor which one to forget was said")
        if not await self._renew() and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell())
        return KeyAnswer(key=key)

    async def _tell(self) -> None:
        """Until it is heard."""
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                if await self._renew():
                    return
            except DriverError as error:
                log.warning("%s cannot say which keys of backups it has: %s", self._node, error)
