"""Disks that are exports of an NBD server. They are made there, by whoever looks after it, under the name of the disk's file: NBD
knows no word for making one. What is on an export is what the guest finds."""

from __future__ import annotations

import struct

from proto.machine import Disk, DiskFormat
from proto.space import PoolKind
from services.node.drivers import CannotStart
from services.node.drivers.qemu.devices import Backing
from services.node.drivers.qemu.stores import nbd_line
from services.node.drivers.qemu.stores.settings import Nbd

MIB = 1 << 20


class NbdStore:
    kind = PoolKind.NBD

    def __init__(self, name: str, at: Nbd) -> None:
        self._name = name
        self._at = at

    def place(self, disk: Disk) -> str:
        return f"the export {disk.file} of the NBD server at {self._at.server}"

    def exists(self, disk: Disk) -> bool:
        return self._ask(disk) is not None

    def make(self, disk: Disk, base: Backing | None) -> None:
        self._check(disk)
        raise CannotStart(
            f"{self.place(disk)} is not there, and disks of pool {self._name} are not made from here: "
            f"make it there, of {disk.size_mib} MiB or more"
        )

    def ready(self, disk: Disk, uid: int | None) -> None:
        self._check(disk)
        found = self._ask(disk)
        if found is None:
            self.make(disk, None)
            return
        size, flags = found
        if size < disk.size_mib * MIB:
            said = f"{self.place(disk)} is of {size // MIB} MiB; {disk.name} is to have {disk.size_mib}"
            raise CannotStart(f"{said}: make it larger there")
        if flags & nbd_line.READ_ONLY:
            raise CannotStart(f"{self.place(disk)} is read-only: export it for writing")

    def _check(self, disk: Disk) -> None:
        if disk.format is not DiskFormat.RAW or disk.image:
            what = f"on the image {disk.image}" if disk.image else f"as {disk.format}"
            said = f"{disk.name} in pool {self._name} is wanted {what}"
            raise CannotStart(f"{said}: disks of an NBD pool are raw, and stand on no image")

        if disk.file == self._at.backups:
            raise CannotStart(f"{self.place(disk)} is what the backups of pool {self._name} lie in: no disk can be it")

    def is_open(self, disk: Disk) -> bool:
        """A server does not say whom it serves: the lease is what is asked."""
        return False

    def remove(self, disk: Disk) -> None:
        """It is not ours to remove: it stays, with what is on it."""

    def _ask(self, disk: Disk) -> tuple[int, int] | None:
        """Size in bytes, and flags; None: there is no such export. Raises CannotStart where the server does not answer."""
        try:
            with nbd_line.dial(self._at) as sock:
                return nbd_line.look(sock, disk.file)
        except (OSError, struct.error) as error:
            raise CannotStart(f"the NBD server at {self._at.server} does not answer ({error}): see that it runs") from error
