"""What keeps guests' memory and disks secret on their way between hosts: TLS with a key that only the two nodes can know.

Each node has an X25519 key pair; the public half is among its capabilities, so that the log says whose it is. Of its own private
half, the other's public one and the generation that moves, either side makes the same key (SHA-256 over the shared point), and
QEMU's TLS is opened by it (pre-shared key, with an exchange of its own that keeps old streams secret). No message carries a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from services.node.drivers import CannotMove

KEY_BYTES = 32
NAME = "asv"
"""QEMU's word for who opens a connection; there is one key for each move"""


def own_key(folder: Path) -> bytes:
    """This node's private key, made at the first time. Raises OSError."""
    path = folder / "move.key"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = os.urandom(KEY_BYTES)
        draft = folder / f".move.key.{os.getpid()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        draft.replace(path)
    if len(data) != KEY_BYTES:
        raise OSError(f"{path} holds {len(data)} bytes and should hold {KEY_BYTES}; remove it, and a new one is made")
    return data


def public(key: bytes) -> str:
    return base64.b64encode(crypto_scalarmult_base(key)).decode()


def psk(key: bytes, peer: str, vm: str, generation: int) -> str:
    """The line of QEMU's key file for one move. Raises CannotMove where the other node's key is none."""
    if not peer:
        raise CannotMove("the other node has told no key for moves between hosts; its agent is too old")
    try:
        shared = crypto_scalarmult(key, base64.b64decode(peer, validate=True))
    except (binascii.Error, ValueError, TypeError, CryptoError) as error:
        raise CannotMove(f"the other node's key for moves is none: {error}") from None
    secret = hashlib.sha256(b"asv-move-1\0" + shared + f"\0{vm}\0{generation}".encode()).hexdigest()
    return f"{NAME}:{secret}\n"
