"""When beats fall. The watchdog and the agent of a node each beat once a second, at moments that no log holds, and how soon a
silence is noticed depends on them: a record that was written is read within a second, and told a second later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

SECOND_US = 1_000_000
NEAR_US = 25_000
"""more than a write, or a message, takes"""


class Moment(StrEnum):
    """EARLY, LATE: everything falls so that a fault is noticed as early, or as late, as may be."""

    CHANCE = "chance"
    EARLY = "early"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Beats:
    """Microseconds into the second: by node, of its watchdog and of its agent; and at which a fault falls."""

    watchdogs: dict[str, int]
    agents: dict[str, int]
    fault: int


def beats(moment: Moment, random: Random, nodes: Iterable[str], struck: Collection[str] = ()) -> Beats:
    """struck: nodes that are to fall silent. Of their last beats it is known at once (EARLY), or as late as may be (LATE)."""
    names = list(nodes)
    chance = [random.randrange(SECOND_US) for _ in range(2 * len(names) + 1)]
    if moment is Moment.CHANCE:
        return Beats(dict(zip(names, chance, strict=False)), dict(zip(names, chance[len(names) :], strict=False)), chance[-1])
    reads, fault = (NEAR_US, SECOND_US - NEAR_US) if moment is Moment.EARLY else (SECOND_US - NEAR_US, NEAR_US)
    fall = {name: 0 if name in struck else reads for name in names}
    return Beats(fall, fall, fault)
