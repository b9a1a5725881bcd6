"""Which file system a folder is on, as the kernel's table of mounts says."""

from __future__ import annotations

import os
from pathlib import Path

from proto.space import PoolKind

SHARED = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "afs"),
        *("ceph", "gfs2", "ocfs2", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs"),
    )
)
"""file systems that other hosts may have mounted as well"""
SHARED_BY_FUSE = frozenset(("glusterfs", "ceph", "sshfs", "moosefs", "seaweedfs", "juicefs"))
_TABLE = Path("/proc/self/mountinfo")


def kind_of(folder: Path, table: Path = _TABLE) -> PoolKind:
    """Blocking. Raises OSError."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = file_system(table.read_text(encoding="utf-8", errors="replace"), wanted)
    return PoolKind.SHARED if is_shared(found) else PoolKind.LOCAL


def file_system(table: str, device: str) -> str:
    """Its type, by `major:minor`; "" where the table does not have it (a btrfs subvolume has a device of its own)."""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) > 2 and words[2] == device and after:
            return after.split()[0]
    return ""


def is_shared(type: str) -> bool:
    name, _, own = type.partition(".")
    return type in SHARED or (name == "fuse" and own in SHARED_BY_FUSE)
