"""Which part of an export each file of a backup has: its claim, a small file in its place in the pool's folder.

    <folder>/backups/<vm>/<backup>/<vm>-<disk>.<backup>.qcow2     {"offset": …, "size": …}: there lies the qcow2
    <folder>/backups/.windows                                     locked while a claim is made, made smaller or let go of
    <folder>/backups/.cooling                                     windows that a killed QEMU wrote to: not given again for a minute
    export: | label, 1 MiB | window | window |    free    | window | …

The claims are all that is known of what is free: there is no table beside them that could say otherwise. What a removal or a
backup that was cut short has left is claimed until it is removed. Blocking, but for `fitting`, which is pure.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from services.node.drivers import DriverError
from services.node.drivers.qemu.stores.settings import Nbd, Window

UNIT = 1 << 20
"""windows begin and end at whole MiB; the first is the label's"""
LEAST = 16 * UNIT
"""no window is made that is smaller, unless no more is wanted"""
CLAIM_BYTES_MAX = 4096
LOCK, COOLING = ".windows", ".cooling"
COOL_US = 60_000_000
"""what a client that died had sent may still be written by the server"""
LOCK_S_MAX, LOOK_S = 30.0, 0.02
PARTS = (".qcow2", ".qcow2.new")


class Claim(msgspec.Struct, frozen=True):
    """offset, size: bytes of the export. begun: what was written there when it was claimed, and is never cut off."""

    offset: int
    size: int
    begun: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size

    def window(self, at: Nbd) -> Window:
        return Window(at, self.offset, self.size)


def fitting(size: int, claimed: Iterable[Claim], wanted: int) -> Claim | None:
    """A window for so many bytes in an export of that size: in the smallest gap that is large enough, else half of the largest,
    which most likely will do; None: there is no gap worth it."""
    wanted = -(-wanted // UNIT) * UNIT
    gaps, at = list[Claim](), UNIT
    for claim in sorted(claimed, key=lambda claim: claim.offset):
        if claim.offset > at:
            gaps.append(Claim(at, claim.offset - at))
        at = max(at, -(-claim.end // UNIT) * UNIT)
    if (last := size // UNIT * UNIT - at) > 0:
        gaps.append(Claim(at, last))
    if enough := [gap for gap in gaps if gap.size >= wanted]:
        best = min(enough, key=lambda gap: (gap.size, gap.offset))
        return Claim(best.offset, wanted)
    largest = max(gaps, key=lambda gap: (gap.size, -gap.offset), default=Claim(0, 0))
    half = largest.size // 2 // UNIT * UNIT
    return Claim(largest.offset, half) if half >= LEAST else None


def read(path: Path) -> Claim:
    """Raises OSError; DriverError where it is none."""
    with path.open("rb") as file:
        return parse(path.name, file.read(CLAIM_BYTES_MAX))


def parse(name: str, data: bytes) -> Claim:
    """Raises DriverError."""
    try:
        found = msgspec.json.decode(data, type=Claim)
    except msgspec.MsgspecError:
        raise DriverError(f"{name} does not say where it lies: it is damaged") from None
    if found.offset < UNIT or found.size <= 0 or found.offset % UNIT:
        raise DriverError(f"{name} claims what is no window: it is damaged")
    return found


def write(path: Path, claim: Claim, mode: int) -> None:
    """In the place of what is there, durable."""
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(claim) + b"\n")
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Cooling(msgspec.Struct, frozen=True):
    """until_us: by the clock of the node that let go of it."""

    claim: Claim
    until_us: int


def cooling(folder: Path, now_us: int) -> list[Cooling]:
    """Under the pool's lock. Those whose time is not over; one that is cut off says nothing."""
    try:
        found = msgspec.json.decode((folder / "backups" / COOLING).read_bytes(), type=list[Cooling])
    except (FileNotFoundError, msgspec.MsgspecError):
        return []
    return [one for one in found if now_us < one.until_us <= now_us + COOL_US]


def cool(folder: Path, claim: Claim, now_us: int) -> None:
    """Under the pool's lock."""
    now = [*cooling(folder, now_us), Cooling(claim, now_us + COOL_US)]
    draft = folder / "backups" / f"{COOLING}.draft"
    draft.write_bytes(msgspec.json.encode(now))
    draft.replace(folder / "backups" / COOLING)


def taken(folder: Path, now_us: int) -> list[Claim]:
    """All that is not free, under the pool's lock. Raises as all_of."""
    return [*all_of(folder).values(), *(one.claim for one in cooling(folder, now_us))]


def all_of(folder: Path) -> dict[Path, Claim]:
    """Of the pool, under its lock. Raises OSError; DriverError where one cannot be read: what it has is not known then, and no
    window is given until that backup is deleted."""
    found = {}
    for vm in _folders(folder / "backups"):
        for backup in _folders(vm):
            for path in sorted(backup.iterdir()):
                if path.name.endswith(PARTS):
                    found[path] = read(path)
    return found


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.exists() else []


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else, on any node, claims or lets go of a window meanwhile. Raises OSError, DriverError."""
    (folder / "backups").mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder / "backups" / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + LOCK_S_MAX
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DriverError(f"the windows of {folder} are locked by another agent for {LOCK_S_MAX:g} s") from None
            time.sleep(LOOK_S)  # flock has no wait with a bound
        yield
    finally:
        os.close(fd)
