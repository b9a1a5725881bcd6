"""What simulated hosts share: a pool's lease records, disk locks, disks and images, with the rules of the real ones.

With `locking` False (a storage that cannot lock) nothing is refused any more, and `double_opens` names every moment at which
two processes had one disk: what a test of the other two rings looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proto.io import ImageInfo
from proto.machine import Disk, DiskFormat, MachineSpec
from services.node.drivers import BadImage, LeaseRefused, Locked


@dataclass(frozen=True, slots=True)
class Holder:
    """A process: the VM, its generation, the node it runs on."""

    node: str
    vm: str
    generation: int


@dataclass(frozen=True, slots=True)
class SimFile:
    """A file in `incoming`: what an inspection finds."""

    format: DiskFormat
    size_mib: int
    sha256: str
    backing: str = ""


SIM_FILE_MIB = 256
"""the size of a file nobody has described"""


@dataclass(slots=True)
class SimPool:
    locking: bool = True
    any_file: bool = False
    """every file asked for lies in `incoming`, as it was said to be: for a cluster of simulated nodes"""
    leases: dict[str, tuple[int, str]] = field(default_factory=dict)
    """VM → (generation, node); never lowered"""
    holders: dict[str, list[Holder]] = field(default_factory=dict)
    """what is open: `disk POOL/FILE`, or `vm NAME` for the machine itself"""
    disks: set[str] = field(default_factory=set)
    incoming: dict[str, SimFile] = field(default_factory=dict)
    images: dict[str, ImageInfo] = field(default_factory=dict)
    double_opens: list[tuple[str, Holder, Holder]] = field(default_factory=list)
    waiting: dict[str, Any] = field(default_factory=dict)
    """address → the process that waits there for a guest"""
    stale_runs: list[tuple[str, int]] = field(default_factory=list)
    """(VM, generation) that went on with a memory that is older than the guest's: it had run on elsewhere since"""

    thrown: list[tuple[str, int]] = field(default_factory=list)
    """(VM, generation) whose guest was sent whole, and both of whose processes were then ended by a verb before it went on"""
    killed: set[str] = field(default_factory=set)
    """addresses of processes that were so ended with a whole guest in them"""

    def take(self, spec: MachineSpec, node: str) -> None:
        """Compare-and-swap of the lease record. Raises LeaseRefused."""
        self.judge(spec, node)
        self.leases[spec.vm] = (spec.generation, node)

    def judge(self, spec: MachineSpec, node: str) -> None:
        """Whether the lease could be taken. Raises LeaseRefused."""
        generation, owner = self.leases.get(spec.vm, (-1, ""))
        if generation > spec.generation:
            raise LeaseRefused(
                f"the lease of {spec.vm} is at generation {generation} ({owner}); {spec.generation} is of the past"
            )
        if generation == spec.generation and owner != node:
            raise LeaseRefused(f"generation {generation} of {spec.vm} belongs to node {owner}, not {node}")

    def open(self, spec: MachineSpec, holder: Holder) -> None:
        """Make missing disks, lock all. Raises Locked, and then holds none."""
        wanted = [f"vm {spec.vm}", *(_key(d) for d in spec.disks)]
        others = [(key, other) for key in wanted for other in self.holders.get(key, ()) if other != holder]
        if others and self.locking:
            key, other = others[0]
            raise Locked(f"{key} is held by generation {other.generation} of {other.vm} on {other.node}")
        self.double_opens += [(key, other, holder) for key, other in others]
        for key in wanted:
            if holder not in self.holders.setdefault(key, []):
                self.holders[key].append(holder)
        self.disks |= {_key(d) for d in spec.disks}

    def close(self, holder: Holder, disks_only: bool = False, only: Sequence[Disk] | None = None) -> None:
        """disks_only: the process goes on, and holds the VM itself still; only: these disks."""
        keys = list(self.holders) if only is None else [key for disk in only if (key := _key(disk)) in self.holders]
        for key in keys:
            if disks_only and not key.startswith("disk "):
                continue
            self.holders[key] = [h for h in self.holders[key] if h != holder]
            if not self.holders[key]:
                del self.holders[key]

    def remove(self, disks: tuple[Disk, ...]) -> None:
        """Raises Locked when one is open, and then removes none."""
        for disk in disks:
            if held := self.holders.get(_key(disk)):
                raise Locked(f"{_key(disk)} is open: {held[0].vm} on {held[0].node}")
        self.disks -= {_key(d) for d in disks}

    def import_image(self, pool: str, image: str, file: str, format: DiskFormat, sha256: str) -> ImageInfo:
        """Raises BadImage."""
        found = self.incoming.get(file)
        if found is None and self.any_file:
            found = SimFile(format, SIM_FILE_MIB, sha256 or "0" * 64)
        if found is None:
            raise BadImage(f"there is no file {file!r} in the incoming folder of pool {pool}")
        if found.format is not format:
            raise BadImage(f"{file} is {found.format}, not {format}; say the format it has")
        if found.backing:
            raise BadImage(f"{file} stands on backing file {found.backing!r}; flatten it first")
        if sha256 and found.sha256 != sha256:
            raise BadImage(f"{file} has sha256 {found.sha256}, not {sha256}")
        return self.images.setdefault(
            f"{pool}/{image}", ImageInfo(format=format, size_mib=found.size_mib, sha256=found.sha256)
        )

    def remove_image(self, pool: str, image: str) -> None:
        self.images.pop(f"{pool}/{image}", None)


def _key(disk: Disk) -> str:
    return f"disk {disk.pool}/{disk.file}"
