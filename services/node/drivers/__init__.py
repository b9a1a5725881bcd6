"""What the agent asks of a hypervisor: one Protocol, two drivers (`qemu`, `simulated`), one contract suite
(tests/contract/test_driver.py).

A driver knows nothing of orders, generations' rules or the bus; it starts what it is told, says what it sees and never
decides. Every verb may be said twice: the second time changes nothing and answers the same.

    DriverError
      NoSuchVm        no process of that VM on this node
      CannotStart     QEMU (or its image, disk, lock) refused; the sentence names it; nothing is left running
      Locked          another process, perhaps on another node, has the disk open: never forced
      LeaseRefused    the lease record beside the disk names a newer generation
      GuestSilent     the guest agent did not answer within the time
      CannotMove      a guest could not be sent or taken in; the sentence says why; where it ran it runs on
      BadImage        an image is not what it should be; the sentence says what would be right
      NotBackedUp     a backup was not taken (or not removed), and would not be the next time; nothing is left (or changed)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from proto.backups import BackupDone, SavedDisk
from proto.compute import Capabilities, GoneCause
from proto.hardware import Hardware
from proto.images import DiskSource
from proto.io import ImageFormat, ImageInfo
from proto.machine import DirectBoot, Disk, MachineSpec
from proto.networks import Bridge
from proto.node import CopyNow, ExecResult, OrderBackup, OrderBackupRemoval, OrderBackupVerify, VmInfo
from proto.plan import PlanFault, VmPlan
from proto.space import PoolNow
from proto.vitals import Screen
from services.node.drivers.present import Present
from services.node.host.threads import ThreadTime

if TYPE_CHECKING:
    from services.node.drivers.backup_files import BackupFiles
    from services.node.drivers.io import IoCount
    from services.node.drivers.memory import DriverMemory
    from services.node.drivers.vitals import VitalCount


class DriverError(Exception):
    """Its text is a sentence for the operator."""


class NoSuchVm(DriverError): ...


class CannotStart(DriverError): ...


class Locked(CannotStart): ...


class LeaseRefused(CannotStart): ...


class GuestSilent(DriverError): ...


class CannotMove(DriverError): ...


class BadImage(DriverError): ...


class NotBackedUp(DriverError): ...


class Machine(msgspec.Struct, frozen=True):
    """A VM's process as the driver sees it. status: `running`, `paused`, `panicked`, `shutdown` (the guest powered off and
    the process waits to be reaped), `incoming` (it waits for its guest at `address`, or has it and was not activated), `sent` (its
    guest was sent away whole; it has stopped), `no-space` (a disk could not be written for want of room; the write is kept, and
    done when the guest is resumed). full: the slots of those disks, as far as that is known. sending: the guest is being sent.
    hardware: after `fit`; present: after `look`; screen: after `witness`."""

    vm: str
    generation: int
    pid: int
    status: str
    resets: int = 0
    address: str = ""
    sending: bool = False
    hardware: Hardware | None = None
    full: tuple[int, ...] = ()
    present: Present | None = None
    screen: Screen | None = None


NO_SPACE = "no-space"
"""a machine's status"""
PANICKED = "panicked"


class VmCpu(msgspec.Struct, frozen=True):
    """A VM's threads and CPU group as they are right now; times count from its start. vcpus: the thread of each vCPU; others: how
    many threads beside, and where they may run. weight 0: no group holds its CPU time; cap_pct 0: no cap."""

    vm: str
    generation: int
    vcpus: tuple[ThreadTime, ...]
    others: int = 0
    others_ran_ns: int = 0
    others_pcpus: tuple[int, ...] = ()
    weight: int = 0
    cap_pct: int = 0
    throttled_ns: int = 0


class Move(msgspec.Struct, frozen=True):
    """What a guest's way needs beside an address. disks: those that go along, for the target's pool is another one; pool_ids:
    of the source's pools that they lie in; incoming: the generation that the guest goes to; peer_key: the other
    node's, between hosts; whole: disks of which all is copied, as the image that they stand on is not there."""

    disks: tuple[Disk, ...] = ()
    pool_ids: dict[str, str] = {}
    incoming: int = 0
    peer_key: str = ""
    whole: tuple[str, ...] = ()


class Verified(msgspec.Struct, frozen=True):
    """damaged: by backup, what is wrong with its files; read_mib: of all that were read."""

    damaged: dict[str, str] = {}
    read_mib: int = 0
    took_ms: int = 0


AT_HAND = Move()
"""to a process that reaches the same disks, on the same host"""

SCREENSHOT_BYTES_MAX = 3 * 1024 * 1024
FRAME_BYTES_MAX = 28 * 1024 * 1024


