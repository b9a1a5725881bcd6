"""UEFI: the code is the host's, the variables are the VM's own, in a file beside its first disk (Disk.vars).

The file begins as OVMF's template and is written by the guest. It is held by the lease and lock of its pool, as the disk is. A
guest that moves takes its variables along in its memory (QEMU writes them into the target's file), so where its disks go along
the file on the target is made anew. Blocking.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from proto.machine import Disk, Firmware, MachineSpec
from services.node.drivers import CannotStart, Locked
from services.node.drivers.qemu import disks
from services.node.drivers.qemu.qemu_img import sync
from services.node.host.ovmf import Ovmf


def needed(spec: MachineSpec, found: Ovmf | None, node: str) -> tuple[Ovmf, Disk] | None:
    """The firmware, and the disk beside which its variables are; None where the VM has none. Raises CannotStart."""
    if spec.shape.firmware is not Firmware.UEFI:
        return None
    if found is None:
        said = f"{spec.vm} has UEFI firmware, and {node} has none"
        raise CannotStart(f"{said}: install OVMF there (the package ovmf), or start it elsewhere")
    holder = next((disk for disk in spec.disks if disk.vars), None)
    if holder is None:
        raise CannotStart(f"{spec.vm} has UEFI firmware and no disk beside which its variables are kept")
    return found, holder


def make(
    pool: Path, disk: Disk, ovmf: Ovmf, uid: int | None, *, anew: bool = False, like: bytes | None = None
) -> None:
    """The VM's variables, where there are none yet. anew: what is there is of no use; like: what they begin as, where that is not
    OVMF's template. Raises CannotStart, Locked, OSError."""
    path = pool / "disks" / disk.vars
    if anew:
        if disks.is_open(path):
            raise Locked(f"{path} is open")
        path.unlink(missing_ok=True)
    if not path.exists():
        _write(ovmf.template.read_bytes() if like is None else like, path)
    disks.own_file(path, uid)
    check(path, ovmf)


def check(path: Path, ovmf: Ovmf) -> None:
    """Raises CannotStart unless the variables are of this firmware's kind."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise CannotStart(f"{path} with the VM's UEFI variables is not there: a guest moves only where they are reached") from None
    if size != ovmf.bytes:
        said = f"{path} with the VM's UEFI variables has {size} bytes, and the firmware here ({ovmf.code}) wants {ovmf.bytes}"
        raise CannotStart(f"{said}: start it on a node with the firmware that it began with")


def _write(template: bytes, path: Path) -> None:
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".draft", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(template)
        sync(draft)
        draft.rename(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
