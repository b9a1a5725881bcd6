"""A process of a simulated host, what will happen to it, and what came of a verb."""

from __future__ import annotations

from dataclasses import dataclass, field

from proto.hardware import Took
from proto.machine import Disk, MachineSpec
from services.node.drivers import AT_HAND, NO_SPACE, DriverError, Machine, Move
from services.node.drivers.simpool import SimPool


@dataclass(frozen=True, slots=True)
class SimDone:
    """A verb has ended: done (error None), or refused with the error a driver raises. machine: after a start."""

    vm: str
    verb: str
    error: DriverError | None = None
    machine: Machine | None = None


@dataclass(slots=True)
class SimVm:
    """A process. `starting` ones have not run a single instruction of the guest. Of one that waits for a guest: `address`; whole:
    it has it; left: and the process that it came from was ended; stale: the guest has run on elsewhere since.
    Of one whose guest is sent: `sending` counts the attempts, `sent_to`
    names the address while it is under way or done, `before` is its status then, `along` the disks that go with it. pool: of one
    that waits, where its disks are; origin: where those that came along are left."""

    spec: MachineSpec
    pid: int
    starting: bool = True
    status: str = "running"
    resets: int = 0
    running_us: int = 0
    boots: int = 0
    balloon_mib: int = 0
    busy_pct: float = 0.0
    address: str = ""
    whole: bool = False
    left: bool = False
    stale: bool = False
    sending: int = 0
    sent_to: str = ""
    before: str = ""
    along: tuple[Disk, ...] = ()
    pool: SimPool | None = None
    origin: tuple[SimPool, tuple[Disk, ...]] | None = None
    plugged_vcpus: int = 0
    held: set[int] = field(default_factory=set)
    """slots whose device it was asked to let go, and has not"""
    foreign: tuple[tuple[str, str], ...] = ()
    """devices that somebody plugged by hand: id and model"""
    took: Took | None = None
    hung_us: int = 0
    """since when its guest hangs; 0: it does not"""
    blue: bool = False
    """its screen is"""
    agentless: bool = False
    stuck: bool = False
    """its agent answers nothing, and all else is well"""
    idle: bool = False
    coming: dict[str, int] = field(default_factory=dict)
    """disk → since when what it stands on comes home (simhome.py)"""
    first: set[str] = field(default_factory=set)
    """those of which it was known what their guest touches first"""
    halted: bool = False
    """it stands still by its watchdog"""

    def machine(self) -> Machine:
        sending = bool(self.sent_to) and self.status != "sent"
        spec = self.spec
        full = (spec.disks[0].slot,) if self.status == NO_SPACE and spec.disks else ()
        return Machine(spec.vm, spec.generation, self.pid, self.status, self.resets, self.address, sending, full=full)


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """Something that will happen. agent: only as long as this agent lives; pid: only to this process (0: to none yet)."""

    at_us: int
    serial: int
    what: str = field(compare=False)
    vm: str = field(compare=False)
    pid: int = field(compare=False, default=0)
    agent: int = field(compare=False, default=0)
    spec: MachineSpec | None = field(compare=False, default=None)
    address: str = field(compare=False, default="")
    sending: int = field(compare=False, default=0)
    move: Move = field(compare=False, default=AT_HAND)
