"""What a VM's devices do right now, asked of its agent; nothing of it is recorded."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from proto.ioview import AskIo, VmIo
from services.gateway.asking import ask_node
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem, not_running

ASK_S_MAX = 5.0


@get("/{vm:str}/io", action=Action.READ, summary="What a VM's devices do, and what that costs")
async def io(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> VmIo:
    """Each device with its model, rings, throughput, latency and errors. Rates are over the time since an earlier question, of half
    a second to a minute ago (window_ms; 0: nobody asked, all rates are 0)."""
    found = await gateway.vm(request.user, vm)
    if found.state in ("stopped", "starting") or not found.node:
        raise not_running(vm, found.state)
    answer = await ask_node(gateway.bus, found.node, "io", VmIo, AskIo(vm=vm), ASK_S_MAX)
    if answer.error:
        raise Problem(409, "NO_IO_VIEW", answer.error, "see that the VM runs, then ask again")
    return answer
