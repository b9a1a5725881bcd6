"""Where backups lie in a pool, and what is in a manifest. Blocking.

    <pool>/backups/<vm>/<backup>/<vm>-<disk>.<backup>.qcow2     a disk; on its parent's, whose name its header has, relative
    <pool>/backups/<vm>/<backup>/<vm>-<disk>.<backup>.vars      its UEFI variables, where it has some
    <pool>/backups/<vm>/<backup>/manifest.json
    <pool>/backups/<vm>/.making-<backup>/                       not whole yet, and nobody's
    <pool>/backups/<vm>/.reads-<disk>.json                      what its guest touches first (reads.py); gone with the last backup

In a pool that is no folder the first is a claim, which says where the qcow2 lies (claims.py).

Only the agent passes these folders. The files are of nobody, so that qemu-img, who is that, can read what it is handed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from proto.backups import BackupDone, Definition, SavedDisk
from services.node.drivers import DriverError
from services.node.drivers.qemu.backups.media import Files, Media
from services.node.drivers.qemu.qemu_img import sync

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 20
MAKING, REMOVING, STRAY = ".making-", ".removing-", ".stray-"
READS = ".reads-"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a cluster needs that has lost its log. format: of this file; done: as it was reported, its disks as they are now;
    key: by which they are encrypted, "": they are not."""

    format: int = FORMAT
    vm: str
    backup: str
    kind: str
    parent: str
    at_us: int
    definition: Definition
    disks: tuple[SavedDisk, ...]
    done: BackupDone
    key: str = ""


class Shelf:
    """The backups of one VM in one pool. media: what their disks are written to."""

    def __init__(self, pool: Path, vm: str, media: Media | None = None) -> None:
        self.vm = vm
        self.media = media or Files(pool)
        self.path = pool / "backups" / vm

    def folder(self, backup: str) -> Path:
        return self.path / backup

    def making(self, backup: str) -> Path:
        return self.path / f"{MAKING}{backup}"

    def file_of(self, disk: str, backup: str) -> str:
        return f"{self.vm}-{disk}.{backup}.qcow2"

    def vars_of(self, disk: str, backup: str) -> str:
        return f"{self.vm}-{disk}.{backup}.vars"

    def named(self, backup: str, file: str) -> str:
        """As a header beside it names it."""
        return f"../{backup}/{file}"

    def begin(self, backup: str) -> Path:
        """An empty folder, for what is to be whole or not there at all."""
        self.drop(backup)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        folder = self.making(backup)
        folder.mkdir(mode=0o700)
        return folder

    def drop(self, backup: str, *, clean: bool = False) -> None:
        """What was not made whole, or not removed whole. clean: whoever wrote it has let go of it."""
        self._away(self.path / f"{MAKING}{backup}", clean=clean)
        self._away(self.path / f"{REMOVING}{backup}", clean=True)
        self._tidy()

    def _away(self, folder: Path, *, clean: bool = False) -> None:
        if not folder.exists():
            return
        for path in folder.iterdir():
            self.media.empty(path, clean=clean)  # a QEMU whose guest is paused keeps files open that it was told to close
        with self.media.changing():
            shutil.rmtree(folder)

    def strand(self, backup: str) -> None:
        """A QEMU may still write there, whatever it was told: nobody else is to have that room until it has ended."""
        if self.making(backup).exists():
            with self.media.changing():
                self.making(backup).rename(self.path / f"{STRAY}{backup}")

    def clear_strays(self) -> None:
        """Those who may have written there have ended."""
        for folder in sorted(self.path.glob(f"{STRAY}*")) if self.path.exists() else ():
            self._away(folder)

    def publish(self, manifest: Manifest) -> None:
        """From here on it is there, whole."""
        folder = self.making(manifest.backup)
        write(folder, manifest)
        with self.media.changing():
            folder.rename(self.folder(manifest.backup))
        sync(self.path)
        sync(self.path.parent)

    def remove(self, backup: str) -> None:
        """Not there any more, whatever befalls us on the way."""
        if self.folder(backup).exists():
            with self.media.changing():
                self.folder(backup).rename(self.path / f"{REMOVING}{backup}")
            sync(self.path)
        self.drop(backup)

    def how_full(self, pool: str, backup: str) -> str:
        """The pool, with what was written of a backup by now. Raises OSError, DriverError."""
        making = self.making(backup)
        return f"pool {pool} is full: {self.media.full(sorted(making.glob('*.qcow2')) if making.exists() else ())}"

    def _tidy(self) -> None:
        if not self.path.exists() or not all(path.name.startswith(READS) for path in self.path.iterdir()):
            return
        for path in self.path.iterdir():
            path.unlink()
        self.path.rmdir()

    def manifest(self, backup: str) -> Manifest | None:
        """None: there is no such backup. Raises DriverError where it cannot be read."""
        path = self.folder(backup) / MANIFEST
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(MANIFEST_BYTES_MAX), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise DriverError(f"the manifest of backup {backup} of {self.vm} cannot be read: {error}") from error


def reads_of(disk: str) -> str:
    """The file with what a guest touches first on that disk, in the folder of its VM's backups."""
    return f"{READS}{disk}.json"


def write(folder: Path, manifest: Manifest) -> None:
    """In the place of what is there, durable."""
    draft = folder / f"{MANIFEST}.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    draft.chmod(0o600)
    sync(draft)
    draft.replace(folder / MANIFEST)
    sync(folder)
