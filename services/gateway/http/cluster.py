"""/healthz and /v1/cluster: how the whole is doing."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Response

from libs.common.bus import BusError, NoResponder
from libs.common.log import LogError
from libs.common.messages import Event
from libs.common.protocol import PROTOCOL
from proto.cluster import MAIN, FinalizeCluster, IncarnationBegan
from proto.services import CONTROL
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Cluster, FinalizeBody, Health, ServiceHealth
from services.gateway.http.door import Asked, asker
from services.gateway.problems import away
from services.gateway.why import reading

PING_S = 1.5
OK = "ok"


async def _log_says(gateway: Gateway) -> str:
    try:
        async with asyncio.timeout(PING_S):
            await gateway.log.head()
    except (LogError, TimeoutError) as error:
        return f"away: {error}" if str(error) else "away: no answer in time"
    return OK


async def _bus_says(gateway: Gateway) -> str:
    """A question to ourselves, once around through the server."""
    try:
        await gateway.bus.request("query.gateway.ping", b"", timeout_s=PING_S)
    except NoResponder:
        return OK  # the server answered: it knows that nobody listens
    except BusError as error:
        return f"away: {error}"
    return OK


@get("/healthz", open=True, summary="Is the control plane there?", tags=["Cluster"])
async def healthz(gateway: NamedDependency[Gateway]) -> Response[Health]:
    """200 when log and bus answer, else 503 with which of them does not."""
    log, bus = await asyncio.gather(_log_says(gateway), _bus_says(gateway))
    return Response(Health(log, bus), status_code=200 if log == bus == OK else 503)


async def _service_says(gateway: Gateway, name: str) -> ServiceHealth:
    try:
        data = await gateway.bus.request(f"query.{name}.status", b"", timeout_s=PING_S)
        return ServiceHealth(ok=True, status=msgspec.msgpack.decode(data))
    except NoResponder:
        return await _service_listens(gateway, name)
    except (BusError, msgspec.DecodeError) as error:
        return ServiceHealth(ok=False, error=str(error))


async def _service_listens(gateway: Gateway, name: str) -> ServiceHealth:
    """Of a service that answers no questions: does it answer commands? This is none, so that nothing is decided."""
    try:
        await gateway.bus.request(f"cmd.{name}.ping", b"", timeout_s=PING_S)
    except NoResponder:
        return ServiceHealth(ok=False, error="does not run")
    except BusError as error:
        return ServiceHealth(ok=False, error=str(error))
    return ServiceHealth(ok=True)


async def last_said[T: Event](gateway: Gateway, kind: type[T]) -> T | None:
    """The latest event of that class about the cluster, as of the moment that is asked about. Raises Problem 503."""
    found, after = None, 0
    try:
        while rows := await gateway.log.read_stream(f"cluster-{MAIN}", after):
            found = next((event for row in reversed(rows) if isinstance(event := reading.known(row).event, kind)), found)
            after = rows[-1].version
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    return found


async def _services(gateway: Gateway, position: int) -> dict[str, ServiceHealth]:
    """How each is doing now; of the past nobody recorded that."""
    if gateway.past is not None:
        return {}
    answers = await asyncio.gather(*(_service_says(gateway, name) for name in CONTROL))
    for answer in answers:
        if answer.ok and isinstance(answer.status, dict) and isinstance(at := answer.status.get("position"), int):
            answer.behind = max(0, position - at)
    return dict(zip(CONTROL, answers, strict=True))


async def _incarnation(gateway: Gateway, now: int) -> int:
    """Of the log, at the moment that is asked about."""
    if gateway.past is None:
        return now
    began = await last_said(gateway, IncarnationBegan)
    return began.incarnation if began is not None else 1


@get("/v1/cluster", action=Action.READ, summary="The cluster at a glance", tags=["Cluster"])
async def show_cluster(request: Asked, gateway: NamedDependency[Gateway]) -> Cluster:
    """Of the past without services, as nobody recorded how they did, and a node counts as online that was not lost."""
    try:
        head = await gateway.log.head()
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    services = await _services(gateway, head.position)
    nodes = gateway.model.nodes.all
    online = [node for node in nodes.values() if gateway.beats.online(node.name)]
    able = [node.capabilities for node in online if node.capabilities is not None]
    vms = [vm for vm in gateway.model.vms.all.values() if request.user.sees(vm.project)]
    return Cluster(
        name=gateway.name,
        incarnation=await _incarnation(gateway, head.incarnation),
        position=head.position,
        shown_position=gateway.follower.position,
        services=services,
        nodes=len(nodes),
        nodes_online=len(online),
        vms=len(vms),
        vms_running=sum(vm.state == "running" for vm in vms),
        accelerators=sorted({one.accelerator for one in able}),
        not_enforced=sorted({word for one in able for word in one.not_enforced}),
    )


async def _speaks(gateway: Gateway, name: str) -> int:
    """The newest protocol of a service, as it says itself; 0 where it does not answer."""
    try:
        data = await gateway.bus.request(f"query.{name}.status", b"", timeout_s=PING_S)
        return int(msgspec.msgpack.decode(data).get("protocol", 1))
    except (BusError, msgspec.DecodeError, AttributeError, TypeError, ValueError):
        return 0


@post(
    "/v1/cluster/finalize", action=Action.FINALIZE, status_code=202, summary="End a mixed cluster: all speak a protocol",
    tags=["Cluster"],
)  # fmt: skip
async def finalize_cluster(
    request: Asked, gateway: NamedDependency[Gateway], data: JSONBody[FinalizeBody | None] = None
) -> Accepted:
    ask = asker(request, gateway)
    found = await asyncio.gather(*(_speaks(gateway, name) for name in CONTROL))
    services = dict(zip(CONTROL, found, strict=True)) | {"gateway": PROTOCOL}
    command = FinalizeCluster(protocol=data.protocol if data else 0, services=services)
    accepted = await gateway.commands.ask(ask, "compute", f"cluster-{MAIN}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "finalize", "cluster", "", "all speak that protocol already")
    return accepted
