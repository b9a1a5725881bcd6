"""A failover in the deterministic world, as a past log: in memory, copied into a database, and walked through."""

from __future__ import annotations

from functools import cache

from libs.common.log import CommandRow, EventLog, Group, NewEvent, Unit
from libs.common.log.memory import MemoryLog
from libs.common.messages import Recorded, decode_meta, decode_reply
from libs.past.deciding import Code
from libs.past.memory import MemoryPast
from libs.past.steps import Steps
from libs.past.walking import Walk
from libs.world.play import play
from libs.world.story import Step, Story
from proto.upcasts import DOWNCASTS, UPCASTS
from services.compute.app import SERVICE as COMPUTE
from services.ha.app import SERVICE as HA
from services.io.app import SERVICE as IO
from services.memory.app import SERVICE as MEMORY

SERVICES = (COMPUTE, MEMORY, IO, HA)


@cache
def failover() -> MemoryLog:
    """n1 loses its power; its VMs are started elsewhere. Not to be written to."""
    outcome = play(Story(vms=4, seconds=30, steps=(Step("power", at=1.0, who="n1", for_s=300.0),)))
    assert not outcome.fault, outcome.fault
    return outcome.world.log


async def copy(log: MemoryLog, to: EventLog) -> None:
    """Unit by unit: events with the command that wrote them, answers where their streams are at their version."""
    kept = log.commands_now()
    at = {one.answer.position: (id, one) for id, one in kept.items() if one.answer.position}
    answers = [(id, one) for id, one in kept.items() if not one.answer.position]
    events = log.read_all_now(0, log.head_now().position)
    unit: list[Recorded] = []
    for n, recorded in enumerate(events):
        unit.append(recorded)
        following = events[n + 1] if n + 1 < len(events) else None
        if following is None or following.position in at or _command(following) != _command(recorded):
            id, command = at.get(unit[0].position, ("", None))
            row = CommandRow(id, command.payload, command.answer.outcome) if command else None
            news = tuple(NewEvent(one.type, one.v, one.data, one.meta) for one in unit)
            await _append(to, Unit(unit[0].stream, unit[0].version - 1, news, row))
            unit = []
            for id, one in [a for a in answers if a[1].stream == recorded.stream]:
                if (version := decode_reply(one.answer.outcome).version) <= recorded.version:
                    await _append(to, Unit(recorded.stream, version, (), CommandRow(id, one.payload, one.answer.outcome)))
                    answers.remove((id, one))


def _command(recorded: Recorded) -> str:
    return decode_meta(recorded.meta).command


async def _append(to: EventLog, unit: Unit) -> None:
    done = await to.append(Group((unit,)))
    assert done.stopped is None, done.stopped


async def walk(only: str = "") -> Walk:
    """Of that failover."""
    steps = Steps([Code(service, UPCASTS, DOWNCASTS) for service in SERVICES])
    past = MemoryPast(failover())
    decided = {one.position: one async for chunk in past.commands() for one in chunk}
    async for records in past.replay():
        steps.take(records, decided)
    return Walk(steps, only)
