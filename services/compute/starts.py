"""What is kept of the latest start of each VM that has a node: of the event only what is asked for again, as it would stay in
memory whole, with all that was weighed for the choice."""

from __future__ import annotations

import msgspec

from libs.common.messages import NodeId
from proto.compute import Filter, VmStartRequested
from proto.placement import removed_by
from services.compute.lifetime_table import Life
from services.compute.states import tried


class Start(msgspec.Struct, gc=False):
    """node, generation: also of what it was moved to since. tried: nodes asked earlier in the same start. one: it was to be this
    node and no other. attempt, failover: as in VmStartRequested."""

    node: str
    generation: int
    life: Life
    tried: tuple[NodeId, ...] = ()
    one: bool = False
    attempt: int = 0
    failover: bool = False


def begun(event: VmStartRequested, life: Life) -> Start:
    choice = event.placement
    start = Start(event.node, event.generation, life, (), False, event.attempt, event.failover)
    why = [rejected.filter for rejected in choice.rejected]
    if Filter.TRIED in why:
        start.tried = tried(choice)
    if Filter.NOT_ASKED in why or choice.removed:
        start.one = removed_by(choice, Filter.NOT_ASKED) > 0
    return start
