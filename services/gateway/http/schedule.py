"""How a VM's threads are scheduled on its node right now, asked of the agent; nothing of it is recorded."""

from __future__ import annotations

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from libs.common.bus import BusError, BusTimeout, NoResponder
from libs.common.messages import encode
from proto.plan import AskSchedule, VmSchedule
from services.gateway.auth import Action
from services.gateway.gateway import Gateway
from services.gateway.http.door import Asked
from services.gateway.problems import Problem, away, not_running

ASK_S_MAX = 3.0

_decode = msgspec.msgpack.Decoder(VmSchedule).decode


@get("/{vm:str}/schedule", action=Action.READ, summary="How a VM is scheduled, on both levels")
async def schedule(request: Asked, gateway: NamedDependency[Gateway], vm: FromPath[str]) -> VmSchedule:
    """Guest CPUs, their threads, the pCPUs those may run on; weight, cap, CPU ready and satisfaction of the latest second; why."""
    found = await gateway.vm(request.user, vm)
    if found.state in ("stopped", "starting") or not found.node:
        raise not_running(vm, found.state)
    try:
        data = await gateway.bus.request(f"ask.{found.node}.schedule", encode(AskSchedule(vm=vm)), timeout_s=ASK_S_MAX)
        answer = _decode(data)
    except NoResponder:
        raise away(f"the agent of {found.node} does not run just now") from None
    except BusTimeout:
        raise away(f"{found.node} did not answer within {ASK_S_MAX:g} s") from None
    except BusError as error:
        raise away(f"the bus is away: {error}") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise Problem(502, "BAD_ANSWER", f"{found.node} answered with something else than a schedule") from error
    if answer.error:
        raise Problem(409, "NO_SCHEDULE", answer.error, "see that the VM runs, then ask again")
    return answer
