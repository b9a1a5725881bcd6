"""A part of SimulatedDriver: keys of backups. A simulated node keeps their ids, and nothing is encrypted by them. What is sealed
for it is so by its name, as nothing is secret there."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from libs.common import backup_key
from libs.common.backup_key import BadBackupKey
from services.node.drivers import DriverError

if TYPE_CHECKING:
    from services.node.drivers.simhost import SimHost


def _private(node: str) -> bytes:
    return hashlib.sha256(b"asv-simulated\0" + node.encode()).digest()


def public(node: str) -> str:
    """As Capabilities.move_key."""
    from nacl.bindings import crypto_scalarmult_base

    return base64.b64encode(crypto_scalarmult_base(_private(node))).decode()


def take(host: SimHost, sealed: bytes) -> str:
    """As Driver.take_key."""
    try:
        key = backup_key.unseal(sealed, host.node, _private(host.node))
    except BadBackupKey as error:
        raise DriverError(f"{host.node} does not keep the key: {error}") from error
    host.keys.add(key.id)
    return key.id
