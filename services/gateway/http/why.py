"""/v1/why and /v1/why-not: the true chain of causes, from recorded events and refusals."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from libs.common.log import LogError
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem, away, unknown
from services.gateway.why import ask
from services.gateway.why.not_so import WhyNot, not_on_node, not_started
from services.gateway.why.tree import Known

KINDS = ("vm", "image", "node")

NodeName = Annotated[str, QueryParameter(description="why the VM is not on this node")]
Started = Annotated[bool, QueryParameter(description="why the VM is not started")]


@get("/v1/why/{kind:str}/{name:str}", action=Action.READ, summary="Why an object is as it is", tags=["Why"])
async def why(request: Asked, gateway: NamedDependency[Gateway], kind: FromPath[str], name: FromPath[str]) -> ask.Why:
    """Its newest stories: who asked, what was decided because of it, on which evidence, and what agents saw. A VM or image that was
    deleted has its stories still."""
    if kind not in KINDS:
        raise Problem(404, "NO_SUCH_KIND", f"there is nothing of the kind `{kind}`", f"one of: {', '.join(KINDS)}")
    stream = f"{kind}-{name}"
    if kind == "node":
        await gateway.node(name)
    else:
        project = gateway.model.scopes.at(stream, gateway.follower.position)
        if project is None or not request.user.sees(project):
            raise unknown(kind, name)
    try:
        found = await ask.why(gateway.log, f"{kind}/{name}", stream, lambda known: _sees(request, gateway, known))
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    return found


def _sees(request: Asked, gateway: Gateway, known: Known) -> bool:
    return request.user.sees(gateway.model.scopes.project_of(known.recorded, known.event))


@get("/v1/why-not/vm/{vm:str}", action=Action.READ, summary="Why a VM is not so", tags=["Why"])
async def why_not(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], node: NodeName = "", started: Started = False
) -> WhyNot:
    """Either `node`, or `started`."""
    if bool(node) == started:
        raise Problem(400, "BAD_QUESTION", "one question at a time", "give either node=NAME or started=true")
    found = await gateway.vm(request.user, vm)
    if node:
        await gateway.node(node)
    try:
        events = [ask.known(recorded) for recorded in await ask.read_newest(gateway.log, f"vm-{vm}")]
        refused = await ask.refusals(gateway.log, f"vm-{vm}")
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    if not node:
        return not_started(found, events, refused)
    return not_on_node(found, node, events, refused, gateway.model.nodes.numbers.get(node, -1))
