"""/v1/cluster/digests: what running services' streams are like, for whoever folds the log (`asvctl log verify --deep`)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from libs.common.host.digests import Digests, Page
from proto.services import SERVICES
from services.gateway.asking import ask_service
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem

After = Annotated[str, QueryParameter(description="the last stream of the page before")]


class StreamState(msgspec.Struct):
    """digest: of its state, in hex."""

    stream: str
    version: int
    digest: str


class States(msgspec.Struct):
    """position: up to which the service has heard the log; more: ask again, after the last of these."""

    service: str
    position: int
    incarnation: int
    streams: list[StreamState]
    more: bool


@get("/v1/cluster/digests/{service:str}", action=Action.DIGESTS, summary="What a service's streams are like", tags=["Cluster"])
async def show_digests(
    request: Asked, gateway: NamedDependency[Gateway], service: FromPath[str], after: After = ""
) -> States:
    if service not in SERVICES:
        raise Problem(404, "NO_SUCH_SERVICE", f"`{service}` has no streams", f"ask for one of {', '.join(SERVICES)}")
    found = await ask_service(gateway.bus, service, "digests", Digests, Page(after))
    streams = [StreamState(one.stream, one.version, one.digest.hex()) for one in found.streams]
    return States(service, found.position, found.incarnation, streams, found.more)
