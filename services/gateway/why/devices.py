"""One sentence for an event of disks, NICs and images. Pure."""

from __future__ import annotations

from typing import Any

from proto import io
from services.gateway.why.backups import change_of_recovery
from services.gateway.why.snapshots import change_of_snapshot, of_snapshots
from services.gateway.words import count


def of_devices(event: Any) -> str:
    match event:
        case io.DevicesGranted():
            files = ", ".join(disk.file for disk in event.disks)
            return f"io granted {count(len(event.disks), "disk")} ({files or 'none'}) and {count(len(event.nics), "NIC")}"
        case io.DevicesDenied():
            return f"io denied its devices: {event.sentence}"
        case io.DevicesReturned():
            return f"its devices are {event.node}'s again"
        case io.DisksSettled(left=()):
            return "its guest has its disks: from now on no start makes any of them anew"
        case io.DisksSettled():
            return f"its disks came along; {', '.join(d.file for d in event.left)} on {event.source} can go"
        case io.DevicesRevoked():
            return f"the devices of generation {event.generation} are its own no more: it has ended"
        case io.DisksRemovalRequested():
            return f"{event.node} was ordered to remove its {count(len(event.disks), "disk")}, as it was deleted"
        case io.DevicesRemoved():
            return "its disks are removed, and nothing is left of its devices"
        case _:
            return _of_images(event) or _of_changes(event)


def _of_images(event: Any) -> str:
    match event:
        case io.ImageImportRequested():
            return _image_wish(event)
        case io.ImageImported():
            return f"found acceptable and imported: {event.info.format}, {event.info.size_mib} MiB"
        case io.ImageRejected():
            return f"rejected: {event.sentence}"
        case io.ImageDeleteRequested():
            return f"{event.node} was ordered to remove its file from pool {event.pool}"
        case io.ImageDeleted():
            return "deleted"
        case _:
            return ""


def _image_wish(event: io.ImageImportRequested) -> str:
    if event.source is None:
        return f"the import of {event.file} was ordered of {event.node}"
    source = event.source
    return f"{event.node} was told to make it of {source.disk.file}, {source.disk.name} of {source.vm}"


def _of_changes(event: Any) -> str:
    match event:
        case io.DevicesChanged(change=change):
            return _device_change(change)
        case io.DeviceAttached():
            return f"{event.name} is attached" + (f": {event.sentence}" if event.sentence else f" in slot {event.slot}")
        case io.DeviceDetached():
            return f"{event.name} is detached" + (f"; its file {event.file} is left" if event.file and not event.delete else "")
        case io.DiskResized():
            return f"{event.name} has {event.size_mib} MiB"
        case io.MediumChanged():
            has = f"holds {event.image}" if event.image else "is empty"
            return f"{event.name} {has}" + (f": {event.sentence}" if event.sentence else "")
        case io.DeviceMisfit():
            return f"{event.name}: {event.sentence}" + (" (pending)" if event.pending else "")
        case io.DiskFilesRemoved():
            return f"files of no use any more are removed: {', '.join(event.files)}"
        case _:
            return of_snapshots(event)


def _device_change(change: io.Change) -> str:
    file = f" ({change.file})" if change.file else ""
    match change.kind:
        case io.ChangeKind.ATTACH_DISK | io.ChangeKind.ATTACH_NIC:
            return f"{change.name} is to be attached{file}"
        case io.ChangeKind.DETACH_DISK | io.ChangeKind.DETACH_NIC:
            kept = f"; its file {change.file} is {'removed' if change.delete else 'left'}" if change.file else ""
            return f"{change.name} is to be detached{kept}"
        case io.ChangeKind.UNDO:
            return f"{change.name} could not be attached and is taken out again"
        case _:
            return change_of_snapshot(change) or change_of_recovery(change) or f"{change.name} is changed: {change.kind}"
