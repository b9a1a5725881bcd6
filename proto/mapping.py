"""memory: where a VM's memory lies (streams `map-VM`), and what is asked of an agent about it: an address, followed down to the
machine's own, and what the VM takes of its host.

Four spaces, from the program to the memory chip: `guest-virtual` (a process or the kernel of the guest) · `guest-physical`
(what the guest takes for its memory) · `host-virtual` (the QEMU process) · `machine` (the host's physical memory).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Fact, Message, Name, NodeId, Value, VmId

REGIONS_MAX = 64

Address = Annotated[int, msgspec.Meta(ge=0)]
"""64 bits, as msgpack has no more"""


class Backing(StrEnum):
    ANONYMOUS = "anonymous"
    HUGEPAGES = "hugepages"
    FILE = "file"


class Region(Value):
    """A run of guest-physical addresses that is memory of the VM. name: `below-4g`, `above-4g`, or that of a plugged device.
    cell: the host's NUMA cell it is bound to, -1: to none. dirty_tracking: writes to it are being recorded (a migration)."""

    name: str
    guest_address: Address
    size_mib: int
    backing: Backing = Backing.ANONYMOUS
    cell: int = -1
    dirty_tracking: bool = False


class MapRefusal(StrEnum):
    NOT_YOURS = "NOT_YOURS"


class ReportRegions(Fact):
    """The regions of a running VM, as its node sees them: after its start and after each change. holder and held: the node and
    the generation that the log names for this VM, filled in by memory's own view."""

    vm: Name
    generation: int
    regions: Annotated[tuple[Region, ...], msgspec.Meta(max_length=REGIONS_MAX)]
    holder: str = ""
    held: int = 0


class UnmapRegions(Command):
    """The process of this generation has ended."""

    vm: Name
    generation: int


class VmRegionsMapped(Event):
    vm: VmId
    node: NodeId
    generation: int
    regions: tuple[Region, ...]


class VmRegionsUnmapped(Event):
    vm: VmId
    node: NodeId
    generation: int


MapCommand = ReportRegions | UnmapRegions
MapEvent = VmRegionsMapped | VmRegionsUnmapped


class Space(StrEnum):
    GUEST_VIRTUAL = "guest-virtual"
    GUEST_PHYSICAL = "guest-physical"
    HOST_VIRTUAL = "host-virtual"
    MACHINE = "machine"


class AskTranslate(Message):
    """Follow a guest-virtual address. pid: of a process in the guest (its agent is asked then); 0: as the vCPU sees it, which is
    right for kernel addresses."""

    vm: Name
    gva: Address
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class Step(Value):
    """An address in one space, and the range or memory region it lies in. page_kib: of the page that maps it in this space; 0: not
    known, or no page maps it."""

    space: Space
    address: Address
    region: str = ""
    first: Address = 0
    last: Address = 0
    page_kib: int = 0


class WhyNot(StrEnum):
    """Why an address was not followed to its end."""

    NONE = ""
    BAD_ADDRESS = "BAD_ADDRESS"
    NO_VM = "NO_VM"
    NOT_MAPPED = "NOT_MAPPED"
    NOT_RAM = "NOT_RAM"
    NO_PROCESS = "NO_PROCESS"
    GUEST_SILENT = "GUEST_SILENT"
    NEEDS_ROOT = "NEEDS_ROOT"
    FAILED = "FAILED"


class Translation(Value):
    """steps: as far as it went. cell: the NUMA cell of the machine's page, -1: not known or none. state: of the host's page: some
    of `resident`, `untouched`, `swapped`, `ksm`, `huge`, `file`. error: a sentence where it did not go all the way."""

    vm: str
    generation: int = 0
    steps: tuple[Step, ...] = ()
    cell: int = -1
    state: tuple[str, ...] = ()
    simulated: bool = False
    why_not: WhyNot = WhyNot.NONE
    error: str = ""
    remedy: str = ""


class AskMemory(Message):
    """What a VM takes of its host right now."""

    vm: Name


class CellUse(Value):
    cell: int
    kib: int


class GuestMemory(Value):
    """The guest's own word by its balloon driver, age_s seconds old; -1: not said."""

    total_kib: int = -1
    free_kib: int = -1
    available_kib: int = -1
    caches_kib: int = -1
    swapped_in_kib: int = -1
    swapped_out_kib: int = -1
    major_faults: int = -1
    age_s: int = -1


class GroupUse(Value):
    """The VM's control group: of which area, what is used and may be used (0: no limit), and how often the kernel killed there.
    swap_max_kib: how much of it may be swapped out now; 0: nothing, -1: not known. former_kib: what stays charged to the groups of
    former classes, which the VM had while it ran."""

    area: str = ""
    used_kib: int = 0
    max_kib: int = 0
    oom_kills: int = 0
    swap_max_kib: int = -1
    former_kib: int = 0


class MemoryUse(Value):
    """Of the QEMU process, KiB: resident, and of that shared with other processes, merged by KSM, in huge pages; swapped comes on
    top. guest_…: the part of it that is the guest's memory. -1: not known, as this node's agent may not look into another user's
    process. balloon_mib: what the guest has of nominal_mib now; -1: not known."""

    vm: str
    generation: int = 0
    nominal_mib: int = 0
    balloon_mib: int = -1
    resident_kib: int = 0
    shared_kib: int = 0
    ksm_kib: int = 0
    huge_kib: int = 0
    swapped_kib: int = 0
    guest_resident_kib: int = 0
    guest_huge_kib: int = 0
    guest_swapped_kib: int = 0
    cells: tuple[CellUse, ...] = ()
    guest: GuestMemory | None = None
    group: GroupUse | None = None
    regions: tuple[Region, ...] = ()
    simulated: bool = False
    error: str = ""