class MachineChanged(msgspec.Struct, frozen=True):
    """status as in Machine, or `gone` with its cause. Sent for every change that the driver did not make by a verb, and for
    every end of a process. full: as in Machine. was_reset: its guest began anew. unsent: sending ended without success, and why.
    With `sent`: what it took, and the host's clock when the guest stopped. stirred: what `fit` left pending may be done by now."""

    vm: str
    generation: int
    status: str
    cause: GoneCause = GoneCause.UNKNOWN
    sentence: str = ""
    unsent: str = ""
    sent_mib: int = 0
    total_ms: int = 0
    paused_us: int = 0
    full: tuple[int, ...] = ()
    was_reset: bool = False
    stirred: bool = False


class Console(Protocol):
    """A byte stream to a serial port."""

    async def read(self) -> bytes:
        """b'' at the end."""
        ...

    async def write(self, data: bytes) -> None: ...
    async def close(self) -> None: ...


class Driver(Protocol):
    @property
    def memory(self) -> DriverMemory:
        """All that concerns the memory of VMs, in one place."""
        ...

    async def open(self) -> list[Machine]:
        """Make ready; adopt what runs already (an earlier agent's processes)."""
        ...

    async def capabilities(self) -> Capabilities: ...

    async def bridges(self) -> tuple[Bridge, ...]:
        """Those that VMs may be put into, and how they lead out, as of now."""
        ...

    async def start(self, spec: MachineSpec) -> Machine:
        """Make missing disks that no guest has run with (Disk.made), take the lease (compare-and-swap on vm + generation), spawn,
        wait until the VM's vCPUs run.
        Raises CannotStart or a child of it; then nothing is left running."""
        ...

    async def shutdown(self, vm: str) -> None:
        """Ask the guest to power off (guest agent, else ACPI). Returns at once; the end comes by `changes`."""
        ...

    async def kill(self, vm: str) -> None:
        """Power off now. Returns when the process is gone; no error where there is none."""
        ...

    async def pause(self, vm: str) -> None: ...
    async def resume(self, vm: str) -> None:
        """Also one that stopped for want of room: where there still is none, it is `no-space` again, and that is told."""
        ...

    async def reset(self, vm: str) -> None: ...

    async def fit(self, spec: MachineSpec) -> Machine:
        """Make the running VM like this: unplug what is `leaving`, plug disks, NICs, memory and vCPUs that are missing, set sizes,
        limits and links; put disks on top of their first layer (a snapshot, of all of them at once), begin to merge those that
        leave (those in backups: as fast as its guest bears, `copies`). Returns, with its hardware, once the guest has taken it,
        or its time is up; what could not be had is in `misfits`, all else holds. May be said again at any time, also where an
        earlier agent was cut short. Raises NoSuchVm, also where another generation runs."""
        ...

    async def look(self, vm: str) -> Machine:
        """What its process has now (present). Changes nothing and asks nothing of the guest. Raises NoSuchVm, DriverError."""
        ...

    async def schedule(self, plan: VmPlan) -> tuple[PlanFault, ...]:
        """Set a VM's weight, cap and pCPUs, vCPUs that were plugged since included, and read them back. What could not be set;
        all else holds. Raises NoSuchVm, also where another generation runs."""
        ...

    async def cpu(self) -> tuple[VmCpu, ...]:
        """Of all VMs that run here and answer."""
        ...

    # A guest moves from one node's process to another's:
    #   receive (there) ── send (here) ──▶ `sent` (here) ── kill (here) ──▶ activate (there) ── resume (there)

    async def receive(self, spec: MachineSpec, move: Move = AT_HAND) -> Machine:
        """A process that waits for a guest of this generation from another node: `incoming`, with the address for `send`. It runs
        nothing, takes no lease, and opens no disk of the guest for writing but those that go along: their files, of names that
        nothing else ever had, are made anew. Raises CannotStart; then nothing is left."""
        ...

    async def activate(self, vm: str) -> Machine:
        """The guest has come in whole and is this node's: take the lease (compare-and-swap) and the lock that its former process
        held. `paused`; `resume` runs it. Raises LeaseRefused, Locked, CannotMove (not all of it is there); it may be said again."""
        ...

    async def send(self, vm: str, address: str, move: Move = AT_HAND) -> None:
        """Begin to send the running (or paused) guest, with the disks that go along; it runs meanwhile. How that
        ends comes by `changes`: `sent`, or `unsent`. Raises NoSuchVm, CannotMove."""
        ...

    async def recall(self, vm: str) -> Machine:
        """Stop sending: the guest is as it was before `send`, even where all of it had been sent. Raises NoSuchVm, CannotMove."""
        ...

    async def info(self, vm: str, guest_s: float = 1.0) -> VmInfo:
        """What is seen from the host at once, and what the guest's agent says within so many seconds. Raises NoSuchVm."""
        ...

    async def io(self, vm: str) -> IoCount:
        """What its devices have done since its process was started. Raises NoSuchVm, DriverError."""
        ...

    async def exec(self, vm: str, argv: tuple[str, ...], input: bytes, timeout_s: float) -> ExecResult:
        """Run a program in the guest by its agent. Raises NoSuchVm, GuestSilent."""
        ...

    async def console(self, vm: str) -> Console: ...

    async def screenshot(self, vm: str) -> bytes:
        """The guest's screen as PNG, at most SCREENSHOT_BYTES_MAX. Raises NoSuchVm, DriverError."""
        ...

    async def vitals(self, vm: str) -> VitalCount:
        """Its guest's signs of life, by a few short questions, none of them to the guest. Raises NoSuchVm, DriverError."""
        ...

    async def ping(self, vm: str, timeout_s: float) -> bool:
        """Whether its guest's agent answers in time. Raises NoSuchVm."""
        ...

    async def frame(self, vm: str) -> bytes:
        """The guest's screen as PPM (P6), at most FRAME_BYTES_MAX. Raises NoSuchVm, DriverError."""
        ...

    async def pools(self, files: bool = False) -> tuple[PoolNow, ...]:
        """What they hold now; files: with what is in each. One that does not answer is in it, with its error."""
        ...

    async def remove_disks(self, vm: str, disks: tuple[Disk, ...]) -> None:
        """Raises Locked when one is open. Missing files are fine."""
        ...

    async def merge_layers(self, vm: str, disks: tuple[Disk, ...]) -> None:
        """Of a VM at rest: layers that are leaving go up into the files above them. Raises Locked when it runs, anywhere;
        DriverError where it is started meanwhile."""
        ...

    async def import_image(
        self, pool: str, image: str, file: str, format: ImageFormat, sha256: str, boot: DirectBoot | None = None,
        disk: str = "",
    ) -> ImageInfo:  # fmt: skip
        """Inspect `incoming/<file>` as exactly `format` (no probing), refuse backing files, external data files, truncation,
        a digest that differs (BadImage); copy or convert it, and the kernel and initrd that `boot` names in `incoming`, to
        `images/<image>/`, all or nothing. Where the image is there already with this digest: that one's answer. disk: which of
        an appliance's disks; "": its first."""
        ...

    async def make_image(self, pool: str, image: str, source: DiskSource, boot: DirectBoot | None = None) -> ImageInfo:
        """An image of all that a disk holds; with the files that `boot` names in the folder of `source.boot_image`. What is read is
        neither written nor removed meanwhile. All or nothing; said again it changes nothing. Raises BadImage, also where a VM at
        rest is not; DriverError for what passes."""
        ...

    async def remove_image(self, pool: str, image: str) -> None: ...

    async def back_up(self, order: OrderBackup) -> BackupDone:
        """All disks at one instant, into the folder of the backup, whole or not at all; one that is there already is answered as it
        is. Given up where its task is cancelled: nothing of it is left then, as after each failure; what the disks know of what was
        written since its parent stays. Raises NotBackedUp; DriverError for what passes."""
        ...

    async def remove_backup(self, order: OrderBackupRemoval) -> dict[str, tuple[SavedDisk, ...]]:
        """Those that stand on it are first written anew, to stand on what it stands on; their files as they are then. Cut short
        anywhere, each of them is of use, and it may be said again. Raises NotBackedUp; DriverError for what passes."""
        ...

    async def verify_backup(self, order: OrderBackupVerify) -> Verified:
        """All bytes of all its files are read. Raises DriverError for what passes."""
        ...

    async def open_backup(self, pool: str, vm: str, backup: str) -> BackupFiles:
        """For its files to be read, until it is closed. Raises DriverError."""
        ...

    async def copies(self) -> tuple[CopyNow, ...]:
        """Those that go on: backups that are taken, and disks that come home."""
        ...

    async def take_key(self, sealed: bytes) -> str:
        """Keep a key of backups, which was sealed for this node alone (Capabilities.move_key); its id. Raises DriverError."""
        ...

    async def drop_key(self, key: str) -> None:
        """One that is not there is fine. Raises DriverError."""
        ...

    def changes(self) -> AsyncIterator[MachineChanged]: ...

    async def close(self) -> None:
        """Let go; the VMs run on."""
        ...
