"""What is to stand on a backup, and was asked for before that was found damaged, is refused before any guest runs on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from libs.common.instants import utc
from proto.machine import Disk, Origin
from proto.recovery import RecoveredDisk
from services.io.waves.views import WaveViews


def of_recovered(disks: Iterable[RecoveredDisk], views: WaveViews) -> str:
    return _said((disk.layers[0].origin for disk in disks if disk.layers), views)


def of_disks(disks: Iterable[Disk], views: WaveViews) -> str:
    """Of those with which no guest has run. Where one has, what it wrote is worth more than what it may not read."""
    unmade = (disk for disk in disks if not disk.made and disk.layers)
    return _said((disk.layers[0].origin for disk in unmade), views)


def _said(origins: Iterable[Origin | None], views: WaveViews) -> str:
    """Empty: they are sound, as far as is known; or nothing is known of them, after a restore."""
    for origin in origins:
        if origin is None or origin.backup not in views.kept.get(origin.vm, {}) or views.sound(origin.vm, origin.backup):
            continue
        good = next((id for id in reversed(views.kept[origin.vm]) if views.sound(origin.vm, id)), "")
        instead = "none of its backups is sound"
        if good:
            instead = f"the newest that is sound is {good} ({utc(views.kept[origin.vm][good].taken_us)}): --backup {good}"
        return f"the backup {origin.backup} of {origin.vm}, or what that stands on, was found damaged meanwhile; {instead}"
    return ""
