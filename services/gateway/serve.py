"""The process: connects to log, bus and tokens, then serves HTTP until it is told to stop."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from libs.common import telemetry
from libs.common.blobs import PostgresBlobs
from libs.common.bus import BusError
from libs.common.bus.credentials import BadCredentials, Credentials
from libs.common.bus.identity import NodeSigner
from libs.common.bus.nats import NatsBus
from libs.common.clock import Clock, SystemClock
from libs.common.log import LogError
from libs.common.log.postgres import PostgresLog
from libs.common.secret_store import OwnSecrets
from libs.past.postgres import PostgresPast
from services.gateway.app import asgi, gateway, opened
from services.gateway.config import GatewayConfig
from services.gateway.first import ensure_admin_in
from services.gateway.past.fill import keep_filled
from services.gateway.past.store_postgres import PostgresKept
from services.gateway.tokens import StoreAway
from services.gateway.tokens_postgres import PostgresTokens

_log = logging.getLogger(__name__)

KEEP_ALIVE_S = 30
DRAIN_S_MAX = 5
CONNECTIONS_MAX = 2048
SIGNER = "node-signer.seed"


def cannot() -> tuple[type[Exception], ...]:
    """What keeps a gateway from beginning; each says why in its text."""
    return (LogError, BusError, BadCredentials, StoreAway, OSError)


class SignedNodes:
    """The Issuer that signs with the account's scoped key."""

    def __init__(self, signer: NodeSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock

    def issue(self, node: str, public_key: str) -> str:
        return self._signer.issue(node, public_key, now_us=self._clock.now_us())


async def run(config: GatewayConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises one of `cannot()` when it cannot begin, Fenced when the log was restored."""
    telemetry.start("gateway", config.otlp_endpoint, config.trace_ratio)
    clock = SystemClock()
    sock = _bound(*config.address())
    credentials = Credentials.load(config.nats_creds, config.name) if config.nats_creds else None
    bus = await NatsBus.connect(config.nats_url, credentials, name=config.name)
    log = await PostgresLog.open(config.postgres_dsn, archive=config.log_archive)
    tokens = PostgresTokens(config.postgres_dsn)
    secrets = OwnSecrets(config.postgres_dsn, config.secrets_key, make=True) if config.secrets_key else None
    blobs = PostgresBlobs(config.postgres_dsn, clock.now_us)
    past_log = await PostgresPast.open(config.reader_dsn or config.postgres_dsn)
    try:
        if config.admin_token_file is not None:
            await ensure_admin_in(tokens, config.admin_token_file, clock)
        parts = gateway(
            log,
            bus,
            clock,
            tokens,
            pools=config.pool_folders(),
            issuer=_issuer(config, clock),
            name=config.cluster_name,
            nats_url=config.agents_nats_url or config.nats_url,
            upload_bytes_max=config.upload_bytes_max,
            blobs=blobs,
            secrets=secrets,
            past_log=past_log,
            kept=PostgresKept(config.reader_dsn or config.postgres_dsn),
        )
        async with opened(parts, keep_filled(log, PostgresKept(config.postgres_dsn), config.postgres_dsn)):
            served = uvicorn.Config(asgi(parts, open_it=False), **_options())
            server = _Server(served, parts.follower.end, config.ready)
            parts.follower.on_fenced = server.leave
            await server.serve([sock])
        if parts.follower.fenced is not None:
            raise parts.follower.fenced
    finally:
        await bus.drain()
        await tokens.close()
        await blobs.close()
        if secrets is not None:
            await secrets.close()
        await past_log.close()
        await log.close()
        telemetry.stop()


class _Server(uvicorn.Server):
    """Says when it serves; at SIGTERM first lets streams end themselves, and returns rather than dying of the signal."""

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None], ready: Path | None) -> None:
        super().__init__(config)
        self._on_exit = on_exit
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            _log.info("serving at http://%s:%d", *sock.getsockname()[:2])
        _touch(self._ready)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told, number)
        yield

    def leave(self) -> None:
        self.should_exit = True

    def _told(self, number: int) -> None:
        self._on_exit()
        self.handle_exit(number, None)


def _touch(ready: Path | None) -> None:
    if ready is not None:
        ready.touch()


def _options() -> dict[str, Any]:
    return {
        "loop": "none",
        "http": "h11",
        "ws": "websockets-sansio",
        "lifespan": "off",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "limit_concurrency": CONNECTIONS_MAX,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": DRAIN_S_MAX,
    }


def _bound(host: str, port: int) -> socket.socket:
    """Raises OSError with the address in its text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio turns Nagle off
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error
    return sock


class OpenBus:
    """The Issuer of a bus that asked no credentials of us: it asks none of agents either, so there is nothing to sign."""

    def issue(self, node: str, public_key: str) -> str:
        return ""


def _issuer(config: GatewayConfig, clock: Clock) -> SignedNodes | OpenBus | None:
    """None where there is no key for a bus that wants one: then nodes cannot join. Raises BadCredentials."""
    folder = config.nats_creds
    if folder is None and config.account_key is None:
        _log.warning("the bus asks nobody who they are: agents join without an identity of their own")
        return OpenBus()
    seed = config.account_key or (folder / SIGNER if folder and (folder / SIGNER).exists() else None)
    if seed is None:
        return None
    account = config.account or (_issued_by(folder / f"{config.name}.jwt") if folder else "")
    if not account:
        raise BadCredentials(
            "ASV_ACCOUNT is not set: the public key (A…) of the account that ASV_ACCOUNT_KEY signs for"
        )
    return SignedNodes(NodeSigner.load(seed, account), clock)


def _issued_by(jwt: Path) -> str:
    """The account that signed our own identity."""
    try:
        middle = jwt.read_text().split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return str(claims["iss"])
    except (OSError, ValueError, IndexError, KeyError, msgspec.DecodeError) as error:
        raise BadCredentials(f"{jwt}: {error}") from error
