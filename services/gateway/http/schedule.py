"""How a VM's threads are scheduled on its node right now, asked of the agent; nothing of it is recorded."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from proto.plan import AskSchedule, VmSchedule
from services.gateway.asking import ask_node
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem, not_running

ASK_S_MAX = 3.0



@get("/{vm:str}/schedule", action=Action.READ, summary="How a VM is scheduled, on both levels")
async def schedule(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> VmSchedule:
    """Guest CPUs, their threads, the pCPUs those may run on; weight, cap, CPU ready and satisfaction of the latest second; why."""
    found = await gateway.vm(request.user, vm)
    if found.state in ("stopped", "starting") or not found.node:
        raise not_running(vm, found.state)
    answer = await ask_node(gateway.bus, found.node, "schedule", VmSchedule, AskSchedule(vm=vm), ASK_S_MAX)
    if answer.error:
        raise Problem(409, "NO_SCHEDULE", answer.error, "see that the VM runs, then ask again")
    return answer
