"""Disks that are files of a pool's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from proto.machine import Disk, DiskFormat
from proto.space import PoolKind
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.devices import Backing
from services.node.drivers.qemu.layers import named


class Maker(Protocol):
    """Makes disk files (qemu_img.py). The first three raise DriverError or OSError and then leave nothing."""

    def overlay(self, file: Path, base: Path, base_format: DiskFormat, format: DiskFormat, size_mib: int) -> None: ...

    def on_backup(self, file: Path, name: str, base_format: DiskFormat, size_mib: int) -> None: ...

    def blank(self, file: Path, format: DiskFormat, size_mib: int) -> None: ...

    def rebase(self, file: Path, base: str, base_format: DiskFormat | None) -> None:
        """The same content on another base, or on none: what lies between is copied in. Raises DriverError."""
        ...


class Folder:
    kind = PoolKind.LOCAL

    def __init__(self, pool: Path, maker: Maker) -> None:
        self._pool = pool
        self._maker = maker

    def place(self, disk: Disk) -> str:
        return str(self._file(disk))

    def exists(self, disk: Disk) -> bool:
        return self._file(disk).exists()

    def make(self, disk: Disk, base: Backing | None) -> None:
        if base is None:
            self._maker.blank(self._file(disk), disk.format, disk.size_mib)
        elif base.origin is not None:
            self._maker.on_backup(self._file(disk), named(base), base.format, disk.size_mib)
        else:
            self._maker.overlay(self._file(disk), self._pool / base.file, base.format, disk.format, disk.size_mib)

    def ready(self, disk: Disk, uid: int | None) -> None:
        disks.own(self._pool, disk, uid)

    def is_open(self, disk: Disk) -> bool:
        return disks.is_open(self._file(disk))

    def remove(self, disk: Disk) -> None:
        self._file(disk).unlink(missing_ok=True)

    def _file(self, disk: Disk) -> Path:
        return self._pool / "disks" / disk.file
