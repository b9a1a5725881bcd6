"""What ha answers of itself: `query.ha.standing`. What the log does not hold is as the process that answers heard it."""

from __future__ import annotations

from libs.common.messages import Value
from proto.lease import HaSettings


class NodeStanding(Value):
    """standing: `trusted`, `suspected`, `isolated`, `lost`, or `none` where it was never granted a lease. since_us: since when (0:
    from the beginning). sentence: why it is not trusted. control_us: when it asked for its lease last; storage_us: when its record
    was last seen to move, by pool; beat_us: when its watchdog told last how its lease stands (own, left_us). 0: not heard. granted:
    the present grantor has taken its lease. watched: a watchdog runs there. Times: wall clock."""

    node: str
    standing: str = "none"
    since_us: int = 0
    sentence: str = ""
    epoch: int = 0
    boot_id: str = ""
    granted: bool = False
    pools: tuple[str, ...] = ()
    tolerant: bool = False
    control_us: int = 0
    storage_us: dict[str, int] = {}
    beat_us: int = 0
    own: str = ""
    left_us: int = 0
    slow: bool = False
    watched: bool = False
    stuck: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    letter: int = 0


class HaShown(Value):
    """at_us: when this was so, by the clock that all its times are of."""

    at_us: int
    settings: HaSettings
    armed: bool
    reason: str = ""
    until_us: int = 0
    held: str = ""
    remedy: str = ""
    term: int = 0
    holder: str = ""
    term_us: int = 0
    nodes: tuple[NodeStanding, ...] = ()
