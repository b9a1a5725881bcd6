"""What the agent asks of a hypervisor about memory, beside the Driver contract: `driver.memory` keeps it, for both drivers
(tests/contract/test_driver_memory.py).

    Untranslatable   an address could not be followed; says how far it went, why, and what would help
"""

from __future__ import annotations

from typing import Protocol

from proto.mapping import MemoryUse, Region, Step, Translation, WhyNot
from proto.memory import Area
from proto.node import VmMemory
from services.node.drivers import DriverError
from services.node.host.memory_now import MemoryNow
from services.node.memory_plan import Balloon


class Untranslatable(DriverError):
    def __init__(self, why_not: WhyNot, text: str, remedy: str = "", steps: tuple[Step, ...] = ()) -> None:
        super().__init__(text)
        self.why_not = why_not
        self.remedy = remedy
        self.steps = steps


class DriverMemory(Protocol):
    def vms(self) -> dict[str, int]:
        """The VMs whose guests have begun, with their generations."""
        ...

    async def regions(self, vm: str) -> tuple[Region, ...]:
        """The VM's memory as its guest finds it, by address. Raises DriverError."""
        ...

    async def translate(self, vm: str, gva: int, pid: int) -> Translation:
        """Raises NoSuchVm, Untranslatable, DriverError."""
        ...

    async def host(self) -> MemoryNow:
        """Of the whole host, also where nodes share it. Raises OSError."""
        ...

    async def figures(self) -> tuple[VmMemory, ...]:
        """Of each VM that runs, quickly; what is not known at once is -1."""
        ...

    async def balloons(self) -> dict[str, Balloon]:
        """Of each VM that runs."""
        ...

    async def inflate(self, vm: str, mib: int) -> None:
        """Ask the guest to come to so much memory: it takes its time, and may refuse. Raises DriverError."""
        ...

    async def limit(self, vm: str, high_mib: int, swap_max_mib: int, merge: bool) -> list[str]:
        """Set a VM's own limits; a sentence for each that could not be. Raises DriverError."""
        ...

    async def divide(self, areas: tuple[Area, ...]) -> list[str]:
        """Make the areas of this node; a sentence for each limit that could not be set."""
        ...

    def shelter(self) -> bool:
        """Put this agent itself into its area. False: it cannot be."""
        ...

    async def use(self, vm: str) -> MemoryUse:
        """Raises NoSuchVm, DriverError."""
        ...


def canonical(gva: int) -> bool:
    """Whether x86-64 can name it at all, with page tables of up to five levels."""
    top = gva >> 56
    return gva < 2**64 and (top == 0 or (top == 0xFF and bool(gva >> 55 & 1)))


def not_canonical(gva: int) -> Untranslatable:
    text = f"{gva:#x} is no address of x86-64: its upper bits must all be equal"
    return Untranslatable(
        WhyNot.BAD_ADDRESS, text, "give a user address below 2^56, or a kernel one from 0xff80000000000000"
    )
