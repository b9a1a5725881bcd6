"""How far copies are that go on, as the agents told lately. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from proto.node import CopyNow

BACKUP, HOME = "backup", "home"
"""what is copied: a backup that is being taken, the disks of a recovered VM"""


class Progress(msgspec.Struct):
    """Of all that was told of it. mibps: lately; left_s: how long it takes at that rate, null where nothing moves; end_us: the
    forecast, microseconds since the epoch, 0 where there is none."""

    done_mib: int
    all_mib: int
    percent: float
    mibps: float
    left_s: float | None = None
    end_us: int = 0


def progress(copies: Iterable[CopyNow], vm: str, what: str, now_us: int, name: str = "") -> Progress | None:
    """None: no agent tells of such a copy. name: only the one of that name."""
    found = [copy for copy in copies if copy.vm == vm and copy.what == what and name in ("", copy.name)]
    if not found:
        return None
    done, whole = sum(copy.done_mib for copy in found), sum(copy.all_mib for copy in found)
    rate = sum(copy.mibps for copy in found)
    percent = round(min(100.0, 100.0 * done / whole), 1) if whole else 100.0
    left_s = round(max(0, whole - done) / rate, 1) if rate > 0 else None
    end_us = now_us + int(left_s * 1e6) if left_s is not None else 0
    return Progress(done, whole, percent, round(rate, 1), left_s, end_us)
