"""Keys and credentials: every service and agent makes its own key pair; the seed never leaves its file.

NATS keys are ed25519; in text they are base32 of a prefix byte, the key and a CRC-16, so that `U…` is a user's public key and
`SU…` its seed.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import nacl.exceptions
import nacl.signing
import nkeys  # type: ignore[import-untyped]

PRIVATE = 0o600
KEY_BYTES = 35
"""a public key in text, decoded: prefix, 32 bytes, CRC-16"""
_PREFIX = {"operator": nkeys.PREFIX_BYTE_OPERATOR, "account": nkeys.PREFIX_BYTE_ACCOUNT, "user": nkeys.PREFIX_BYTE_USER}


class BadCredentials(Exception):
    """A key or credentials file is not what it should be; the text names the file."""


class Key:
    """A key pair from its seed."""

    def __init__(self, seed: bytes) -> None:
        try:
            self._pair: Any = nkeys.from_seed(bytearray(seed.strip()))
            self.public: str = self._pair.public_key.decode()
        except Exception as error:
            raise BadCredentials("not a NATS seed: it should begin with SO, SA or SU and have 58 characters") from error

    def sign(self, data: bytes) -> bytes:
        return bytes(self._pair.sign(data))


def signed_by(public: str, data: bytes, signature: bytes) -> bool:
    """Whether the owner of that public key signed just this. Raises BadCredentials where it is no public key."""
    try:
        raw = base64.b32decode(public)
        if len(raw) != KEY_BYTES or nkeys.crc16(bytearray(raw[:-2])) != int.from_bytes(raw[-2:], "little"):
            raise ValueError(public)
        key = nacl.signing.VerifyKey(raw[1:-2])
    except ValueError as error:  # binascii.Error is one
        said = "it should begin with O, A or U and have 56 characters"
        raise BadCredentials(f"`{public[:80]}` is no public NATS key: {said}") from error
    try:
        key.verify(data, signature)
    except (nacl.exceptions.BadSignatureError, ValueError):
        return False
    return True


def new_seed(kind: str) -> bytes:
    """A fresh seed; kind: `operator`, `account` or `user`."""
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), _PREFIX[kind]))


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by the owner only, on disk when it returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def own_key(path: Path) -> Key:
    """The key pair whose seed is in this file; made on the first call. Raises BadCredentials."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, new_seed("user") + b"\n")
    return key_from(path)


def key_from(path: Path) -> Key:
    """Raises BadCredentials for a file that is missing, readable by others, or no seed."""
    try:
        if path.stat().st_mode & 0o077:
            raise BadCredentials(f"{path} is readable by others: its mode must be 0600")
        return Key(path.read_bytes())
    except OSError as error:
        raise BadCredentials(f"cannot read the key {path}: {error.strerror}") from error
    except BadCredentials as error:
        raise BadCredentials(f"{path}: {error}") from error


class Credentials:
    """Who we are on the bus: `<name>.jwt` and `<name>.seed` in a folder. Both are read anew at each connection, so that a
    renewed JWT needs no restart."""

    def __init__(self, name: str, jwt: Callable[[], str], key: Callable[[], Key]) -> None:
        self.name = name
        self._jwt = jwt
        self._key = key

    @classmethod
    def load(cls, folder: Path, name: str) -> Credentials:
        """Raises BadCredentials at once when a file is missing or unreadable."""
        jwt, seed = folder / f"{name}.jwt", folder / f"{name}.seed"
        found = cls(name, lambda: _read_jwt(jwt), lambda: key_from(seed))
        found.jwt_bytes()
        key_from(seed)
        return found

    @classmethod
    def of(cls, name: str, jwt: str, seed: bytes) -> Credentials:
        """From values, for tests and for handing them to a child."""
        return cls(name, lambda: jwt, lambda: Key(seed))

    def jwt_bytes(self) -> bytes:
        return self._jwt().encode()

    def sign_nonce(self, nonce: str) -> bytes:
        """The server's challenge, signed; base64."""
        return base64.b64encode(self._key().sign(nonce.encode()))


def _read_jwt(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise BadCredentials(f"cannot read the credentials {path}: {error.strerror}") from error


class Renewal(msgspec.Struct, frozen=True):
    """What a JWT says about itself, unverified: its holder's name, public key, and end (seconds since the epoch; 0: none)."""

    name: str
    public_key: str
    expires_s: int


def read_jwt(jwt: str) -> Renewal:
    """Raises BadCredentials."""
    try:
        middle = jwt.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return Renewal(name=claims["name"], public_key=claims["sub"], expires_s=int(claims.get("exp", 0)))
    except (IndexError, KeyError, ValueError, TypeError, msgspec.DecodeError) as error:
        raise BadCredentials("not a NATS JWT: it should be three base64url parts with dots between them") from error
