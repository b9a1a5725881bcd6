"""What simulated hosts share: a pool's lease records, disk locks, disks and images, with the rules of the real ones.

With `locking` False (a storage that cannot lock) nothing is refused any more, and `double_opens` names every moment at which
two processes had one disk: what a test of the other two rings looks at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from proto.images import DiskSource
from proto.io import ImageFormat, ImageInfo
from proto.machine import Disk, DiskFormat, MachineSpec
from proto.pools import FILES_MAX
from proto.space import FileNow, PoolNow
from services.node.drivers import BadImage, CannotStart, LeaseRefused, Locked, Move, simhome
from services.node.drivers.simbackups import SimBackup
from services.node.drivers.simmeet import Meeting


@dataclass(frozen=True, slots=True)
class Holder:
    """A process: the VM, its generation, the node it runs on."""

    node: str
    vm: str
    generation: int


@dataclass(frozen=True, slots=True)
class SimFile:
    """A file in `incoming`: what an inspection finds."""

    format: ImageFormat
    size_mib: int
    sha256: str
    backing: str = ""


SIM_FILE_MIB = 256
"""the size of a file nobody has described"""


@dataclass(slots=True)
class SimPool:
    locking: bool = True
    id: str = "sim"
    """pools of another word have disks of their own"""
    meeting: Meeting | None = None
    """where guests of other processes' hosts come in"""
    any_file: bool = False
    """every file asked for lies in `incoming`, as it was said to be: for a cluster of simulated nodes"""
    leases: dict[str, tuple[int, str]] = field(default_factory=dict)
    """VM → (generation, node); never lowered"""
    holders: dict[str, list[Holder]] = field(default_factory=dict)
    """what is open: `disk POOL/FILE`, or `vm NAME` for the machine itself"""
    disks: dict[str, str] = field(default_factory=dict)
    """disk → what is on it: a word of its own since it was made, which goes along when it is copied"""
    beneath: dict[str, str] = field(default_factory=dict)
    """disk → the one that its file stands on"""
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

    known: dict[tuple[str, str], str] = field(default_factory=dict)
    """(VM, disk) → what is on it since its guest was known to run with it (whoever looks on says so), in whichever pool"""
    lost_opens: list[tuple[str, Holder]] = field(default_factory=list)
    """disks that were opened for a guest with something else on them"""
    gone: set[str] = field(default_factory=set)
    """names of its pools that do not answer: nothing starts from there"""
    full: set[str] = field(default_factory=set)
    """names of its pools in which there is no room, whatever is free"""
    backups: dict[str, SimBackup] = field(default_factory=dict)
    """POOL/VM/BACKUP → what is in it"""
    rotten: set[str] = field(default_factory=set)
    """those of which a byte is not what it was"""
    touched: set[tuple[str, str, str]] = field(default_factory=set)
    """disks of which it is known what a guest touches first: the backups' pool, their VM, the disk"""
    came: dict[str, int] = field(default_factory=dict)
    """disk → for how long (us) what it stands on in a backup has been coming home"""
    since: dict[tuple[str, str], str] = field(default_factory=dict)
    """(disk, pool) → the backup there since which it is known what was written to that disk"""
    size_mib: int = 1024 * 1024
    free_mib: int = 1024 * 1024
    """as somebody says by hand: nothing that guests do takes any"""

    def beside(self, id: str) -> SimPool:
        """Another pool, with disks and locks of its own, whose hosts reach those of this one."""
        return SimPool(
            locking=self.locking, id=id, waiting=self.waiting, stale_runs=self.stale_runs, thrown=self.thrown,
            killed=self.killed, images=self.images, incoming=self.incoming, double_opens=self.double_opens,
            known=self.known, lost_opens=self.lost_opens,
        )  # fmt: skip

    def now(self, files: bool = False) -> PoolNow:
        """Simulated disks take nothing."""
        now = PoolNow(name="default", id=self.id, size_mib=self.size_mib, free_mib=self.free("default"))
        if not files:
            return now
        named = tuple(FileNow(file=key.rpartition("/")[2], used_mib=0) for key in sorted(self.disks)[:FILES_MAX])
        return replace(now, disks_mib=0, images_mib=sum(info.size_mib for info in self.images.values()), files=named)

    def free(self, name: str) -> int:
        """MiB in its pool of that name."""
        return 0 if name in self.full else self.free_mib

    def room(self, spec: MachineSpec) -> bool:
        """Whether each of its disks can be written to."""
        return all(self.free(disk.pool) for disk in _stored(spec))

    def come(self, spec: MachineSpec, move: Move) -> None:
        """Empty disks for those that the guest brings; the others are there. Raises CannotStart."""
        if simhome.recovered(spec.disks):
            raise CannotStart(f"{spec.vm} still stands on a backup: it moves once its disks are its own")
        coming = {d.name for d in move.disks}
        for disk in _stored(spec):
            if disk.name not in coming:
                if self.meeting is None and _key(disk) not in self.disks:
                    raise CannotStart(f"{disk.file} is not in pool {disk.pool!r}")
            elif move.pool_ids.get(disk.pool) == self.id:
                raise CannotStart(f"pool {disk.pool!r} is the very one that {disk.file} comes from")
        for disk in move.disks:
            self.disks[_key(disk)] = "nothing yet"

    def find(self, spec: MachineSpec) -> None:
        """Raises CannotStart where a disk that a guest has run with is not there, or is a layer of another."""
        for disk in _stored(spec):
            if disk.pool in self.gone:
                raise CannotStart(f"pool {disk.pool!r} does not answer")
            if _key(disk) in self.beneath.values():
                raise CannotStart(f"{disk.file} is a layer of a snapshot, of which the log knows nothing")
            if disk.layers and _key(disk) not in self.disks:
                self.top(disk)
                if simhome.recovered((disk,)):  # what was on it before is thrown away
                    self.known.pop((spec.vm, disk.name), None)
            simhome.check(self, disk)
            if disk.made and self.meeting is None and _key(disk) not in self.disks:
                raise CannotStart(f"{disk.file} is not there (any more), in pool {disk.pool!r}")

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
        """Lock all, make missing disks. Raises Locked, and then holds none."""
        wanted = [f"vm {spec.vm}", *(_key(d) for d in _stored(spec))]
        wanted += [key for d in _stored(spec) for key in self.keys(d)[1:] if not key.startswith(simhome.BACKUP)]
        others = [(key, other) for key in wanted for other in self.holders.get(key, ()) if other != holder]
        if others and self.locking:
            key, other = others[0]
            raise Locked(f"{key} is held by generation {other.generation} of {other.vm} on {other.node}")
        self.double_opens += [(key, other, holder) for key, other in others]
        for key in wanted:
            if holder not in self.holders.setdefault(key, []):
                self.holders[key].append(holder)
        for disk in _stored(spec):
            there = self.disks.setdefault(_key(disk), f"{self.id}/{disk.file}/{spec.generation}")
            if self.known.get((spec.vm, disk.name), there) != there:
                self.lost_opens.append((_key(disk), holder))

    # --- layers: what a file stands on is in its header, whatever is ordered ---------------------------------------------

    def top(self, disk: Disk) -> None:
        """The disk's file on its first layer, where it is missing. Raises CannotStart."""
        key, first = _key(disk), simhome.key(disk, disk.layers[0])
        if key in self.disks:
            return
        self.disks[key], self.beneath[key] = simhome.word(self, disk, disk.layers[0]), first
        if disk.layers[0].origin is not None:  # a backup's file names its parent
            below = [simhome.key(disk, layer) for layer in disk.layers]
            self.beneath.pop(below[-1], None)  # it was written anew since, and stands on nothing now
            self.beneath.update(pairwise(below))

    def chain(self, disk: Disk) -> tuple[str, ...]:
        """The files that it stands on, itself first."""
        return tuple(key.rpartition("/")[2] for key in self.keys(disk))

    def keys(self, disk: Disk) -> tuple[str, ...]:
        """As `chain`, by their keys."""
        found, key = [], _key(disk)
        while key:
            found.append(key)
            key = self.beneath.get(key, "")
        return tuple(found)

    def merge(self, disk: Disk, holder: Holder | None = None) -> None:
        """What is leaving goes up; holder: who has them open."""
        leaving = {simhome.key(disk, layer) for layer in disk.layers if layer.leaving}
        key = _key(disk)
        while key and not key.startswith(simhome.BACKUP):
            while (below := self.beneath.get(key, "")) in leaving:
                self.beneath[key] = self.beneath.get(below, "")
                if holder is not None:
                    self.holders.get(below, [holder]).remove(holder)
            key = below

    def merge_at_rest(self, vm: str, disks: tuple[Disk, ...]) -> None:
        """Raises Locked, CannotStart."""
        if held := self.holders.get(f"vm {vm}"):
            raise Locked(f"{vm} runs on {held[0].node}")
        for disk in disks:
            if disk.layers:
                self.top(disk)
                self.merge(disk)

    def on(self, disk: Disk) -> str:
        """What is on it."""
        return self.disks[_key(disk)]

    def copy(self, disks: Sequence[Disk], target: SimPool, there: Sequence[Disk]) -> None:
        """What is on these is on those too."""
        for disk, other in zip(disks, there, strict=True):
            target.disks[_key(other)] = self.disks[_key(disk)]

    def forsake(self, disks: Sequence[Disk]) -> None:
        """Their guest runs on with copies: what is on these is of the past."""
        for disk in disks:
            if _key(disk) in self.disks:
                self.disks[_key(disk)] = "of the past"

    def close(self, holder: Holder, disks_only: bool = False, only: Sequence[Disk] | None = None) -> None:
        """disks_only: the process goes on, and holds the VM itself still; only: these disks."""
        files = (f"disk {disk.pool}/{file}" for disk in only or () for file in self.chain(disk))
        keys = list(self.holders) if only is None else [key for key in files if key in self.holders]
        for key in keys:
            if disks_only and not key.startswith("disk "):
                continue
            self.holders[key] = [h for h in self.holders[key] if h != holder]
            if not self.holders[key]:
                del self.holders[key]

    def remove(self, disks: tuple[Disk, ...]) -> None:
        """With their layers. Raises Locked when one is open, or is stood on, and then removes none."""
        own = {simhome.key(disk, layer) for disk in disks for layer in disk.layers if layer.origin is None}
        keys = own | {_key(disk) for disk in disks}
        for key in sorted(keys):
            if held := self.holders.get(key):
                raise Locked(f"{key} is open: {held[0].vm} on {held[0].node}")
        if above := [key for key, below in self.beneath.items() if below in keys and key not in keys]:
            raise Locked(f"{above[0]} stands on a file that is to be removed")
        for key in keys:
            self.disks.pop(key, None)
            self.beneath.pop(key, None)

    def import_image(self, pool: str, image: str, file: str, format: ImageFormat, sha256: str) -> ImageInfo:
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
        source = None if format.value == format.kept.value else format
        return self.images.setdefault(
            f"{pool}/{image}", ImageInfo(format=format.kept, size_mib=found.size_mib, sha256=found.sha256, source=source)
        )

    def make_image(self, pool: str, image: str, source: DiskSource) -> ImageInfo:
        """Raises BadImage."""
        if simhome.recovered((source.disk,)):
            raise BadImage(f"{source.disk.name} of {source.vm} still stands on a backup: ask again once its data has come home")
        if source.resting and self.holders.get(f"vm {source.vm}"):
            raise BadImage(f"{source.vm} runs: take a snapshot and name it")
        if source.resting and _key(source.disk) in self.beneath.values():
            raise BadImage(f"{source.disk.file} is stood on: it is not the newest of {source.vm}")
        on = self.disks.get(_key(source.disk))
        if on is None:
            raise BadImage(f"{source.disk.file} of {source.vm} is not there (any more)")
        digest = hashlib.sha256(on.encode()).hexdigest()
        info = ImageInfo(format=DiskFormat.QCOW2, size_mib=source.disk.size_mib, sha256=digest)
        if (there := self.images.get(f"{pool}/{image}", info)) != info:
            raise BadImage(f"there is another image {image!r} (sha256 {there.sha256}): remove it first or take another name")
        self.images[f"{pool}/{image}"] = info
        return info

    def remove_image(self, pool: str, image: str) -> None:
        self.images.pop(f"{pool}/{image}", None)


def _stored(spec: MachineSpec) -> Iterable[Disk]:
    """Those with files."""
    return (disk for disk in spec.disks if not disk.bus.is_cd)


def _key(disk: Disk) -> str:
    return f"disk {disk.pool}/{disk.file}"
