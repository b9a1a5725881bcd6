"""memory: what `query.memory.ledgers` and `query.memory.relief` answer. Sizes in MiB."""

from __future__ import annotations

from libs.common.messages import Value
from proto.ladder import HostSeen, MemoryPolicy
from proto.memory import Area, Promise


class HeldShown(Value):
    """One VM in a ledger. taken: by rung of the ladder, what is taken from it now (a balloon's target, MiB that may be swapped
    out; 1 for what is there or not)."""

    vm: str
    generation: int
    promise: Promise
    taken: dict[str, int] = {}


class LedgerShown(Value):
    """One node's ledger as it is now. room_mib: what starts are held to. nominal_mib: its VMs' memory as their
    guests were promised it. control_plane: it runs on this host. seen, level: the node's latest word; none: not heard."""

    node: str
    physical_mib: int
    capacity_mib: int
    share_mib: int
    room_mib: int
    reserved_mib: int
    charged_mib: int
    swap_mib: int
    areas: tuple[Area, ...]
    areas_set: bool
    policy: MemoryPolicy
    held: tuple[HeldShown, ...] = ()
    faults: tuple[str, ...] = ()
    level: str = ""
    min_free_mib: int = 0
    nominal_mib: int = 0
    control_plane: bool = False
    memory_areas: str = ""
    seen: HostSeen | None = None


class LedgersShown(Value):
    """What `query.memory.ledgers` answers."""

    ledgers: tuple[LedgerShown, ...] = ()


class AskRelief(Value):
    """`query.memory.relief`: who would have to go before that policy can hold."""

    node: str
    policy: MemoryPolicy


class Relief(Value):
    """vms: none where all that is promised fits. enough: whether it would fit without them (critical VMs never go)."""

    vms: tuple[str, ...] = ()
    enough: bool = True
