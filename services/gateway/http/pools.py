"""/v1/pools: where disks and images are."""

from __future__ import annotations

from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from proto.pools import SetPool
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import PoolBody, Pools
from services.gateway.http.door import Asked, asker
from services.gateway.pools import Pool, pools
from services.gateway.problems import Problem


def found(request: Asked, gateway: Gateway) -> list[Pool]:
    return pools(gateway.model, gateway.beats.pools, request.user.sees)


@get("", action=Action.READ, summary="List storage pools")
async def list_pools(request: Asked, gateway: NamedDependency[Gateway]) -> Pools:
    """Nodes may have pools of one name with other disks in them: each is told. Figures are those of the last seconds."""
    return Pools(found(request, gateway))


@get("/{pool:str}", action=Action.READ, summary="Show the pools of a name, or of an id")
async def show_pool(request: Asked, gateway: NamedDependency[Gateway], pool: FromPath[str]) -> Pools:
    named = [one for one in found(request, gateway) if pool in (one.name, one.id)]
    if not named:
        raise Problem(404, "NOT_FOUND", f"no node has a pool `{pool}`", "list the pools first")
    return Pools(named)


@post("/{pool:str}", action=Action.POOLS, status_code=202, summary="Set the rules of all pools of a name")
async def set_pool(
    request: Asked, gateway: NamedDependency[Gateway], pool: FromPath[str], data: JSONBody[PoolBody]
) -> Accepted:
    """They hold for what is attached, grown or started from then on; nothing that is there is taken away."""
    command = SetPool(
        pool=pool, over=data.over, keep_free_pct=data.keep_free_pct, backups_at_once=data.backups_at_once
    )
    accepted = await gateway.commands.ask(asker(request, gateway), "io", f"pool-{pool}", command, DEFAULT_PROJECT)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "pool", pool, "", f"the pool {pool} had these rules already")
    return accepted


router = Router("/v1/pools", route_handlers=[list_pools, show_pool, set_pool], tags=["Pools"])
