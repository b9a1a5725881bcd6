"""The events of a VM that is backed up and recovered, as a gateway hears them."""

from __future__ import annotations

import msgspec

from libs.common.messages import Event, Meta, NodeId, Recorded, VmId, encode, tag_of
from proto import compute as c
from proto import io
from proto.hardware import Consistency
from proto.machine import Disk, DiskFormat, Layer, Origin
from services.gateway.model import ReadModel
from tests.contract.gateway_rig import SHAPE, defined, start_requested, started

A, B, N1 = VmId("a"), VmId("b"), NodeId("n1")
S = 1_000_000
DISK = Disk(name="disk0", file="a-disk0.qcow2", size_mib=1024, format=DiskFormat.QCOW2, pool="default", slot=1, serial="s")
DEFINITION = io.Definition(shape=SHAPE, disks=(), nics=())


class Log:
    """A read model, and what it is told, at the seconds that are said."""

    def __init__(self) -> None:
        self.model = ReadModel()
        self.rows: list[Recorded] = []

    def add(self, stream: str, *events: Event, at_s: float = 0.0, task: str = "t", **meta: str) -> None:
        for event in events:
            position = self.model.position + 1
            at_us = max(round(at_s * S), self.rows[-1].at_us if self.rows else 0)
            said = Meta(meta.get("command", "c"), "", task, meta.get("actor", "user:ann"), 0, project=meta.get("project", "red"))
            version = 1 + sum(row.stream == stream for row in self.rows)
            row = Recorded(position, stream, version, tag_of(type(event)), type(event).VERSION, at_us, encode(event), encode(said))
            self.rows.append(row)
            self.model.apply(row)

    def backups(self, *events: Event, at_s: float = 0.0, task: str = "t", **meta: str) -> None:
        self.add("backups-a", *events, at_s=at_s, task=task, **meta)

    def states(self, vm: str = "a") -> dict[str, str]:
        return {one.id: one.state for one in self.model.backups.of(vm)}


def requested(backup: str, parent: str = "", **more: object) -> io.BackupRequested:
    asked = io.BackupRequested(
        vm=A, backup=backup, node=N1, generation=1, pool="safe", pool_id="p1", disks=(DISK,), definition=DEFINITION, parent=parent,
    )  # fmt: skip
    return msgspec.structs.replace(asked, **more)


def saved(backup: str, bytes: int = 1 << 20) -> io.SavedDisk:
    return io.SavedDisk(disk="disk0", file=f"a-disk0.{backup}.qcow2", size_mib=1024, bytes=bytes, sha256="ab" * 32)


def taken(backup: str, parent: str = "", at_s: float = 0.0, **more: object) -> io.BackupTaken:
    kind = io.BackupKind.INCREMENTAL if parent else io.BackupKind.FULL
    done = io.BackupDone(
        kind=kind, disks=(saved(backup),), at_us=round(at_s * S), parent=parent, consistency=Consistency.FILESYSTEM, frozen_ms=12,
        took_ms=340, copied_mib=100,
    )  # fmt: skip
    return io.BackupTaken(vm=A, backup=backup, done=msgspec.structs.replace(done, **more))


def chain(log: Log, *names: str) -> None:
    """Each stands on the one before; taken a second apart, from 10 s on."""
    below = ""
    for n, name in enumerate(names):
        log.backups(requested(name, below), at_s=10 + n)
        log.backups(taken(name, below, at_s=10 + n), at_s=10.5 + n)
        below = name


def recovery(id: str = "r1-9", target: VmId = A, backup: str = "b1-2", taken_s: float = 10, **more: object) -> io.RecoveryRequested:
    layers = (Layer(file="f.qcow2", format=DiskFormat.QCOW2, leaving=True, origin=Origin(vm="a", backup=backup, pool="safe")),)
    asked = io.RecoveryRequested(
        vm=A, target=target, recovery=id, backup=backup, taken_us=int(taken_s * S), definition=DEFINITION,
        disks=(io.RecoveredDisk(disk="disk0", size_mib=1024, layers=layers),),
    )  # fmt: skip
    return msgspec.structs.replace(asked, **more)


def prepare(log: Log, target: VmId = A, id: str = "r1-9", at_s: float = 100.1, start: bool = True) -> None:
    log.add(f"vm-{target}", c.VmRecoveryPrepared(vm=target, source=A, recovery=id), at_s=at_s)
    log.add(f"devices-{target}", io.DisksRecovered(vm=target, source=A, recovery=id, start=start), at_s=at_s + 0.1)


def runs(log: Log, vm: VmId = A, at_s: float = 101.5, generation: int = 2, task: str = "t") -> None:
    log.add(f"vm-{vm}", start_requested(vm, generation=generation), at_s=at_s - 1, task=task, command="x")
    log.add(f"vm-{vm}", started(vm, generation=generation), at_s=at_s, task=task, command="y")


def home(log: Log, target: VmId = A, id: str = "r1-9", at_s: float = 160) -> None:
    log.add(f"devices-{target}", io.DisksHome(vm=target, source=A, recovery=id), at_s=at_s)
    log.backups(io.RecoveryEnded(vm=A, target=target, recovery=id, end=io.EndKind.INDEPENDENT), at_s=at_s + 1)


def stopped(vm: VmId = A, generation: int = 1) -> c.VmStopped:
    return c.VmStopped(vm=vm, node=N1, generation=generation, cause=c.GoneCause.ORDERED)


def protected() -> Log:
    """a runs, and has b1-2 and, on it, b1-4."""
    log = Log()
    log.add("vm-a", defined("a"), task="d", command="d")
    runs(log, at_s=5, generation=1, task="s")
    chain(log, "b1-2", "b1-4")
    return log
