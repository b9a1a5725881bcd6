"""All that the agent knows of one VM. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from proto.compute import GoneCause
from proto.hardware import Drift, Hardware
from proto.machine import MachineSpec
from proto.node import OrderVm
from proto.space import FullDisk
from proto.vitals import Screen
from services.node.drivers import Machine, MachineChanged
from services.node.effects import Kept, Stamp

REPORT_US = 1_000_000
"""first repetition of an unheard report; doubled each time"""
REPORT_MAX_US = 5_000_000


@dataclass(slots=True)
class Vm:
    """All the agent knows of one VM. `kept` is on disk, `order` may be newer than it for a moment."""

    kept: Kept
    order: OrderVm | None = None
    machine: Machine | None = None
    busy: str = ""
    failed: str = ""
    cause: GoneCause = GoneCause.UNKNOWN
    sentence: str = ""
    resets: int = 0
    asked_us: int = 0
    """when the guest was asked to shut down; 0: it was not"""
    disowned: bool = False
    early: MachineChanged | None = None
    """the process ended before its start was reported done"""
    fitting: MachineSpec | None = None
    """what the driver is making it like"""
    fitted: MachineSpec | None = None
    """what it was made like the last time; None: this agent has not"""
    hardware: Hardware | None = None
    refit_us: int = 0
    """when a guest that has not done what it was asked is asked again; 0: it has done all"""
    refits: int = 0
    look_us: int = 0
    """when its process is looked at next; 0: not before its next fit"""
    drifts: tuple[Drift, ...] | None = None
    """what of it is otherwise than ordered; None: this agent has not looked"""
    drifted: int = 0
    """the report in which that was told first"""
    repair_us: int = 0
    """it is not set right again before"""
    repairs: int = 0
    stirred: bool = False
    """while it was fitted, something that was pending may have been done"""
    sending_us: int = 0
    """since when the guest is being sent, as the latest order wants"""
    unsent: str = ""
    """why the guest could not be sent, as the latest order wants"""
    sent: MachineChanged | None = None
    """how it was sent"""
    resumed_us: int = 0
    """when a guest that came in went on"""
    panic: str = ""
    """what its guest said when it died last"""
    screen: Screen | None = None
    """what it showed then"""
    unseen: bool = False
    """its screen is to be looked at, now that it died"""
    full: tuple[FullDisk, ...] = ()
    """disks for whose writes there is no room: it stands still (space.py)"""
    stalls: int = 0
    """how often it did so again, soon after it went on"""
    stalled: MachineChanged | None = None
    """it stopped so while it was being resumed"""
    went_on_us: int = 0
    room_us: int = 0
    """it does not go on before"""
    again_us: int = 0
    """nothing is done before: the latest verb failed"""
    serial: int = 0
    heard: int = 0
    next_us: int = 0
    wait_us: int = REPORT_US


def stamp(order: OrderVm | None) -> Stamp:
    return (0, 0, 0) if order is None else (order.generation, order.incarnation, order.version)


def dots(stamp: Stamp) -> str:
    return ".".join(map(str, stamp))
