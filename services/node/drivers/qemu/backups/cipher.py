"""Files of backups that are encrypted: qcow2 whose clusters are by LUKS (AES-256-XTS, a key of its own for each file, which a key
of the node's ring opens). What is encrypted is all that a guest sees; which clusters there are, and on what the file stands, is
not.

PBKDF2 is for passphrases that people think of. Ours is 256 random bits, so that it is stretched as little as LUKS allows: opening
a file takes 10 ms instead of 2 s. But QEMU measures how fast the host is for each file that it makes, whatever it is asked for,
and takes 2 s of a CPU for that. So files are made beforehand, small, and grown as they are used: each is used once.

Compressed clusters are written past the encryption by QEMU (7.2), in the clear: never both.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.common import backup_key
from libs.common.backup_key import BackupKey
from proto.machine import DiskFormat
from services.node.drivers import CannotStart, DriverError
from services.node.drivers.qemu.argv import secret_words
from services.node.drivers.qemu.backups.jobs import KEY, Blocks
from services.node.drivers.qemu.devices import secret_id
from services.node.drivers.qemu.keyring import Keyring, in_memory, told
from services.node.drivers.qemu.qemu_img import QemuImg, handed_over, sync

ITER_MS, HASH = 1, "sha512"
"""of LUKS' stretching. Processors have no instruction for this one: the shortest of QEMU's measurements takes some ms, then"""
UNMEASURED, TRIES_MAX = "Unable to get accurate CPU usage", 5
"""in QEMU's words, where the host counts CPU time so coarsely that it saw none: it is asked again"""
BLANK_BYTES = 1 << 20
BLANKS_MAX = 4
"""made beforehand of each key. A VM with more disks waits 2 s for each that is missing"""
PIECE_BYTES = 4096
SUFFIX = ".qcow2"
FOLDER = "backup-blanks"


class Blanks:
    """Empty encrypted files of this node, each for one use. Blocking, from any thread."""

    def __init__(self, state: Path, ring: Keyring, tool: QemuImg) -> None:
        self._folder = state / FOLDER
        self._ring = ring
        self._tool = tool
        self._making = threading.Lock()

    def take(self, key: BackupKey) -> Path:
        """One that nobody else has, or ever had: the taker's to remove. Raises CannotStart, OSError."""
        folder = self._of(key)
        for path in sorted(folder.glob(f"[0-9a-f]*{SUFFIX}")):
            mine = folder / f".used-{path.name}"
            with suppress(FileNotFoundError):
                path.rename(mine)
                return mine
        return self._made(key, ".used-")

    def fill(self, id: str, gone: threading.Event, count: int = 0) -> None:
        """Until there are so many (0: BLANKS_MAX), or `gone` is set. Raises DriverError, OSError."""
        key = self._ring.key(id)
        folder, enough = self._of(key), False
        while not (gone.is_set() or enough):
            with self._making:  # whoever needs one waits for one only
                enough = len(list(folder.glob(f"[0-9a-f]*{SUFFIX}"))) >= (count or BLANKS_MAX)
                if not enough:
                    self._made(key, "")

    def tidy(self) -> None:
        """What an earlier agent was cut short at is of no use."""
        for path in self._folder.glob("*/.*") if self._folder.is_dir() else ():
            path.unlink(missing_ok=True)

    def drop(self, id: str) -> None:
        """The key is the node's no more."""
        folder = self._folder / id
        for path in folder.iterdir() if folder.is_dir() else ():
            path.unlink(missing_ok=True)

    def _of(self, key: BackupKey) -> Path:
        folder = self._folder / key.id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _made(self, key: BackupKey, prefix: str) -> Path:
        path = self._of(key) / f"{prefix}{secrets.token_hex(8)}{SUFFIX}"
        with ExitStack() as open_files:
            fd = in_memory(key, open_files)
            how = f"encrypt.key-secret={secret_id(key.id)},encrypt.iter-time={ITER_MS},encrypt.hash-alg={HASH}"
            words = ["create", "-q", *_secret(key.id, fd), "-f", DiskFormat.QCOW2, "-o", f"encrypt.format=luks,{how}"]
            for tries in range(1, TRIES_MAX + 1):
                try:
                    self._tool.make(path, lambda draft: [*words, draft, str(BLANK_BYTES)], (fd,))
                    break
                except CannotStart as error:
                    if UNMEASURED not in str(error) or tries == TRIES_MAX:
                        raise
        return path


