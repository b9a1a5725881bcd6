"""Which store a pool of a node has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from services.node.drivers.qemu.stores import Store
from services.node.drivers.qemu.stores.folder import Folder, Maker
from services.node.drivers.qemu.stores.nbd import NbdStore
from services.node.drivers.qemu.stores.rbd import RbdStore
from services.node.drivers.qemu.stores.settings import Nbd, Remote


def store_of(name: str, pools: Mapping[str, Path], remotes: Mapping[str, Remote], maker: Maker) -> Store:
    """Raises KeyError for a pool that the node does not have."""
    at = remotes.get(name)
    if at is None:
        return Folder(pools[name], maker)
    return NbdStore(name, at) if isinstance(at, Nbd) else RbdStore(name, at)
