"""What one node's ledger knows. Sums are made of what it holds, each time; nothing is kept twice."""

from __future__ import annotations

import msgspec

from libs.common.messages import Value
from libs.memory.promise import charged_mib, guaranteed_mib
from proto.ladder import MemoryPolicy
from proto.memory import Area, Promise


class Reservation(Value):
    generation: int
    promise: Promise


class Grip(Value):
    """What is taken from one VM now. target_mib: its balloon, -1: not ballooned; swap_mib: how much of it may be swapped
    out. move, pause: wished for. at_us: when this last changed."""

    generation: int
    target_mib: int = -1
    swap_mib: int = 0
    merge: bool = False
    move: bool = False
    pause: bool = False
    at_us: int = 0

    @property
    def empty(self) -> bool:
        return self.target_mib < 0 and not (self.swap_mib or self.merge or self.move or self.pause)


class PolicyWish(Value):
    """A policy that is waited for. asked: VM -> (how often it was wished away, when last)."""

    policy: MemoryPolicy
    asked: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)

    def attempts(self, vm: str) -> int:
        return self.asked.get(vm, (0, 0))[0]


class State(Value, tag=True):
    pass


class Unset(State):
    """No report of this node yet: it holds nothing."""


class Ledger(State, omit_defaults=False):
    """capacity_mib: physical less areas. share_mib: the larger of asked_mib (by command) and reserve_mib (by high availability).
    grips: VMs from which something is taken, by the ladder. climbed_us, descended_us: when it last took, and last gave."""

    capacity_mib: int
    physical_mib: int = 0
    swap_mib: int = 0
    share_mib: int = 0
    asked_mib: int = 0
    reserve_mib: int = 0
    areas: tuple[Area, ...] = ()
    areas_set: bool = False
    policy: MemoryPolicy = MemoryPolicy()
    balloon: bool = False
    memory_areas: str = ""
    control_plane: bool = False
    reserved: dict[str, Reservation] = msgspec.field(default_factory=dict)
    grips: dict[str, Grip] = msgspec.field(default_factory=dict)
    climbed_us: int = 0
    descended_us: int = 0
    wanted: PolicyWish | None = None
    faults: tuple[str, ...] = ()
    """what the node could not apply of its latest memory order"""

    @property
    def reserved_mib(self) -> int:
        """The first limit's sum."""
        return sum(guaranteed_mib(r.promise) for r in self.reserved.values())

    @property
    def charged_mib(self) -> int:
        """The second limit's sum."""
        return charged_mib((r.promise for r in self.reserved.values()), self.policy)


Account = Unset | Ledger
