"""/v1/vms/VM/guard: whether a VM is to run again by itself, and what is known of that."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from libs.common.messages import Name
from proto.guard import FailuresMax, GraceS, Mode, PanicWaitS, SetGuard, Then, WindowS
from services.gateway.auth import Action
from services.gateway.commands import Accepted
from services.gateway.gateway import Gateway
from services.gateway.http.bodies import Body
from services.gateway.http.door import Asked, asker
from services.gateway.views.guards import Guarded, stays


class GuardBody(Body):
    """What is not said stays. after: [] waits for none."""

    mode: Mode | None = None
    after: Annotated[list[Name], msgspec.Meta(max_length=16)] | None = None
    hangs: bool | None = None
    panics: bool | None = None
    panic_wait_s: PanicWaitS | None = None
    failures_max: FailuresMax | None = None
    window_s: WindowS | None = None
    then: Then | None = None
    grace_s: GraceS | None = None

    def said(self) -> dict[str, Any]:
        return super().said() | ({"after": tuple(self.after)} if self.after is not None else {})


@get("/{vm:str}/guard", action=Action.READ, summary="How a VM is guarded, and whether it is owed")
async def show_guard(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Guarded:
    found = await gateway.vm(request.user, vm)
    guarded = gateway.model.guards.guard(found.name)
    return msgspec.structs.replace(guarded, stays=stays(found, gateway.model.nodes.reaching()))


@put("/{vm:str}/guard", action=Action.OPERATE, status_code=202, summary="Set whether a VM is to run again by itself")
async def set_guard(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], data: JSONBody[GuardBody]
) -> Accepted:
    """A VM with a disk that one node alone reaches is refused the mode `restart`: nothing could keep that promise."""
    found = await gateway.vm(request.user, vm)
    for name in data.after or ():
        await gateway.vm(request.user, name)
    ask = asker(request, gateway)
    command = SetGuard(vm=vm, **data.said())
    accepted = await gateway.commands.ask(ask, "ha", f"guard-{vm}", command, found.project)
    if accepted.position == 0:
        gateway.unchanged(accepted.task, "guard", vm, found.project, f"the guard of {vm} was so already")
    return accepted
