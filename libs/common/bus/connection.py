"""A connection to NATS that comes back: by nats-py's own reconnecting while the server is only away, and by dialling anew
(with the credentials as they are in their files by then) after the server hung up on us."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nats import errors

from libs.common.bus import BusError, Disconnected, Forbidden
from libs.common.bus.credentials import Credentials
from libs.common.bus.wire import WireClient

_log = logging.getLogger(__name__)

REDIAL_S = 0.25
PENDING_BYTES_MAX = 8 * 1024 * 1024
"""what may wait for the socket; beyond it publishing waits, and fails while the server is away"""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the owner does when a client was dialled, lost, came back with its subscriptions, or complains."""

    opened: Callable[[WireClient], Awaitable[None]]
    lost: Callable[[], None]
    back: Callable[[], None]
    trouble: Callable[[Exception], None]


@dataclass(slots=True)
class Connection:
    urls: Sequence[str]
    credentials: Credentials | None
    name: str
    prefix: str
    tls: ssl.SSLContext | None
    hooks: Hooks = field(init=False)
    client: WireClient = field(default_factory=WireClient)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    closing: bool = False
    trouble: str = ""
    _redial: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Connected, and heard again on all subscriptions. (nats-py says connected before it has subscribed anew.)"""
        return self.up.is_set() and bool(self.client.is_connected)

    async def await_up(self, timeout_s: float) -> None:
        """Raises Disconnected when the server does not come back in time."""
        if self.closing:
            raise Disconnected("the bus is closed")
        try:
            await asyncio.wait_for(self.up.wait(), timeout_s)
        except TimeoutError:
            raise Disconnected(f"the NATS server did not come back within {timeout_s} s") from None

    async def dial(self) -> None:
        """A new client, connected. Tries without end (the caller sets the time); raises Forbidden when it is refused."""
        refused: asyncio.Future[Forbidden] = asyncio.get_running_loop().create_future()
        client = WireClient()

        async def troubled(error: Exception) -> None:
            text = str(error).lower()
            if not client.is_connected and ("authorization" in text or "authentication" in text):
                if not refused.done():
                    refused.set_result(Forbidden(f"the NATS server refuses {self.name}: {error}"))
            else:
                self.trouble = str(error) or repr(error)
                self.hooks.trouble(error)

        async def closed() -> None:
            if client is self.client and not self.closing and self._redial is None:
                self._redial = asyncio.create_task(self._dial_again())

        dialling = asyncio.ensure_future(client.connect(**self._options(), error_cb=troubled, closed_cb=closed))
        try:
            either: set[asyncio.Future[Any]] = {dialling, refused}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise refused.result()
            dialling.result()
            self.client = client
            await self.hooks.opened(client)
            self.up.set()
        except BaseException:
            dialling.cancel()
            await asyncio.gather(dialling, return_exceptions=True)
            if not client.is_closed:
                await client.close()
            raise

    async def close(self) -> None:
        self.closing = True
        self.up.clear()
        if self._redial is not None:
            self._redial.cancel()
            await asyncio.gather(self._redial, return_exceptions=True)
        if not self.client.is_closed:
            await self.client.close()

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "servers": list(self.urls), "name": self.name, "inbox_prefix": self.prefix, "max_reconnect_attempts": -1,
            "reconnect_time_wait": REDIAL_S, "connect_timeout": 2, "ping_interval": 10, "max_outstanding_pings": 2,
            "pending_size": PENDING_BYTES_MAX, "disconnected_cb": self._lost, "reconnected_cb": self._back, "tls": self.tls,
        }  # fmt: skip
        if self.credentials is not None:
            options |= {"user_jwt_cb": self.credentials.jwt_bytes, "signature_cb": self.credentials.sign_nonce}
        return options

    async def _dial_again(self) -> None:
        while not self.closing:
            try:
                await self.dial()
                _log.info("%s: connected to NATS again", self.name)
                break
            except (BusError, errors.Error, OSError) as error:
                _log.warning("%s: dialling NATS again failed: %r", self.name, error)
            await asyncio.sleep(4 * REDIAL_S)
        self._redial = None

    async def _lost(self) -> None:
        self.up.clear()
        if not self.closing:
            _log.warning("%s: the connection to NATS is lost; waiting for the server", self.name)
        self.hooks.lost()

    async def _back(self) -> None:
        _log.info("%s: connected to NATS again", self.name)
        self.hooks.back()
        self.up.set()
