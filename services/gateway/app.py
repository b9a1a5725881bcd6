"""Wiring: what the gateway is made of, and what it opens and closes in which order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar, Request
from litestar.datastructures import ResponseHeader, State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import Scope

from libs.common.blobs import BlobStore, MemoryBlobs
from libs.common.bus import Bus, Incoming
from libs.common.clock import Clock
from libs.common.log import EventLog
from libs.common.protocol import OURS
from libs.common.secrets import SecretStore
from services.gateway import seeds
from services.gateway.beats import Beats
from services.gateway.chores import sweep_blobs
from services.gateway.commands import REQUEST_S, Commands
from services.gateway.console import Consoles
from services.gateway.follow import Follower
from services.gateway.gateway import Gateway
from services.gateway.http import (
    alerts,
    backup_keys,
    balance,
    cluster,
    digests,
    drills,
    events,
    fences,
    ha,
    images,
    ledgers,
    metrics,
    networks,
    nodes,
    past,
    placement,
    pools,
    recoveries,
    schema,
    tokens,
    verdicts,
    vms,
    waves,
    why,
)
from services.gateway.http.door import (
    PAST,
    PROTOCOL_HEADER,
    door,
    on_away,
    on_bug,
    on_http,
    on_problem,
    strict_body,
)  # fmt: skip
from services.gateway.http.watch import Watch
from services.gateway.join import Issuer
from services.gateway.past.pasts import Pasts
from services.gateway.past.source import Readable
from services.gateway.past.store import KeptStore, MemoryKept
from services.gateway.pictures import keep_pictures
from services.gateway.problems import Problem
from services.gateway.tokens import Keyring, StoreAway, TokenStore
from services.gateway.uploads import BYTES_MAX, Uploads

_log = logging.getLogger(__name__)
_access = logging.getLogger("services.gateway.access")

BODY_BYTES_MAX = 2 * 1024 * 1024


def gateway(
    log: EventLog,
    bus: Bus,
    clock: Clock,
    tokens: TokenStore,
    *,
    pools: Mapping[str, Path] | None = None,
    issuer: Issuer | None = None,
    name: str = "asv",
    nats_url: str = "",
    request_s: float = REQUEST_S,
    upload_bytes_max: int = BYTES_MAX,
    blobs: BlobStore | None = None,
    secrets: SecretStore | None = None,
    past_log: Readable | None = None,
    kept: KeptStore | None = None,
) -> Gateway:
    """All parts, nothing opened yet. request_s: how long a command's answer is waited for. blobs: in memory where none
    are given; kept: snapshots of the past, likewise. past_log: where past states are read from, if not from the log itself."""
    follower = Follower(log, bus)
    return Gateway(
        log=log,
        bus=bus,
        clock=clock,
        keyring=Keyring(tokens),
        follower=follower,
        commands=Commands(bus, follower, clock, request_s=request_s),
        beats=Beats(clock),
        consoles=Consoles(bus),
        uploads=Uploads(pools or {}, bytes_max=upload_bytes_max),
        blobs=blobs or MemoryBlobs(clock.now_us),
        issuer=issuer,
        secrets=secrets,
        name=name,
        nats_url=nats_url,
        pasts=Pasts(past_log or log, kept or MemoryKept()),
    )


@asynccontextmanager
async def opened(gateway: Gateway, *more: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Views folded, subscriptions made. more: chores that this process does besides. Raises LogError, BusError."""
    await gateway.follower.open()
    await gateway.beats.open(gateway.bus)
    await gateway.consoles.open()
    await gateway.bus.serve("query.gateway.>", _answer)
    _sweep(gateway)
    gateway.follower.on_image = _tidier(gateway)
    chores = (sweep_blobs(gateway.blobs, gateway.clock), _watch_tokens(gateway), keep_pictures(gateway), *more)
    lasting = [asyncio.create_task(work) for work in chores]
    try:
        yield
    finally:
        for task in lasting:
            task.cancel()
        await asyncio.gather(*lasting, return_exceptions=True)
        await gateway.follower.close()
        await gateway.uploads.settle()


async def _answer(message: Incoming) -> None:
    await message.respond(b"\x80")


async def _watch_tokens(gateway: Gateway) -> None:
    """A revoked token is felt at once, by requests and by what lasts."""

    def changed(id: str) -> None:
        gateway.keyring.forget(id)
        gateway.follower.nudge()

    await gateway.keyring.store.watch(changed)


def _sweep(gateway: Gateway) -> None:
    images = gateway.model.images.all.values()
    wanted = {image.file for image in images if image.state == "importing"} | seeds.wanted(gateway)
    gateway.uploads.sweep(wanted, gateway.clock.now_us())


def _tidier(gateway: Gateway) -> Callable[[str], None]:
    """After an import has ended, its uploaded part is of no more use."""

    def tidy(name: str) -> None:
        image = gateway.model.images.all.get(name)
        if image is None or image.state == "importing" or image.pool not in gateway.uploads.pools:
            return
        if image.file.endswith(".part"):
            gateway.uploads.drop_later(image.pool, image.file)

    return tidy


def _provide(state: State, scope: Scope) -> Gateway:
    """The one of now, or that of the past moment which is asked about."""
    found: Gateway = scope["state"].get(PAST) or state.gateway
    return found


async def _log_access(request: Request[Any, Any, Any]) -> None:
    """At debug only, and without the query: it may hold what is nobody's business."""
    _access.debug("%s %s", request.method, request.url.path)


def asgi(gateway: Gateway, *, open_it: bool = True) -> Litestar:
    """The HTTP application. open_it: its lifespan opens and closes the gateway; else that was done before."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with opened(gateway):
            yield

    routes: list[Any] = [
        cluster.healthz, cluster.show_cluster, cluster.finalize_cluster, digests.show_digests,
        balance.show_balance, balance.set_balance,
        balance.apply_balance, placement.show_placement, placement.set_placement, metrics.metrics,
        alerts.list_alerts, vms.router, nodes.router, nodes.join, ledgers.list_ledgers, ledgers.router,
        images.router, networks.router, pools.router, fences.router, tokens.router, *ha.routes,
        verdicts.list_verdicts, backup_keys.router, *recoveries.routes, *drills.routes, *waves.routes,
        events.events, events.list_tasks, events.show_task, why.why, why.why_backup, why.why_not, past.diff, past.timeline,
    ]  # fmt: skip
    app = Litestar(
        routes,
        guards=[door],
        response_headers=[ResponseHeader(name=PROTOCOL_HEADER, value=str(OURS), description="what this gateway speaks")],
        middleware=[Watch()],
        before_request=strict_body,
        after_response=_log_access,
        dependencies={"gateway": Provide(_provide, sync_to_thread=False)},
        exception_handlers={
            Problem: on_problem, HTTPException: on_http, StoreAway: on_away, Exception: on_bug,
        },
        lifespan=[lifespan] if open_it else [],
        openapi_config=schema.config(),
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
    )  # fmt: skip
    app.state.gateway = gateway
    return app
