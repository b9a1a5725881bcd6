"""/v1/verdicts, /v1/vms/VM/verdicts: what was found of VMs whose guest or process died, with what their screen showed."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.response import Response

from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.pictures import picture
from services.gateway.problems import Problem
from services.gateway.views.verdicts import Verdict


class Verdicts(msgspec.Struct):
    items: list[Verdict]


@get("/v1/verdicts", action=Action.READ, summary="Verdicts on VMs", tags=["High availability"])
async def list_verdicts(request: Asked, gateway: NamedDependency[Gateway]) -> Verdicts:
    """Of the VMs of the token's projects, the oldest first; the latest sixteen of each VM."""
    vms, found = gateway.model.vms.all, gateway.model.verdicts.all
    seen = [v for vm, verdicts in found.items() if vm in vms and request.user.sees(vms[vm].project) for v in verdicts]
    return Verdicts(sorted(seen, key=lambda v: (v.at_us, v.vm)))


@get("/{vm:str}/verdicts", action=Action.READ, summary="Verdicts on a VM")
async def verdicts_of(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> Verdicts:
    """The oldest first, the latest sixteen."""
    await gateway.vm(request.user, vm)
    return Verdicts(gateway.model.verdicts.of(vm))


@get(
    "/{vm:str}/verdicts/{number:int}/picture", action=Action.SCREENSHOT, summary="What its screen showed then",
    media_type="image/png",
)  # fmt: skip
async def picture_of(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], number: FromPath[int]
) -> Response[bytes]:
    """A PNG, kept for 30 days. number 0: of the latest verdict."""
    await gateway.vm(request.user, vm)
    found = gateway.model.verdicts.find(vm, number)
    if found is None:
        raise Problem(404, "UNKNOWN", f"there is no verdict {number} on {vm}", f"list them: GET /v1/vms/{vm}/verdicts")
    if not found.picture:
        raise Problem(404, "NO_PICTURE", f"no picture was taken for verdict {found.number} on {vm}", "its findings are in the list")
    png = await picture(gateway, found)
    return Response(png, media_type="image/png", headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})


HANDLERS = (verdicts_of, picture_of)
