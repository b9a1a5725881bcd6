"""Where the disks of a pool are: files of a folder, exports of an NBD server, or images of a Ceph pool. One Protocol for the three;
every pool has a folder besides, of which the leases and the pool's word are (lease.py): no disk is opened without.

    folder.py   files made, cloned as overlays, and removed here
    nbd.py      exports that somebody made on the server, under the names of the disks: looked at, never made
    rbd.py      images made, cloned and removed by the `rbd` tool, opened by QEMU's own driver

All of it blocks; call from a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proto.machine import Disk
from proto.space import PoolKind

if TYPE_CHECKING:
    from services.node.drivers.qemu.devices import Backing


class Store(Protocol):
    """Raises CannotStart (with a sentence) and OSError throughout."""

    @property
    def kind(self) -> PoolKind: ...

    def place(self, disk: Disk) -> str:
        """Where it is, or would be, in an operator's words."""
        ...

    def exists(self, disk: Disk) -> bool: ...

    def make(self, disk: Disk, base: Backing | None) -> None:
        """A new one, blank or on its image. base: that image as a file of the folder, where the pool is one."""
        ...

    def ready(self, disk: Disk, uid: int | None) -> None:
        """What is there is such that a QEMU of that user can open it."""
        ...

    def is_open(self, disk: Disk) -> bool:
        """Whether a QEMU has it open, here or elsewhere, as far as that can be seen."""
        ...

    def remove(self, disk: Disk) -> None:
        """One that is missing is fine."""
        ...
