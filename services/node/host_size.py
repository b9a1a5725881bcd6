"""How much memory the host has, and when that is worth telling again: a failed DIMM is taken out of use, another is added. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_MIB = 64
"""smaller differences are the kernel's own: what it reserves at a boot varies a little"""


@dataclass(slots=True)
class HostSize:
    """told_mib: what was said last; 0: nothing yet."""

    told_mib: int = 0

    def changed(self, total_mib: int) -> bool:
        """Whether it is to be told again; it counts as told then."""
        before = self.told_mib
        if before and abs(total_mib - before) < LEAST_MIB:
            return False
        self.told_mib = total_mib
        return before > 0
