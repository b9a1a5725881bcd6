"""compute: what becomes of VMs whose node is lost, and starts that nobody but their guard asked for (in streams `vm-NAME`).

ha decides that a node is lost and that a VM is to run again; compute, which hears of both from the log, decides these.
"""

from __future__ import annotations

from libs.common.messages import Command, Event, Name, NodeId, VmId
from proto.placement import Placement


class LoseVm(Command):
    """From a reaction to NodeLost. epoch: of the lease that ended. everything: what it had of this VM runs no more, whatever that
    was. guarded: only if it ran under the node's lease (MachineSpec.protected). Neither: what the node was never ordered to run
    goes on elsewhere, and no more than that. choice: the next placement of a start, filled in by compute's own view."""

    vm: Name
    node: Name
    epoch: int = 0
    everything: bool = False
    guarded: bool = False
    sentence: str = ""
    choice: Placement | None = None
    incarnation: int = 1


class ProtectVm(Command):
    """It runs under no lease, as it was started before its node had one, or before another node reached its pools: it may be
    guarded by now. shared: pools (name to word) in which it may be, as compute's own view says of that node; None: that guards
    nothing."""

    vm: Name
    node: Name
    shared: dict[str, str] | None = None


class RestartVm(Command):
    """From a reaction to RestartWanted. Only a VM that stopped against its will is started by it. node: only there, not_node: not
    there. failover: it may use the memory that is kept for VMs of lost nodes. drill: it is the VM of a
    recovery drill, which nobody started yet: it is placed as any, and its attempt is 0. choice, unheard, incarnation: as for
    StartVm."""

    vm: Name
    attempt: int
    node: str = ""
    not_node: str = ""
    failover: bool = False
    drill: bool = False
    choice: Placement | None = None
    unheard: tuple[str, ...] = ()
    incarnation: int = 1


class VmGuardRequested(Event):
    """Its node's watchdog is to guard it from now on. No lease's end says anything of it before that is seen."""

    vm: VmId
    node: NodeId
    generation: int


class VmGuarded(Event):
    """Its agent has seen that its node's watchdog guards it. epoch: of the lease under which."""

    vm: VmId
    node: NodeId
    generation: int
    epoch: int = 0


class VmRestartDenied(Event):
    """The start that its guard asked for cannot be, or came to nothing."""

    vm: VmId
    attempt: int
    sentence: str
    remedy: str = ""


class VmLeftStopped(Event):
    """It had stopped against its will, and somebody wants it stopped: nothing starts it by itself any more."""

    vm: VmId
    node: NodeId
    generation: int


RestartCommand = LoseVm | ProtectVm | RestartVm
RestartEvent = VmGuardRequested | VmGuarded | VmRestartDenied | VmLeftStopped
