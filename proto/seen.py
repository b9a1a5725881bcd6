"""compute: what an agent saw of a VM (streams `vm-NAME`)."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Fact, Name
from proto.hardware import Drift, Hardware
from proto.machine import Disk, Nic
from proto.space import FullDisk
from proto.vitals import Screen


class Seen(StrEnum):
    """How an agent sees a VM. `gone`: no process and none will come under that generation. `incoming`: a process that waits for a
    guest from another node and runs nothing."""

    RUNNING = "running"
    PAUSED = "paused"
    INCOMING = "incoming"
    GONE = "gone"
    FAILED = "failed"


class GoneCause(StrEnum):
    """Why a VM's process ended. `migrated`: its guest was sent whole to another node. panic, hang: it was ended, as its guest was
    found dead. `node-lost`: nobody saw it; NodeLost has what proves it. lease-ended: its node's watchdog ended it."""

    ORDERED = "ordered"
    GUEST = "guest-shutdown"
    CRASHED = "crashed"
    MIGRATED = "migrated"
    PANIC = "panic"
    HANG = "hang"
    NODE_LOST = "node-lost"
    LEASE_ENDED = "lease-ended"
    UNKNOWN = "unknown"


class ReportVm(Fact):
    """What the agent saw of one VM, repeated until it is answered. order_version: the latest order it has acted on;
    resets: how many resets it has carried out; failed: `sentence` says why it could not start. hardware: what it has, where that
    is known. disks, nics: what it was last ordered to have, where that was before the log's present incarnation. drifts: what of it
    is otherwise than ordered; None: nobody looked yet. epoch: of the lease that its node has. guarded: its watchdog guards it.

    Of a migration: address: where an incoming process waits. sending: the guest is being sent, or was and may yet be recalled;
    unsent: why sending ended without success. moved_to: the incoming generation that the guest was sent to whole, once that is
    on disk; sent_mib, total_ms: what it took. paused_us, resumed_us: the node's clock when the guest stopped and went on.

    full: it is seen paused, as these disks could not be written for want of room; nobody asked for that. panic: its guest died, and
    said this; its process stands still, and its screen showed that."""

    vm: Name
    generation: int
    order_version: int
    seen: Seen
    cause: GoneCause = GoneCause.UNKNOWN
    sentence: str = ""
    resets: int = 0
    pid: int = 0
    boot_id: str = ""
    pcpus: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    incarnation: int = 1
    hardware: Hardware | None = None
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    drifts: tuple[Drift, ...] | None = None
    address: str = ""
    sending: bool = False
    unsent: str = ""
    moved_to: int = 0
    sent_mib: int = 0
    total_ms: int = 0
    paused_us: int = 0
    resumed_us: int = 0
    full: tuple[FullDisk, ...] = ()
    panic: str = ""
    screen: Screen | None = None
    epoch: int = 0
    guarded: bool = False
