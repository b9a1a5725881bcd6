"""How much memory the host has, and when that is worth telling again: a failed DIMM is taken out of use, another is added. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_MIB = 64
"""smaller differences are the kernel's own: what it reserves at a boot varies a little"""


@dataclass(slots=True)
class HostSize:
    """told_mib: what was said last; 0: nothing yet."""

    told_mib: int = 0

    def differs(self, total_mib: int) -> bool:
        """Whether it is to be told (again)."""
        return abs(total_mib - self.told_mib) >= LEAST_MIB

    def changed(self, total_mib: int) -> bool:
        """The same; it counts as told then."""
        differs = self.differs(total_mib)
        self.told_mib = total_mib if differs else self.told_mib
        return differs
