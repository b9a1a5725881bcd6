"""The lease record beside the disks: which generation of a VM may write, and on which node (ring 3 of the failover protocol).

`<pool>/leases/<vm>.lease` is taken by compare-and-swap before QEMU starts and never lowers a generation. Nobody gives it back:
the record of a VM that stopped is what refuses a late order of the past. `<vm>.guard` serializes the swap; `<vm>.running` is
held with an exclusive lock by the QEMU process itself (it inherits the open file), also where a VM has no disk to lock.

All locks are flock(2): they belong to the open file, so they outlive the agent and end with the last process that has it.
Blocking; call from a thread.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from services.node.drivers import CannotStart, LeaseRefused, Locked

GUARD_WAIT_S_MAX = 5.0
RECORD_BYTES_MAX = 4096


class Lease(msgspec.Struct, frozen=True):
    """boot_id: of the host, so that a reader knows a node that came back from one that never left."""

    vm: str
    generation: int
    node: str
    boot_id: str


def read(pool: Path, vm: str) -> Lease | None:
    """Raises LeaseRefused when the record cannot be understood: then nobody may guess."""
    path = pool / "leases" / f"{vm}.lease"
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(RECORD_BYTES_MAX), type=Lease)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise LeaseRefused(
            f"{path} is not a lease record ({error}); make sure that no node runs {vm}, then remove the file"
        ) from None


def take(pool: Path, wanted: Lease) -> None:
    """Write `wanted` where the record is older, or its own. Raises LeaseRefused, and Locked when another taker holds the guard."""
    folder = pool / "leases"
    folder.mkdir(parents=True, exist_ok=True)
    guard = os.open(folder / f"{wanted.vm}.guard", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(guard, wanted.vm)
        _judge(read(pool, wanted.vm), wanted)
        _write(folder, wanted)
    finally:
        os.close(guard)


def check(pool: Path, wanted: Lease) -> None:
    """Whether `take` would be refused by now. Raises LeaseRefused."""
    _judge(read(pool, wanted.vm), wanted)


def hold(pool: Path, vm: str) -> int:
    """A descriptor with the exclusive lock on `<vm>.running`, for QEMU to inherit. Raises Locked where a process has it."""
    folder = pool / "leases"
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / f"{vm}.running", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Locked(f"{vm} still runs: a process, perhaps on another node, holds {folder / f'{vm}.running'}") from None
    except OSError as error:
        os.close(fd)
        raise CannotStart(f"the file system of {pool} cannot lock ({error}); a pool must be able to") from None
    return fd


def holds(pool: Path, vm: str, pid: int) -> bool:
    """Whether that process has `<vm>.running` open: it was given it locked."""
    try:
        wanted = (pool / "leases" / f"{vm}.running").stat()
        fds = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    return any(_is(fd, wanted) for fd in fds)


def _is(fd: Path, wanted: os.stat_result) -> bool:
    try:
        seen = fd.stat()
    except OSError:
        return False
    return (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino)


def _lock(guard: int, vm: str) -> None:
    end = time.monotonic() + GUARD_WAIT_S_MAX
    while True:
        try:
            return fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Locked(
                    f"another node has been writing the lease record of {vm} for {GUARD_WAIT_S_MAX} s"
                ) from None
            time.sleep(0.01)  # flock has no wait with a bound; a swap takes a few milliseconds


def _judge(found: Lease | None, wanted: Lease) -> None:
    if found is None or found.generation < wanted.generation:
        return
    if found.generation > wanted.generation:
        raise LeaseRefused(
            f"the lease of {wanted.vm} is at generation {found.generation} ({found.node}); {wanted.generation} is of the past"
        )
    if found.node != wanted.node:
        raise LeaseRefused(
            f"generation {found.generation} of {wanted.vm} belongs to node {found.node}, not {wanted.node}"
        )


def _write(folder: Path, lease: Lease) -> None:
    draft = folder / f"{lease.vm}.draft"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, msgspec.json.encode(lease) + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(folder / f"{lease.vm}.lease")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
