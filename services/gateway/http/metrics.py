"""/metrics: the figures of all services, agents and of the gateway itself, gathered when they are asked for."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.response import Response

from libs.common.bus import BusError
from libs.common.log import LogError
from libs.common.metrics import Family, Figures, Sample, of_process, render
from proto.services import CONTROL
from services.gateway.auth import Action
from services.gateway.gateway import Gateway

GATHER_S_MAX = 2.0
NODES_MAX = 1000
"""nodes asked for their figures at one time"""
TEXT = "text/plain; version=0.0.4"
OF_AGENTS = ("asv_agent_", "asv_process_")
"""what an agent may say: it is not trusted to speak for others"""

_decode = msgspec.msgpack.Decoder(Figures).decode

type Groups = list[tuple[dict[str, str], tuple[Family, ...]]]


async def _asked(gateway: Gateway, subject: str) -> Figures | None:
    try:
        return _decode(await gateway.bus.request(subject, b"", timeout_s=GATHER_S_MAX))
    except (BusError, msgspec.DecodeError):
        return None


async def _answers(gateway: Gateway, subjects: dict[str, str]) -> dict[str, Figures | None]:
    answers = await asyncio.gather(*(_asked(gateway, subject) for subject in subjects.values()))
    return dict(zip(subjects, answers, strict=True))


async def _gathered(gateway: Gateway) -> str:
    nodes = sorted(node for node in gateway.model.nodes.all if gateway.beats.online(node))[:NODES_MAX]
    head, of_services, of_nodes = await asyncio.gather(
        _head(gateway),
        _answers(gateway, {name: f"query.{name}.metrics" for name in CONTROL}),
        _answers(gateway, {node: f"ask.{node}.metrics" for node in nodes}),
    )
    groups: Groups = [({}, (*head, *_up(of_services, of_nodes), _shown(gateway)))]
    groups += [({"service": name}, said.own) for name, said in of_services.items() if said]
    shared = {said.process: said.shared for said in of_services.values() if said}
    groups += [({"process": process}, families) for process, families in shared.items()]
    groups.append(({"process": "gateway"}, of_process()))
    for node, said in of_nodes.items():
        if said is not None:
            own = tuple(f for f in (*said.own, *said.shared) if f.name.startswith(OF_AGENTS))
            groups.append(({"node": node}, own))
    return await asyncio.to_thread(render, groups)


async def _head(gateway: Gateway) -> tuple[Family, ...]:
    try:
        async with asyncio.timeout(GATHER_S_MAX):
            head = await gateway.log.head()
    except (LogError, TimeoutError):
        return ()
    return (
        Family("asv_log_position", "gauge", "the log's last event", (Sample((), head.position),)),
        Family("asv_log_incarnation", "gauge", "the log's incarnation", (Sample((), head.incarnation),)),
    )


def _up(services: dict[str, Figures | None], nodes: dict[str, Figures | None]) -> tuple[Family, ...]:
    up = [Sample((("service", name),), said is not None) for name, said in services.items()]
    up += [Sample((("node", node),), said is not None) for node, said in nodes.items()]
    return (Family("asv_up", "gauge", "whether it answered when it was asked for its figures", tuple(up)),)


def _shown(gateway: Gateway) -> Family:
    shown = (Sample((), gateway.follower.position),)
    return Family("asv_gateway_position", "gauge", "the last event that answers are made of", shown)


@get("/metrics", action=Action.READ, live=True, summary="Figures of the whole, for Prometheus", tags=["Cluster"])
async def metrics(gateway: NamedDependency[Gateway]) -> Response[str]:
    """Text format 0.0.4. What does not answer within 2 s has `asv_up` 0, or, a node that is offline, none."""
    return Response(await _gathered(gateway), media_type=TEXT)