@dataclass(frozen=True, slots=True)
class Cipher:
    """How the files of one backup are made and opened. key: None: they are not encrypted."""

    tool: QemuImg
    blanks: Blanks | None = None
    key: BackupKey | None = None

    @property
    def words(self) -> dict[str, Any]:
        """Of a block node of such a file, in addition."""
        return {"encrypt": {"format": "luks", "key-secret": KEY + self.key.id}} if self.key is not None else {}

    def saved(self, file: Path, size_bytes: int, base: str, *, compressed: bool) -> None:
        """As QemuImg.saved. Raises CannotStart, OSError."""
        if self.key is None:
            self.tool.saved(file, size_bytes, base, compressed=compressed)
            return
        if compressed:
            raise CannotStart(BOTH)
        assert self.blanks is not None, "whoever has a key has where its files are made"
        if file.exists():
            raise CannotStart(f"{file} is there already: it is never overwritten")
        blank = self.blanks.take(self.key)
        draft = file.with_name(f".{file.name}.draft")
        try:
            _copy(blank, draft)
            self._grow(draft, size_bytes, base)
            sync(draft)
            draft.rename(file)
            sync(file.parent)
        finally:
            blank.unlink(missing_ok=True)
            draft.unlink(missing_ok=True)

    def _grow(self, draft: Path, size_bytes: int, base: str) -> None:
        """Raises CannotStart."""
        assert self.key is not None
        with ExitStack() as open_files, handed_over(draft) as (name, fds):
            fd = in_memory(self.key, open_files)
            secret, how = _secret(self.key.id, fd), f"encrypt.format=luks,encrypt.key-secret={secret_id(self.key.id)}"
            image = ("--image-opts", f"driver=qcow2,file.driver=file,file.filename={name},{how}")
            try:
                self.tool.run(["resize", "-q", *secret, *image, str(size_bytes)], (fd, *fds))
                if base:
                    self.tool.run(["rebase", "-q", *secret, "-u", "-b", base, "-F", DiskFormat.QCOW2, *image], (fd, *fds))
            except DriverError as error:
                raise CannotStart(f"{draft.name} cannot be made: {error}") from error

    def copied(self, source: Path, target: Path) -> None:
        """A small file that is no disk. Raises OSError."""
        if self.key is not None:
            target.write_bytes(backup_key.shut(self.key, source.read_bytes()))
        else:
            shutil.copyfile(source, target)

    @asynccontextmanager
    async def told(self, blocks: Blocks) -> AsyncIterator[None]:
        """The QEMU knows the key while files are opened, and forgets it then. Raises DriverError."""
        async with told(blocks, (self.key,) if self.key is not None else (), KEY):
            yield


def _secret(key: str, fd: int) -> tuple[str, str]:
    """In qemu-img's words, which has two dashes for it."""
    option, value = secret_words(key, fd)
    return f"-{option}", value


BOTH = "what is compressed cannot be encrypted: QEMU would write it in the clear"


def _copy(source: Path, target: Path) -> None:
    """With its holes: LUKS keeps 2 MiB for keys that there are not. It is the same user's."""
    with source.open("rb") as read, target.open("xb") as written:
        while piece := read.read(PIECE_BYTES):
            if any(piece):
                written.write(piece)
            else:
                written.seek(len(piece), os.SEEK_CUR)
        written.truncate()
    target.chmod(0o600)
    if os.geteuid() == 0:
        seen = source.stat()
        os.chown(target, seen.st_uid, seen.st_gid)
