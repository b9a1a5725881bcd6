"""The JSON bodies of /v1/ha."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proto.ha_main import HaSettings, Isolated, LostMax, Reserve, ReserveNodes, ReservePct, Seconds, StartsMax, Unlinked
from services.gateway.http.bodies import Body

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class HaRules(msgspec.Struct):
    """As proto.lease.HaSettings says."""

    tolerant: bool
    isolated: Isolated
    isolated_s: float
    reserve: Reserve
    reserve_nodes: int
    reserve_pct: int
    lost_max: int
    window_s: float
    starts_max: int
    relax_apart: bool
    unlinked: Unlinked

    @classmethod
    def of(cls, settings: HaSettings) -> HaRules:
        return cls(**msgspec.structs.asdict(settings))


class HaNode(msgspec.Struct):
    """standing: `trusted`, `suspected`, `isolated`, `lost`; `none`: it never asked for a lease. Seconds: how long ago it was heard
    by that path (-1: not since this process of ha began); storage_s by pool. own: how its watchdog says that its lease stands,
    left_s: until that ends. granted: the grantor has taken its lease. watched: a watchdog runs there. faults: paths that are
    gone. fence: the state of its fence device (/v1/ha/fences); empty: it has none."""

    name: str
    standing: str
    since_us: int = 0
    sentence: str = ""
    epoch: int = 0
    granted: bool = False
    control_s: float = -1.0
    storage_s: dict[str, float] = {}
    watchdog_s: float = -1.0
    own: str = ""
    left_s: float = 0.0
    slow: bool = False
    watched: bool = False
    pools: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    fence: str = ""


class Kept(msgspec.Struct):
    """What is kept free for lost nodes' VMs, MiB. wanted: losses that are to be covered beside those of `away`, covers: that are.
    shares: by node. demand_mib: what the VMs of the largest of them take; waiting_mib: those that are owed already; missing_mib:
    what would have to be free beside. sentence: what cannot be guaranteed. owed: VMs that are to run and do not; unplaced: of
    those, that fit nowhere by now."""

    wanted: int
    covers: int
    away: tuple[str, ...]
    shares: dict[str, int]
    demand_mib: int
    waiting_mib: int
    missing_mib: int
    sentence: str
    owed: int = 0
    unplaced: int = 0


class Ha(msgspec.Struct):
    """armed: nodes that are proven dead are declared lost. held: why not just now, though it is armed. heard: ha answered; else all
    this is from the log, and says nothing of when nodes were heard."""

    armed: bool
    settings: HaRules
    reason: str = ""
    until_us: int = 0
    held: str = ""
    remedy: str = ""
    term: int = 0
    holder: str = ""
    term_us: int = 0
    heard: bool = True
    nodes: list[HaNode] = []
    reserve: Kept | None = None


class HaBody(Body):
    """What is not said stays."""

    tolerant: bool | None = None
    isolated: Isolated | None = None
    isolated_s: Seconds | None = None
    reserve: Reserve | None = None
    reserve_nodes: ReserveNodes | None = None
    reserve_pct: ReservePct | None = None
    lost_max: LostMax | None = None
    window_s: Seconds | None = None
    starts_max: StartsMax | None = None
    relax_apart: bool | None = None
    unlinked: Unlinked | None = None


class DisarmBody(Body):
    """for_s: armed again by itself after so long; 0: by hand."""

    reason: Reason
    for_s: Annotated[int, msgspec.Meta(ge=0, le=30 * 86_400)] = 0


class OffBody(Body):
    """Who gives his word for it will be named."""

    reason: Reason
