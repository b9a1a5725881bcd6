"""/v1/vms/NAME/history: what happened to a VM, a line each, with who asked for it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from libs.common.log import LogError
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import away
from services.gateway.why import reading
from services.gateway.why.sentences import sentence
from services.gateway.why.tree import Known

SIZE = frozenset({"vm_defined", "vm_reshaped", "vm_resize_requested", "vm_resized", "vm_resize_denied"})
"""events that tell of a VM's size"""

OfSize = Annotated[bool, QueryParameter(description="only what changed its vCPUs and memory")]


class Happened(msgspec.Struct):
    """actor: who said it; asked_by: who began the story that it belongs to."""

    position: int
    at_us: int
    type: str
    sentence: str
    actor: str
    asked_by: str


class History(msgspec.Struct):
    """The newest, in order; older: how many came before them."""

    items: list[Happened]
    older: int = 0


@get("/{vm:str}/history", action=Action.READ, summary="What happened to a VM")
async def history(
    request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str], size: OfSize = False
) -> History:
    await gateway.vm(request.user, vm)
    """Of the VM itself and of its devices."""
    try:
        read = [await reading.read_newest(gateway.log, stream) for stream in (f"vm-{vm}", f"devices-{vm}")]
    except LogError as error:
        raise away(f"the log cannot be read: {error}") from error
    rows = sorted((row for rows in read for row in rows), key=lambda row: row.position)
    items = told([reading.known(row) for row in rows])
    return History([i for i in items if not size or i.type in SIZE], sum(rows[0].version - 1 for rows in read if rows))


def told(events: list[Known]) -> list[Happened]:
    begun: dict[str, str] = {}
    items = []
    for recorded, meta, event in events:
        asked_by = begun.setdefault(meta.correlation, meta.actor)
        said = sentence(recorded.type, event)
        items.append(Happened(recorded.position, recorded.at_us, recorded.type, said, meta.actor, asked_by))
    return items
