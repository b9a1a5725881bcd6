"""Layers that leave a VM which does not run: qemu-img copies them upwards. Blocking."""

from __future__ import annotations

import os
from itertools import pairwise

from proto.machine import Disk
from services.node.drivers import Locked
from services.node.drivers.qemu import disks, lease
from services.node.drivers.qemu.devices import LAYERS, Backing
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.layers import named, seal
from services.node.drivers.qemu.making import ready
from services.node.drivers.qemu.process import uid_for


def merge(host: Host, vm: str, wanted: tuple[Disk, ...]) -> None:
    """At rest: what is leaving goes up into the file above it. May be cut short and done again at any time. Raises Locked where the
    VM runs (here or elsewhere), DriverError, OSError."""
    uid = uid_for(vm)
    held = [lease.hold(host.pools[name], vm) for name in sorted({d.pool for d in wanted})]
    try:
        for disk in wanted:
            _merge(host, vm, disk, uid)
    finally:
        for fd in held:
            os.close(fd)


def _merge(host: Host, vm: str, disk: Disk, uid: int | None) -> None:
    pool = host.pools[disk.pool]
    image = disks.base_of(pool, disk.image) if disk.image else None
    leaving = {f"{LAYERS}{layer.file}" for layer in disk.layers if layer.leaving}
    chain = (Backing(f"{LAYERS}{disk.file}", disk.format), *ready(host, disk, image, uid))
    for above, first in pairwise(chain):
        if first.file not in leaving or above.file in leaving:
            continue
        rest = chain[chain.index(first) :]
        below = next((base for base in rest if base.file not in leaving), None)
        file = pool / above.file
        if disks.is_open(file):
            raise Locked(f"{file} is open: {vm} runs, here or on another node")
        file.chmod(0o600)
        host.maker.rebase(file, named(below) if below else "", below.format if below else None)
        if above is not chain[0]:
            seal(file, uid)
