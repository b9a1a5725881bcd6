"""A whole cluster in one process on a real Postgres and NATS: services, relay, gateway, and agents of simulated nodes that share
one pool, so that guests can move between them. `asvctl` talks to it over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import uvicorn

from libs.common.bus.nats import NatsBus
from libs.common.clock import SystemClock
from libs.common.host.driver import Runner
from libs.common.host.relaying import RelayRunner
from libs.common.log.postgres import PostgresLog
from libs.common.messages import Envelope, NodeId, decode_reply, encode
from proto.compute import JoinNode
from proto.upcasts import DOWNCASTS, UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.gateway.app import asgi, gateway
from services.gateway.tokens import MemoryTokens
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY
from services.node.drivers.simhost import SimHost
from services.node.drivers.simparams import SimParams
from services.node.drivers.simpool import SimPool
from services.node.drivers.simulated import SimulatedDriver
from services.node.keep import Keep
from services.node.memory_watch import MemoryWatch
from services.node.runner import AgentRunner


@dataclass(slots=True)
class Lab:
    """drivers: by node; a guest uses what `drivers[NODE].memory.demand_mib` says of it."""

    log: PostgresLog
    url: str = ""
    tokens: MemoryTokens = field(default_factory=MemoryTokens)
    drivers: dict[str, SimulatedDriver] = field(default_factory=dict)


@asynccontextmanager
async def lab(dsn: str, nats_url: str, folder: Path, nodes: dict[str, SimParams]) -> AsyncIterator[Lab]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:

        async def bus() -> NatsBus:
            made = await NatsBus.connect(nats_url, name="lab")
            stack.push_async_callback(made.drain)
            return made

        async def running(one: Any) -> Any:
            await one.start()
            stack.push_async_callback(one.stop)
            return one

        log = await PostgresLog.open(dsn)
        stack.push_async_callback(log.close)
        await running(RelayRunner(log, await bus()))
        for service in (COMPUTE, MEMORY, IO):
            await running(Runner(service, log, await bus(), clock, UPCASTS, downcasts=DOWNCASTS))
        made, pool = Lab(log), SimPool(any_file=True)
        (folder / "pool").mkdir()
        app = asgi(gateway(log, await bus(), clock, made.tokens, pools={"default": folder / "pool"}))
        made.url = await stack.enter_async_context(_served(app))
        for name, params in nodes.items():
            line = await bus()
            envelope = Envelope(id=clock.new_id(), data=msgspec.Raw(encode(JoinNode(node=name, key=name))), actor="service:gateway")
            assert decode_reply(await line.request(f"cmd.compute.node-{name}", encode(envelope))).status == "accepted"
            driver = made.drivers[name] = SimulatedDriver(SimHost(name, params, Random(1), pool), clock)
            node = NodeId(name)
            agent = await running(AgentRunner(node, "boot-1", driver, Keep(folder / name), line, clock, lambda: (4096, 0.1)))
            await running(MemoryWatch(node, "boot-1", driver, line, clock, _met(agent), agent.renew))
        yield made


def _met(agent: AgentRunner) -> Callable[[], int]:
    return lambda: agent.agent.met


@asynccontextmanager
async def _served(app: Any) -> AsyncIterator[str]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, loop="none", http="h11", ws="websockets-sansio", lifespan="on", log_config=None, access_log=False)
    )
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sock])
    serving = asyncio.create_task(server.main_loop())
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    await serving
    await server.shutdown([sock])
