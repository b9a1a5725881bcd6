"""Disk files of a pool: made when missing, owned by their VM's user, removed when nobody has them open.

    <pool>/images/<image>/{disk.qcow2|disk.raw, manifest.json, …}   read-only for QEMU
    <pool>/disks/<file>                                             one user's own
    <pool>/leases/<vm>.*                                            see lease.py
    <pool>/incoming/                                                where files to import are put
    <pool>/id                                                       which pool it is

QEMU locks byte ranges of an image it opened (open-file-description locks: permissions from 100, what others may do from 200).
`is_open` asks the kernel for those, so it sees processes of other agents and, where the file system carries locks, other nodes.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from pathlib import Path

from proto.machine import Disk, DiskFormat
from services.node.drivers import CannotStart, Locked
from services.node.drivers.qemu import layers
from services.node.drivers.qemu.argv import Backing

LOCK_BASE = 100
LOCK_LENGTH = 200
_FLOCK = "hhqqi4x"


def make_pool(pool: Path) -> None:
    """The pool's folders. QEMU passes through them and lists none."""
    for name, mode in {"images": 0o755, "disks": 0o711, "leases": 0o700, "incoming": 0o755}.items():
        (pool / name).mkdir(mode=mode, parents=True, exist_ok=True)


def can_direct(pool: Path) -> bool:
    """Whether the pool's file system takes O_DIRECT (tmpfs does not): tried, not looked up."""
    path = pool / "disks" / f".direct-{os.getpid()}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


def base_of(pool: Path, image: str) -> Backing:
    """The image's file below the pool. Raises CannotStart where it is not there."""
    for format in DiskFormat:
        if (pool / "images" / image / f"disk.{format}").is_file():
            return Backing(f"images/{image}/disk.{format}", format)
    raise CannotStart(f"image {image!r} is not in the pool at {pool}; import it first")


def own(pool: Path, disk: Disk, uid: int | None) -> None:
    """Hand the file to its VM's user. Raises CannotStart when it is not a plain file, or is a layer."""
    own_file(pool / "disks" / disk.file, uid)


def own_file(path: Path, uid: int | None) -> None:
    """As `own`."""
    seen = path.lstat()
    if stat.S_IMODE(seen.st_mode) == layers.READ_ONLY:
        raise CannotStart(
            f"{path} is a layer of a snapshot, on which a newer file stands; the log knows nothing of it. "
            f"Where what was written since is not wanted, chmod 600 makes it a disk again"
        )
    if not stat.S_ISREG(seen.st_mode):
        raise CannotStart(f"{path} is not a plain file; a disk must be one")
    if uid is not None and (seen.st_uid, seen.st_gid) != (uid, uid):
        os.chown(path, uid, uid, follow_symlinks=False)
    if stat.S_IMODE(seen.st_mode) != 0o600:
        path.chmod(0o600)


def is_open(path: Path) -> bool:
    """Whether a QEMU has the image open, here or on another node. False where there is no file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, LOCK_BASE, LOCK_LENGTH, 0)
        return bool(struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def id_of(pool: Path) -> str:
    """The pool's own word, made by whoever comes first: nodes that read the same reach the same files."""
    path = pool / "id"
    if not path.exists():
        word = os.urandom(8).hex()
        draft = pool / f".id-{word}"
        draft.write_text(word + "\n", encoding="ascii")
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another node was first
        finally:
            draft.unlink()
    return path.read_text(encoding="ascii").strip()


def remove(pool: Path, vm: str, disks: tuple[Disk, ...]) -> None:
    """With all their layers but those in backups. Raises Locked when one is open, or another file stands on it, and then removes
    none. The lease record stays: a generation is never lowered."""
    layered = {layer.file for disk in disks for layer in disk.layers if layer.origin is None}
    files = layered | {file for disk in disks for file in (disk.file, disk.vars) if file}
    if above := layers.stood_on(pool, vm, files):
        raise Locked(f"{above} stands on a file of {vm} that is to be removed")
    paths = [pool / "disks" / file for file in sorted(files)]
    paths += [pool / "incoming" / disk.seed.file for disk in disks if disk.seed is not None]
    for path in paths:
        if is_open(path):
            raise Locked(f"{path} is open: stop {vm} first, on whichever node it runs")
    for path in paths:
        path.unlink(missing_ok=True)
