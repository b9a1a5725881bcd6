"""Secrets never enter the log: a message holds a `Secret`, which is only a reference. The ciphertext lies in a table of its own,
the key in a file outside the database.

    ref = await store.put(b"…")               # -> Secret(ref="…"), safe in commands, events, traces and exports
    plain = await store.get(secret)           # at the place of use only, never kept

A key file has one line per key, `ID BASE64`, the newest first: it encrypts; the others still decrypt, until `rekey` has moved
what they hold.

    SecretError
      UnknownSecret   there is none under that reference
      BadKey          the key file is unusable, or the secret was made under a key that is not in it, or was tampered with
      SecretsAway     their table cannot be read just now
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from libs.common.messages import Value

KEY_BYTES = 32
SECRET_BYTES_MAX = 1024 * 1024
PRIVATE = 0o600
Ref = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]


class SecretError(Exception):
    """Its text never holds what is secret."""


class UnknownSecret(SecretError):
    """There is none under that reference."""


class BadKey(SecretError):
    """The key file is unusable, or it lacks the key, or the ciphertext was changed."""


class SecretsAway(SecretError):
    """The table cannot be reached; ask again."""


class Secret(Value):
    """A reference to a secret: all that messages may hold of one."""

    ref: Ref


class Keys:
    """The keys of a file: ids and 32 bytes each; the first encrypts. PyNaCl's SecretBox: XSalsa20 and Poly1305."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self.current = next(iter(keys))
        self._boxes: dict[str, Any] = {id: _box(key) for id, key in keys.items()}

    @classmethod
    def create(cls, path: Path) -> Keys:
        """The keys in this file; it is made, with one key and mode 0600, when it is not there. Raises BadKey."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
        except FileExistsError:
            return cls.load(path)
        with os.fdopen(descriptor, "w") as file:
            file.write(_line())
            file.flush()
            os.fsync(file.fileno())
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Keys:
        """Raises BadKey for a file that is missing, readable by others, or not of the right form."""
        try:
            if path.stat().st_mode & 0o077:
                raise BadKey(f"{path} is readable by others: its mode must be 0600")
            lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        except OSError as error:
            raise BadKey(f"cannot read the key file {path}: {error.strerror}") from error
        try:
            keys = {id: base64.b64decode(key, validate=True) for id, key in lines}
        except ValueError as error:
            raise BadKey(f"{path}: each line should be a key's id and its base64") from error
        if not keys or any(len(key) != KEY_BYTES for key in keys.values()):
            raise BadKey(f"{path} should hold at least one key, of {KEY_BYTES} bytes each")
        return cls(keys)

    @staticmethod
    def rotate(path: Path) -> Keys:
        """A new key in front of those in the file. Raises BadKey."""
        Keys.load(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
        with os.fdopen(descriptor, "w") as file:
            file.write(_line() + path.read_text())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return Keys.load(path)

    def encrypt(self, ref: str, plain: bytes) -> tuple[str, bytes]:
        """(key id, ciphertext). The reference is sealed in, so that rows cannot be exchanged for one another."""
        return self.current, bytes(self._boxes[self.current].encrypt(ref.encode() + plain))

    def decrypt(self, ref: str, key_id: str, ciphertext: bytes) -> bytes:
        """Raises BadKey."""
        from nacl.exceptions import CryptoError

        box = self._boxes.get(key_id)
        if box is None:
            raise BadKey(f"secret {ref} was made under the key {key_id!r}, which is not in the key file")
        try:
            opened = bytes(box.decrypt(ciphertext))
        except CryptoError:
            raise BadKey(f"secret {ref} cannot be opened: it was changed, or its key was") from None
        if not opened.startswith(ref.encode()):
            raise BadKey(f"secret {ref} holds another secret's ciphertext")
        return opened[len(ref) :]


class SecretStore(Protocol):
    """Kept by Postgres and by memory alike (tests/contract/test_secrets.py)."""

    async def put(self, plain: bytes, at_us: int) -> Secret:
        """Raises SecretError for more than SECRET_BYTES_MAX."""
        ...

    async def get(self, secret: Secret) -> bytes:
        """Raises UnknownSecret, BadKey."""
        ...

    async def forget(self, secret: Secret) -> None:
        """No error where there is none."""
        ...

    async def rekey(self) -> int:
        """Encrypt all under the current key; returns how many were moved."""
        ...


class MemorySecrets:
    """The in-memory twin. It encrypts as well, so that tests meet the same errors."""

    def __init__(self, keys: Keys) -> None:
        self.rows: dict[str, tuple[str, bytes]] = {}
        self._keys = keys

    async def put(self, plain: bytes, at_us: int) -> Secret:
        secret = new_secret(plain)
        self.rows[secret.ref] = self._keys.encrypt(secret.ref, plain)
        return secret

    async def get(self, secret: Secret) -> bytes:
        row = self.rows.get(secret.ref)
        if row is None:
            raise UnknownSecret(f"there is no secret {secret.ref}")
        return self._keys.decrypt(secret.ref, *row)

    async def forget(self, secret: Secret) -> None:
        self.rows.pop(secret.ref, None)

    async def rekey(self) -> int:
        old = [(ref, row) for ref, row in self.rows.items() if row[0] != self._keys.current]
        for ref, row in old:
            self.rows[ref] = self._keys.encrypt(ref, self._keys.decrypt(ref, *row))
        return len(old)


class PostgresSecrets:
    """In the table asv.secrets. `pool` is an asyncpg pool (or connection) whose role may use that table."""

    def __init__(self, pool: Any, keys: Keys) -> None:
        self._pool = pool
        self._keys = keys

    async def put(self, plain: bytes, at_us: int) -> Secret:
        secret = new_secret(plain)
        key_id, ciphertext = self._keys.encrypt(secret.ref, plain)
        insert = "insert into asv.secrets (ref, key_id, ciphertext, at_us) values ($1, $2, $3, $4)"
        await self._pool.execute(insert, secret.ref, key_id, ciphertext, at_us)
        return secret

    async def get(self, secret: Secret) -> bytes:
        row = await self._pool.fetchrow("select key_id, ciphertext from asv.secrets where ref = $1", secret.ref)
        if row is None:
            raise UnknownSecret(f"there is no secret {secret.ref}")
        return self._keys.decrypt(secret.ref, row["key_id"], row["ciphertext"])

    async def forget(self, secret: Secret) -> None:
        await self._pool.execute("delete from asv.secrets where ref = $1", secret.ref)

    async def rekey(self) -> int:
        select = "select ref, key_id, ciphertext from asv.secrets where key_id <> $1 order by ref"
        rows = await self._pool.fetch(select, self._keys.current)
        update = "update asv.secrets set key_id = $2, ciphertext = $3 where ref = $1 and key_id = $4"
        for row in rows:
            plain = self._keys.decrypt(row["ref"], row["key_id"], row["ciphertext"])
            await self._pool.execute(update, row["ref"], *self._keys.encrypt(row["ref"], plain), row["key_id"])
        return len(rows)


def new_secret(plain: bytes) -> Secret:
    """A fresh reference, by chance: it says nothing about what it stands for. Raises SecretError for too much."""
    if len(plain) > SECRET_BYTES_MAX:
        raise SecretError(f"a secret of {len(plain)} bytes; at most {SECRET_BYTES_MAX} are kept")
    return Secret(ref=secrets.token_hex(16))


def _line() -> str:
    return f"{secrets.token_hex(4)} {base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n"


def _box(key: bytes) -> Any:
    from nacl.secret import SecretBox

    return SecretBox(key)
