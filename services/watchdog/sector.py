"""One sector of a shared pool, past all caches: what is written is on the disk, what is read is what lies there now. Blocking."""

from __future__ import annotations

import mmap
import os

from libs.lease.record import FOLDER, SECTOR_BYTES

FILE_MODE, FOLDER_MODE = 0o600, 0o700


def can_direct(pool: str) -> bool:
    """Whether the lease area's file system takes O_DIRECT: tmpfs does not; what is read there proves nothing. Raises OSError."""
    area = f"{pool}/{FOLDER}"
    os.makedirs(area, FOLDER_MODE, exist_ok=True)  # noqa: PTH103  (pathlib takes longer to import than all else)
    path = f"{area}/.direct-{os.getpid()}"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC, FILE_MODE))
    except OSError as error:
        if error.errno != 22:
            raise
        return False
    finally:
        _unlink(path)
    return True


def write(path: str, sector: bytes) -> None:
    """Durable when it returns. Raises OSError."""
    with mmap.mmap(-1, SECTOR_BYTES) as page:  # aligned, as O_DIRECT wants it
        page[:] = sector
        try:
            fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = _made(path)
        try:
            if os.pwrite(fd, page, 0) != SECTOR_BYTES:
                raise OSError(5, "only a part was written", path)
        finally:
            os.close(fd)


def read(path: str) -> bytes:
    """b"": there is none. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with mmap.mmap(-1, SECTOR_BYTES) as page:
        try:
            count = os.preadv(fd, [page], 0)
        finally:
            os.close(fd)
        return page[:count]


def names(pool: str, kind: str) -> list[str]:
    """The nodes that have a `record` (or `mailbox`) there. Raises OSError."""
    end = f".{kind}"
    return sorted(name.removesuffix(end) for name in os.listdir(f"{pool}/{FOLDER}") if name.endswith(end))  # noqa: PTH208


def _made(path: str) -> int:
    """A new one of its whole size, so that later writes change no size; durable with its name."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC, FILE_MODE)
    try:
        os.ftruncate(fd, SECTOR_BYTES)
        os.fsync(fd)
        folder = os.open(path.rpartition("/")[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        os.close(fd)
        raise
    return fd


def _unlink(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return
