"""Whose turn it is to be drilled: few at once, the one that waits longest first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proto.drills import TendDrill
from services.io.backups.drill_states import Drills, Phase
from services.io.backups.drilling import due

AT_ONCE_MAX = 2
"""drills in the cluster: each is a VM beside all that are wanted"""


def ticks(now_us: int, every: Iterable[tuple[str, Drills]]) -> Iterator[TendDrill]:
    """every: by VM. What was decided and is not seen yet is asked again, and then decides nothing."""
    going, waiting = 0, list[tuple[int, str]]()
    for vm, drills in every:
        now = drills.now
        going += now is not None and now.phase is not Phase.WAITING
        if due(drills, now_us):
            yield TendDrill(vm=vm, now_us=now_us)
        elif now is not None and now.phase is Phase.WAITING:
            waiting.append((now.asked_us, vm))
    for _, vm in sorted(waiting)[: max(0, AT_ONCE_MAX - going)]:
        yield TendDrill(vm=vm, now_us=now_us, turn=True)
