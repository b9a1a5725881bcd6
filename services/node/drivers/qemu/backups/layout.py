"""Where backups lie in a pool, and what is in a manifest. Blocking.

    <pool>/backups/<vm>/<backup>/<vm>-<disk>.<backup>.qcow2     a disk; on its parent's, whose name its header has, relative
    <pool>/backups/<vm>/<backup>/<vm>-<disk>.<backup>.vars      its UEFI variables, where it has some
    <pool>/backups/<vm>/<backup>/manifest.json
    <pool>/backups/<vm>/.making-<backup>/                       not whole yet, and nobody's

Only the agent passes these folders. The files are of nobody, so that qemu-img, who is that, can read what it is handed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

import msgspec

from proto.backups import BackupDone, Definition, SavedDisk
from services.node.drivers import DriverError
from services.node.drivers.qemu.qemu_img import sync

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 20
CHUNK_BYTES = 4 << 20
MAKING, REMOVING = ".making-", ".removing-"
SEALED = 0o400


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


class Abandoned(Exception):
    """Nobody waits for it any more."""


class Shelf:
    """The backups of one VM in one pool."""

    def __init__(self, pool: Path, vm: str) -> None:
        self.vm = vm
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

    def drop(self, backup: str) -> None:
        """What was not made whole, or not removed whole."""
        for word in (MAKING, REMOVING):
            if (folder := self.path / f"{word}{backup}").exists():
                for path in folder.iterdir():
                    os.truncate(path, 0)  # a QEMU whose guest is paused keeps files open that it was told to close
                shutil.rmtree(folder)
        self._tidy()

    def publish(self, manifest: Manifest) -> None:
        """From here on it is there, whole."""
        folder = self.making(manifest.backup)
        write(folder, manifest)
        folder.rename(self.folder(manifest.backup))
        sync(self.path)
        sync(self.path.parent)

    def remove(self, backup: str) -> None:
        """Not there any more, whatever befalls us on the way."""
        if self.folder(backup).exists():
            self.folder(backup).rename(self.path / f"{REMOVING}{backup}")
            sync(self.path)
        self.drop(backup)

    def _tidy(self) -> None:
        if self.path.exists() and not any(self.path.iterdir()):
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


def write(folder: Path, manifest: Manifest) -> None:
    """In the place of what is there, durable."""
    draft = folder / f"{MANIFEST}.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    draft.chmod(0o600)
    sync(draft)
    draft.replace(folder / MANIFEST)
    sync(folder)


def seal(path: Path) -> None:
    """Durable, and nobody writes it again."""
    sync(path)
    path.chmod(SEALED)


def digest(path: Path, gone: threading.Event) -> tuple[int, str]:
    """(bytes, SHA-256) of all that is in it. Raises OSError; Abandoned once `gone` is set."""
    found, read = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffer = memoryview(bytearray(CHUNK_BYTES))
        while count := file.readinto(buffer):
            if gone.is_set():
                raise Abandoned
            found.update(buffer[:count])
            read += count
    return read, found.hexdigest()
