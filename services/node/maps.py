"""Which regions of which VMs are to be reported, and when again. A stepper: no I/O, no clock.

A VM is looked at soon after its start, then every LOOK_US; what was found is reported when it is new, and in any case every
SAY_US (a restored log may have lost it). A report that nobody heard is repeated at the next turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proto.mapping import Region

LOOK_US = 15_000_000
SAY_US = 60_000_000
LOOKS_MAX = 8
"""at one turn: each takes QEMU's monitor a millisecond or two"""


@dataclass(slots=True)
class _Known:
    generation: int
    look_us: int = 0
    regions: tuple[Region, ...] = ()
    said_us: int = -1


@dataclass(slots=True)
class Maps:
    known: dict[str, _Known] = field(default_factory=dict)

    def due(self, vms: Mapping[str, int], now_us: int) -> list[tuple[str, int]]:
        """The VMs (name, generation) to look at now, those that waited longest first."""
        self.known = {vm: k for vm, k in self.known.items() if vms.get(vm) == k.generation}
        for vm, generation in vms.items():
            self.known.setdefault(vm, _Known(generation))
        waiting = sorted((k.look_us, vm) for vm, k in self.known.items() if k.look_us <= now_us)
        return [(vm, self.known[vm].generation) for _, vm in waiting[:LOOKS_MAX]]

    def found(self, vm: str, regions: tuple[Region, ...], now_us: int) -> bool:
        """Whether that is to be reported."""
        known = self.known[vm]
        known.look_us = now_us + LOOK_US
        return regions != known.regions or known.said_us < 0 or now_us >= known.said_us + SAY_US

    def missed(self, vm: str, now_us: int) -> None:
        """It could not be looked at just now."""
        self.known[vm].look_us = now_us + LOOK_US

    def heard(self, vm: str, regions: tuple[Region, ...], now_us: int) -> None:
        """The service has answered, whatever it decided."""
        if (known := self.known.get(vm)) is not None:
            known.regions, known.said_us = regions, now_us

    def lost(self, vm: str) -> None:
        """Nobody answered."""
        if (known := self.known.get(vm)) is not None:
            known.look_us = 0
