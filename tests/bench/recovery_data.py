"""Data for disks that are to be copied: nothing compresses it, and no two clusters of it are alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

BLOCK_MIB = 4


def noise(raw: Path, mib: int) -> None:
    """A file of so many MiB."""
    chunk = os.urandom(BLOCK_MIB << 20)
    with raw.open("wb") as out:
        for n in range(0, mib, BLOCK_MIB):
            cut = n * 4096 % len(chunk)
            out.write(chunk[cut:] + chunk[:cut])


def fill(file: Path, mib: int) -> None:
    """So much of a qcow2 disk is noise from now on, all else as it never was written. Its VM is at rest."""
    was = file.stat()
    words = ["qemu-img", "info", "--output=json", str(file)]
    said = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    virtual = int(said.partition('"virtual-size":')[2].partition(",")[0])
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        raw, made = Path(folder) / "raw", Path(folder) / "made"
        noise(raw, mib)
        os.truncate(raw, virtual)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(made)], check=True)
        shutil.chown(made, was.st_uid, was.st_gid)
        made.chmod(was.st_mode & 0o777)
        made.replace(file)


def convert_s(backup: Path, pool: Path) -> float:
    """Seconds of a whole copy into the pool, written out."""
    target = pool / "converted.qcow2"
    begun = time.perf_counter()
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(backup), str(target)], check=True)
    with target.open("rb") as made:
        os.fsync(made.fileno())
    took = time.perf_counter() - begun
    target.unlink()
    return took
