"""Guests that move: QEMU's side of `receive`, `activate`, `send` and `recall`.

    there  -incoming defer, -S ──▶ migrate-incoming ──▶ (stream) ──▶ whole ── lease, lock ──▶ paused ── cont
    here   migrate fd:… ──▶ completed (postmigrate: stopped, disks let go) ── killed

`return-path` makes `completed` here mean that the other side has loaded all of it. `late-block-activate` keeps the other side's
hands off the disks until `cont`. The agent connects the two and hands QEMU the open socket: QEMU needs no way to the other's
folder. The lock beside the disks (lease.hold) is free only once the former process is gone, and is handed to QEMU as an open file.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proto.node import Sending
from services.node.drivers import CannotMove, Locked
from services.node.drivers.qemu import lease
from services.node.drivers.qemu.launch import Host
from services.node.drivers.qemu.process import host_boot_id

SOCKET = "incoming"
DISKS = "disks"
CONNECT_S_MAX = 5.0
CAPABILITIES = {"events": True, "return-path": True}
BANDWIDTH_BYTES_PER_S = 1 << 30
DOWNTIME_MS_MAX = 300
"""QEMU stops the guest once what is left can be sent in so long"""
UNDER_WAY = ("setup", "active", "device", "pre-switchover", "cancelling", "wait-unplug")
MIB = 1 << 20


def capabilities(**more: bool) -> dict[str, Any]:
    return {"capabilities": [{"capability": name, "state": on} for name, on in (CAPABILITIES | more).items()]}


def uri(host: Host) -> str:
    """Where QEMU is to listen; its working folder is its own."""
    return f"tcp:{host.moves_at}:0" if host.moves_at else f"unix:{SOCKET}"


def address(host: Host, own: Path, found: dict[str, Any], disks_port: int = 0) -> str:
    """Where it listens, for the other node; found: `query-migrate`. Raises CannotMove.

        unix:FOLDER/incoming   disks beside it at FOLDER/disks
        tcp:HOST:PORT+PORT     the second one, if there is one, for disks
    """
    if not host.moves_at:
        return f"unix:{own / SOCKET}"
    for at in found.get("socket-address", ()):
        if at.get("type") == "inet":
            return f"tcp:{host.moves_at}:{at['port']}" + (f"+{disks_port}" if disks_port else "")
    raise CannotMove(f"QEMU does not listen on {host.moves_at}")


def crosses(address: str) -> bool:
    """From host to host, so that nothing may be in the clear."""
    return address.startswith("tcp:")


def for_memory(address: str) -> str:
    return address.partition("+")[0] if crosses(address) else address


def for_disks(address: str) -> str:
    if not crosses(address):
        return f"{address.rpartition('/')[0]}/{DISKS}"
    at, _, port = address.partition("+")
    return f"{at.rpartition(':')[0]}:{port}"


@contextmanager
def listening(host: Host, own: Path) -> Iterator[socket.socket]:
    """Where the source's QEMU reaches the disks, for the target's QEMU to take over."""
    if host.moves_at:
        kind = socket.AF_INET6 if ":" in host.moves_at else socket.AF_INET
        with socket.create_server((host.moves_at, 0), family=kind, backlog=4) as sock:
            yield sock
        return
    with socket.socket(socket.AF_UNIX) as sock:
        folder = os.open(own, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.bind(f"/proc/self/fd/{folder}/{DISKS}")
        finally:
            os.close(folder)
        (own / DISKS).chmod(0o600)
        sock.listen(4)
        yield sock


def dial(address: str) -> socket.socket:
    """Blocking. Raises CannotMove. The path of a unix socket may be longer than its address can hold: it is named by its folder."""
    kind, _, where = address.partition(":")
    try:
        if kind == "tcp":
            name, _, port = where.rpartition(":")
            return socket.create_connection((name, int(port)), CONNECT_S_MAX)
        path = Path(where)
        sock = socket.socket(socket.AF_UNIX)
        try:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sock.settimeout(CONNECT_S_MAX)
                sock.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, ValueError) as error:
        raise CannotMove(f"nobody waits at {address}: {error}") from error


def take_over(host: Host, vm: str, generation: int, pid: int, pools: tuple[str, ...]) -> list[int]:
    """Open files with the VM's locks, one a pool, for the process to keep; the lease is this node's then. None where the
    process has it already. Blocking. Raises Locked, LeaseRefused; then nothing is held."""
    held: list[int] = []
    try:
        for name in pools:
            pool = host.pools[name]
            try:
                held.append(lease.hold(pool, vm))
            except Locked:
                if not lease.holds(pool, vm, pid):
                    raise
        for name in pools:
            lease.take(host.pools[name], lease.Lease(vm, generation, host.node, host_boot_id()))
    except BaseException:
        for fd in held:
            os.close(fd)
        raise
    return held


def progress(found: dict[str, Any]) -> Sending | None:
    """What `query-migrate` says, while it is under way."""
    ram = found.get("ram")
    if found.get("status") not in UNDER_WAY or not ram:
        return None
    return Sending(
        sent_mib=int(ram["transferred"]) // MIB,
        remaining_mib=-(-int(ram["remaining"]) // MIB),
        memory_mib=int(ram["total"]) // MIB,
        round=int(ram.get("dirty-sync-count", 0)),
    )


async def connected(address: str) -> socket.socket:
    return await asyncio.to_thread(dial, address)
