"""A key by which backups are encrypted: 256 random bits, its name and its fingerprint, in a file that can be printed.

    asv-backup-key 1
    main-3f2a9c41d07be856
    9f0c…                       64 hexadecimal digits

Its id, NAME-FINGERPRINT, is all that messages and the log have of it. The fingerprint is of the name and the key: a file that was
changed is not taken. On its way to a node it is sealed by that node's public key (libsodium's sealed box), so that nobody on the
way can read it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from libs.common.secrets import PRIVATE, SecretError

KEY_BYTES = 32
FILE_BYTES_MAX = 4096
HEAD = "asv-backup-key 1"
NAME = r"^[a-z0-9][a-z0-9-]{0,30}$"
_SEALED, _SMALL = b"asv-backup-key-1\0", b"asv-backup-file-1\0"


class BadBackupKey(SecretError):
    """The file is none, or was changed, or what was sealed is not for this node."""


@dataclass(frozen=True, slots=True)
class BackupKey:
    """secret: what LUKS takes as its passphrase; it is in no text that is made of this."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """As a file has it."""
        return f"{HEAD}\n{self.id}\n{self.secret}\n"


def make(name: str) -> BackupKey:
    """A new one. Raises ValueError for a name that is none."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} is no name of a key: small letters, digits and dashes, at most 31")
    secret = secrets.token_bytes(KEY_BYTES).hex()
    return BackupKey(f"{name}-{_fingerprint(name, secret)}", secret)


def _fingerprint(name: str, secret: str) -> str:
    return hashlib.sha256(b"asv-backup-key-id-1\0" + f"{name}\0{secret}".encode()).hexdigest()[:16]


def parse(text: str, what: str) -> BackupKey:
    """what: where it is from, for a sentence. Raises BadBackupKey."""
    lines = text.strip().splitlines()
    if len(lines) != 3 or lines[0].strip() != HEAD:
        raise BadBackupKey(f"{what} is no key of backups: its first line should be {HEAD!r}, and two more should follow")
    id, secret = lines[1].strip(), lines[2].strip()
    if not re.fullmatch(r"[0-9a-f]{64}", secret):
        raise BadBackupKey(f"{what}: its third line should be {2 * KEY_BYTES} hexadecimal digits")
    name, _, fingerprint = id.rpartition("-")
    if not re.fullmatch(NAME, name) or fingerprint != _fingerprint(name, secret):
        raise BadBackupKey(f"{what} says that it is {id[:60]!r}, and is not: the name or a digit was changed")
    return BackupKey(id, secret)


def load(path: Path) -> BackupKey:
    """Raises BadBackupKey, also for a file that others may read."""
    try:
        with path.open("rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise BadBackupKey(f"{path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise BadBackupKey(f"{path} is readable by others: its mode must be 0600")
    return parse(data.decode(errors="replace"), str(path))


def save(path: Path, key: BackupKey) -> None:
    """Durable, readable by its owner only; what is there is never overwritten. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE), "w") as file:
            file.write(key.text)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        draft.unlink(missing_ok=True)


# --- on its way to a node --------------------------------------------------------------------------------------------


def seal(key: BackupKey, node: str, public: str) -> bytes:
    """public: the node's X25519 key, in base64 (Capabilities.move_key). Raises BadBackupKey where it is none."""
    from nacl.exceptions import CryptoError
    from nacl.public import PublicKey, SealedBox

    try:
        box = SealedBox(PublicKey(base64.b64decode(public, validate=True)))
        return bytes(box.encrypt(_SEALED + f"{node}\0{key.text}".encode()))
    except (binascii.Error, ValueError, TypeError, CryptoError):
        raise BadBackupKey(f"{node} has told no key by which a secret could be sealed for it: its agent is too old") from None


def unseal(sealed: bytes, node: str, private: bytes) -> BackupKey:
    """Raises BadBackupKey."""
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    try:
        opened = bytes(SealedBox(PrivateKey(private)).decrypt(sealed))
    except (ValueError, TypeError, CryptoError):
        raise BadBackupKey(f"what was sent was not sealed for {node}, or was changed on its way") from None
    head = _SEALED + node.encode() + b"\0"
    if not opened.startswith(head):
        raise BadBackupKey(f"what was sent is no key of backups for {node}")
    return parse(opened[len(head) :].decode(errors="replace"), "what was sent")


# --- small files beside a disk's -------------------------------------------------------------------------------------


def shut(key: BackupKey, plain: bytes) -> bytes:
    """Encrypted, so that a change is seen (XSalsa20 and Poly1305), by a key made of this one."""
    from nacl.secret import SecretBox

    return bytes(SecretBox(_for_files(key)).encrypt(plain))


def opened(key: BackupKey, shut: bytes) -> bytes:
    """Raises BadBackupKey."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    try:
        return bytes(SecretBox(_for_files(key)).decrypt(shut))
    except (ValueError, CryptoError):
        raise BadBackupKey(f"it cannot be opened by the key {key.id}: it was changed") from None


def _for_files(key: BackupKey) -> bytes:
    return hashlib.sha256(_SMALL + key.secret.encode()).digest()
