"""/v1/ha/fences: what cuts a node's power. Passwords come in, go into the store of secrets, and never come out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.log import LogError
from libs.common.messages import Command
from libs.common.secrets import Secret, SecretError
from proto.fence import (
    CallSeconds,
    Cipher,
    Device,
    DeviceKind,
    FenceNode,
    Pem,
    PowerOnNode,
    RemoveFence,
    SetFence,
    TestFence,
    Word,
)
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import DEFAULT_PROJECT, Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.problems import Problem, away
from services.gateway.views.fences import FenceShown


class FenceBody(Body):
    """A device as it is to be, whole: what is left out is not kept from before. ca: certificates in PEM; insecure: its TLS is not
    checked, or there is none; cipher: of IPMI; call_s: how long one question may take."""

    kind: DeviceKind
    address: Word
    system: Word = ""
    user: Word = ""
    password: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    ca: Pem = ""
    insecure: bool = False
    cipher: Cipher = 0
    call_s: CallSeconds = 3.0


class ReasonBody(Body):
    reason: Word = ""


class Fences(msgspec.Struct):
    items: list[FenceShown]


def _shown(fence: FenceShown) -> FenceShown:
    """Even the reference of its password is nobody's business."""
    return msgspec.structs.replace(fence, secret="")


@get("", action=Action.READ, summary="List fence devices")
async def list_fences(gateway: NamedDependency[Gateway]) -> Fences:
    return Fences([_shown(fence) for _, fence in sorted(gateway.model.fences.all.items())])


@get("/{node:str}", action=Action.READ, summary="Show a node's fence device, and how it stands")
async def show_fence(gateway: NamedDependency[Gateway], node: FromPath[str]) -> FenceShown:
    found = gateway.model.fences.all.get(node)
    if found is None:
        await gateway.node(node)
        raise Problem(404, "NOT_FOUND", f"{node} has no fence device", f"asvctl ha fence set {node} gives it one")
    return _shown(found)


async def _tell(request: Asked, gateway: Gateway, command: Command, node: str) -> Accepted:
    return await gateway.commands.ask(asker(request, gateway), "ha", f"fence-{node}", command, DEFAULT_PROJECT)


@post("/{node:str}", action=Action.FENCES, status_code=202, summary="Give a node a fence device, and test it")
async def set_fence(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[FenceBody]
) -> Accepted:
    """It is tested at once, without switching anything; one whose test fails is an alert, and proves nothing."""
    before = gateway.model.fences.all.get(node)
    secret = await _kept(gateway, data.password) if data.password else None
    device = Device(
        kind=data.kind, address=data.address, system=data.system, user=data.user, password=secret, ca=data.ca,
        insecure=data.insecure, cipher=data.cipher, call_s=data.call_s,
    )  # fmt: skip
    try:
        return await _tell(request, gateway, SetFence(node=node, device=device), node)
    finally:
        await _tidy(gateway, node, before.secret if before else "", secret.ref if secret else "")


async def _kept(gateway: Gateway, password: str) -> Secret:
    """Raises Problem 503."""
    if gateway.secrets is None:
        raise away("this gateway has no key file for secrets", "start it with ASV_SECRETS_KEY, the same file as ha's")
    try:
        return await gateway.secrets.put(password.encode(), gateway.clock.now_us())
    except SecretError as error:
        raise away(f"the password cannot be kept: {error}") from error


async def _tidy(gateway: Gateway, node: str, *refs: str) -> None:
    """Passwords that the node's device does not have (any more), by the log: a refused one, and the one before."""
    if gateway.secrets is None:
        return
    try:
        await gateway.follower.catch_up()
    except LogError:
        return  # nobody knows which is in use
    now = gateway.model.fences.all.get(node)
    for ref in refs:
        if ref and (now is None or now.secret != ref):
            try:
                await gateway.secrets.forget(Secret(ref=ref))
            except SecretError:
                return  # a ciphertext that nothing names any more is left


@post("/{node:str}/test", action=Action.FENCES, status_code=202, summary="Test a node's fence device now")
async def test_fence(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> Accepted:
    """Nothing is switched."""
    return await _tell(request, gateway, TestFence(node=node), node)


@delete("/{node:str}", action=Action.FENCES, status_code=202, summary="Take a node's fence device away")
async def remove_fence(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> Accepted:
    before = gateway.model.fences.all.get(node)
    accepted = await _tell(request, gateway, RemoveFence(node=node), node)
    await _tidy(gateway, node, before.secret if before else "")
    return accepted


@post("/{node:str}/off", action=Action.FENCES, status_code=202, summary="Cut a node's power, hard")
async def fence_node(
    request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str], data: JSONBody[ReasonBody]
) -> Accepted:
    """Once its device has confirmed that it is off, the node is lost: what it ran is started elsewhere."""
    accepted = await _tell(request, gateway, FenceNode(node=node, reason=data.reason), node)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "fence", node, "", f"{node} is being cut already")
    return accepted


@post("/{node:str}/on", action=Action.FENCES, status_code=202, summary="Switch a node on by its fence device")
async def power_on(request: Asked, gateway: NamedDependency[Gateway], node: FromPath[str]) -> Accepted:
    accepted = await _tell(request, gateway, PowerOnNode(node=node), node)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "power-on", node, "", f"{node} is being switched on already")
    return accepted


router = Router(
    "/v1/ha/fences",
    route_handlers=[list_fences, show_fence, set_fence, test_fence, remove_fence, fence_node, power_on],
    tags=["High availability"],
)
