"""compute: moving a running VM to another node (in streams `vm-NAME`). The protocol is told in docs/decisions/0008-migration.md.

    node, generation       the source: it runs the guest until it has said that its process is gone
    to, incoming           the target and its generation: its process waits, and runs nothing before VmMigrated is decided
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from libs.common.messages import Command, Event, Name, NodeId, Value, VmId
from proto.machine import Allotment, DiskWish, MachineSpec, NicWish, Priority
from proto.placement import Placement

MigrationDeadlineS = Annotated[int, msgspec.Meta(ge=5, le=86_400)]


class Way(Value):
    """How a guest goes to a node. copied: pools that the two nodes do not share, whose disks go along, each with the word of the
    source's; copy_mib: their size at most; …_key: the public keys that open a stream between hosts."""

    node: str = ""
    copied: dict[str, str] = {}
    copy_mib: int = 0
    source_key: str = ""
    target_key: str = ""


class MigrateVm(Command):
    """Move a running VM, with its memory, while it runs. node: only there, if given; deadline_s: how long its memory may take to be
    sent before the source gives up and runs on; reason: why, for those who wonder later. with_group: all of its `together` group is
    to follow it, so it may go where none of it is yet. planned: nobody waits for the answer, so a refusal is an event. choice,
    unheard, incarnation: as for StartVm, and the VM's own node is no candidate."""

    vm: Name
    node: str = ""
    deadline_s: MigrationDeadlineS = 600
    reason: str = ""
    with_group: bool = False
    planned: bool = False
    choice: Placement | None = None
    unheard: tuple[str, ...] = ()
    incarnation: int = 1
    ways: tuple[Way, ...] = ()


class CancelMigration(Command):
    """The VM stays where it is, unless its memory was sent whole by then."""

    vm: Name


class VmMigrationRequested(Event):
    """A node was chosen; its ledger and io are asked for the incoming generation, beside what the source holds."""

    vm: VmId
    node: NodeId
    generation: int
    to: NodeId
    incoming: int
    memory_mib: int
    vcpus: int
    priority: Priority
    placement: Placement
    deadline_s: int
    reason: str = ""
    disks: tuple[DiskWish, ...] = ()
    nics: tuple[NicWish, ...] = ()
    allotment: Allotment = Allotment()
    way: Way = Way()


class VmMigrationRefused(Event):
    """A move that was planned is not begun: the VM stays where it is. to: where it was to go, empty: wherever it fits."""

    vm: VmId
    to: str
    refusal: str
    sentence: str
    remedy: str = ""


class VmIncomingRequested(Event):
    """All that was needed is granted: the target is ordered to wait for the guest with this machine."""

    vm: VmId
    to: NodeId
    spec: MachineSpec


class VmSendRequested(Event):
    """The target waits at this address: the source is ordered to send."""

    vm: VmId
    node: NodeId
    generation: int
    to: NodeId
    incoming: int
    address: str


class VmRecallRequested(Event):
    """The source is asked to stop sending; its word decides whether the guest has left already. target_gone: nobody waits for
    it."""

    vm: VmId
    node: NodeId
    generation: int
    incoming: int
    sentence: str
    target_gone: bool = False


class VmMigrationFailed(Event):
    """The guest did not leave. The target's process, if there is one, is to be ended. source_gone: the guest's own process ended
    meanwhile, as sentence says; `cause` is a GoneCause then."""

    vm: VmId
    node: NodeId
    generation: int
    to: NodeId
    incoming: int
    sentence: str
    source_gone: bool = False
    cause: str = ""


class VmIncomingGone(Event):
    """Seen: no process of a generation that was to come in is left there, and none will come. What it held is to be given back."""

    vm: VmId
    node: NodeId
    generation: int
    source: NodeId
    source_generation: int


class VmMigrated(Event):
    """Seen: the guest was sent whole and the source's process is gone. From here on the VM's node is the target.
    paused_us: the source's clock when the guest stopped; 0: not known."""

    vm: VmId
    node: NodeId
    generation: int
    source: NodeId
    source_generation: int
    sent_mib: int = 0
    total_ms: int = 0
    paused_us: int = 0


class VmMigrationEnded(Event):
    """Seen: the guest runs on the target (or is there as paused as it was). downtime_ms: from the clock of the source to that of
    the target; 0: not known. epoch: of the lease that the target had."""

    vm: VmId
    node: NodeId
    generation: int
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()
    downtime_ms: int = 0
    total_ms: int = 0
    sent_mib: int = 0
    epoch: int = 0


MigrationCommand = MigrateVm | CancelMigration
MigrationEvent = (
    VmMigrationRequested
    | VmIncomingRequested
    | VmSendRequested
    | VmRecallRequested
    | VmMigrationFailed
    | VmIncomingGone
    | VmMigrated
    | VmMigrationEnded
    | VmMigrationRefused
)
