"""What events say of a VM's snapshots. Pure."""

from __future__ import annotations

from typing import Any

from proto import io
from services.gateway.words import count


def of_snapshots(event: Any) -> str:
    match event:
        case io.SnapshotRequested():
            return f"the snapshot {event.name} of {count(len(event.disks), "disk")} was asked for (freeze: {event.freeze})"
        case io.SnapshotTaken():
            frozen = f", file systems stood still for {event.frozen_ms} ms" if event.frozen_ms else ""
            why = f": {event.sentence}" if event.sentence else ""
            return f"the snapshot {event.name} is taken ({event.consistency}{frozen}){why}"
        case io.SnapshotFound():
            return f"the snapshot {event.name} was found beneath its disks after the database was restored"
        case io.SnapshotFailed():
            return f"the snapshot {event.name} was not taken: {event.sentence}"
        case io.SnapshotDeleteRequested():
            return f"the snapshot {event.name} is to be merged into what is newer"
        case io.SnapshotDeleted(files=()):
            return f"the snapshot {event.name} is gone with what the disks were before"
        case io.SnapshotDeleted():
            return f"the snapshot {event.name} is merged and gone"
        case io.SnapshotReverted():
            lost = f"; lost with it: {', '.join(event.lost)}" if event.lost else ""
            return f"its disks are again as they were at {event.name}, and what was written since is lost{lost}"
        case _:
            return ""


def change_of_snapshot(change: io.Change) -> str:
    match change.kind:
        case io.ChangeKind.TAKE_SNAPSHOT:
            return f"its disks go on in new files, above {change.name}"
        case io.ChangeKind.DROP_SNAPSHOT:
            return f"its disks stay in the files that they were in before {change.name}"
        case io.ChangeKind.DELETE_SNAPSHOT:
            return f"layers that only {change.name} needs are leaving"
        case io.ChangeKind.MERGED:
            return f"its disks stand on {change.name} no more"
        case io.ChangeKind.REVERT:
            return f"its disks go on in new files, above {change.name}"
        case _:
            return ""
