"""An image is made of a disk: all that its files hold, as one qcow2 that stands on nothing. All or nothing, as an import. Blocking.

What is read stays while it is read: qemu-img holds QEMU's locks on each file of the chain, before which nobody writes or removes
them (disks.is_open), on whichever node. A disk at rest is read under the lock of its VM too (lease.hold): it is not started then.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from proto.images import DiskSource, ImageInfo
from proto.machine import DirectBoot, DiskFormat
from services.node.drivers import BadImage, CannotStart, Locked
from services.node.drivers.qemu import disks, images, layers, lease, origins
from services.node.drivers.qemu.devices import LAYERS
from services.node.drivers.qemu.qemu_img import QemuImg


def make(pool: Path, image: str, source: DiskSource, boot: DirectBoot | None, tool: QemuImg) -> ImageInfo:
    """Raises BadImage; Locked where a file is being written, and DriverError else for what passes."""
    if (present := images.read_manifest(pool, image)) is not None:
        return _same(present, source, boot)
    if not source.resting:
        return _make(pool, image, source, boot, tool)
    try:
        held = lease.hold(pool, source.vm)
    except Locked as error:
        said = f"{source.vm} runs, or its layers are being merged: take a snapshot and name it, or ask again once it is at rest"
        raise BadImage(said) from error
    try:
        if above := layers.stood_on(pool, source.vm, {source.disk.file}):
            raise BadImage(f"{above} stands on {source.disk.file}: that is not the newest of {source.vm}; ask again in a moment")
        return _make(pool, image, source, boot, tool)
    finally:
        os.close(held)


def _make(pool: Path, image: str, source: DiskSource, boot: DirectBoot | None, tool: QemuImg) -> ImageInfo:
    disk, file = source.disk, pool / LAYERS / source.disk.file
    if origins.any_of((disk,)):
        raise BadImage(f"{disk.name} of {source.vm} still stands on a backup: ask again once its data has come home")
    if not file.is_file():
        raise BadImage(f"{disk.file} of {source.vm} is not there (any more): it was deleted, or never written")
    try:
        layers.beneath({disk.pool: pool}, disk, disks.base_of(pool, disk.image) if disk.image else None)
    except CannotStart as error:
        raise BadImage(f"{disk.name} of {source.vm} cannot be read: {error}") from error
    folder = pool / "images"
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as aside:
        Path(aside).chmod(0o755)
        made = Path(aside) / "made"
        made.mkdir(mode=0o755)
        target = made / f"disk.{DiskFormat.QCOW2}"
        tool.flatten(file, disk.format, target)
        target.chmod(0o644)
        info = images.inspect_made(target, DiskFormat.QCOW2, tool)
        _boot_files(folder, source, boot, made)
        manifest = images.Manifest(image, info.format, info.size_mib, info.sha256, boot, made_of=made_of(source))
        (made / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        images.publish(made, folder / images.plain(image))
    return info


def _boot_files(folder: Path, source: DiskSource, boot: DirectBoot | None, made: Path) -> None:
    for name in (boot.kernel, boot.initrd) if boot is not None else ():
        images.copy(folder / images.plain(source.boot_image) / images.plain(name), made / name, limit=images.BOOT_BYTES_MAX)


def made_of(source: DiskSource) -> str:
    return f"{source.vm}/{source.disk.name}/{source.disk.file}"


def _same(present: images.Manifest, source: DiskSource, boot: DirectBoot | None) -> ImageInfo:
    """Of an order that is heard again. Raises BadImage."""
    if present.made_of != made_of(source) or present.boot != boot:
        raise BadImage(f"there is another image {present.name!r} (sha256 {present.sha256}): remove it first or take another name")
    return ImageInfo(format=present.format, size_mib=present.size_mib, sha256=present.sha256)
