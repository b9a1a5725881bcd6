"""Pools that are no folders, as ASV_POOLS names them, and how QEMU is to open a disk of theirs. Pure.

    net=nbd://10.0.0.5:10809?leases=/srv/asv-leases
    net=nbd+unix:///run/nbd.sock?leases=/srv/asv-leases
    safe=nbd://10.0.0.9:10809?leases=/srv/asv-safe&backups=asv
    ceph=rbd://POOL?conf=/etc/ceph/ceph.conf&user=asv&leases=/srv/asv-leases

`leases`: a folder that all nodes with this pool share. `backups`: the one export that backups lie in, each in a window of it.
Secrets are in none of it: `conf` is a file, which names the user's keyring.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from proto.machine import Disk
from proto.space import PoolKind

NBD_PORT = 10809
RECONNECT_S = 60
"""how long a guest's requests wait for a server that is away, before it is told of an error"""
WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SCHEMES = ("nbd", "nbd+unix", "rbd")


class Nbd(msgspec.Struct, frozen=True):
    """socket: of a server on this host; else host and port. backups: the export that backups lie in; "": it takes none."""

    host: str = ""
    port: int = 0
    socket: str = ""
    backups: str = ""
    kind = PoolKind.NBD

    @property
    def server(self) -> str:
        return self.socket or f"{self.host}:{self.port}"


class Rbd(msgspec.Struct, frozen=True):
    pool: str
    conf: str
    user: str
    kind = PoolKind.RBD


type Remote = Nbd | Rbd


class Window(msgspec.Struct, frozen=True):
    """A part of the export that backups lie in; bytes."""

    at: Nbd
    offset: int
    size: int


def parse(name: str, url: str) -> tuple[Path, Remote]:
    """The folder of its leases, and where its disks are. Raises ValueError with what would be right."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"pool {name}: {parts.scheme}:// is no kind of pool; there are a folder, {', '.join(SCHEMES)}")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"rbd": {"leases", "conf", "user"}}.get(parts.scheme, {"leases", "backups"})
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"pool {name}: {parts.scheme} knows no {unknown[0]}; it takes {', '.join(sorted(known))}")
    if parts.username or parts.password or parts.fragment:
        raise ValueError(f"pool {name}: no secret is written into a setting; name a file that holds it")
    leases = Path(given.get("leases", ""))
    if not leases.is_absolute():
        raise ValueError(f"pool {name}: {parts.scheme} needs leases=/FOLDER, one that all nodes with this pool share")
    return leases, _rbd(name, parts.netloc, parts.path, given) if parts.scheme == "rbd" else _nbd(name, url)


def _nbd(name: str, url: str) -> Nbd:
    parts = urlsplit(url)
    backups = dict(parse_qsl(parts.query, keep_blank_values=True)).get("backups", "")
    if backups and not re.fullmatch(WORD, backups):
        raise ValueError(f"pool {name}: backups={backups[:80]} is no export's name: letters, digits, dots and dashes are right")
    if parts.scheme == "nbd+unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"pool {name}: nbd+unix:///PATH/OF/SOCKET?leases=/FOLDER is right")
        return Nbd(socket=parts.path, backups=backups)
    try:
        port = parts.port or NBD_PORT
    except ValueError:
        port = 0
    if not parts.hostname or not port or parts.path not in ("", "/"):
        raise ValueError(f"pool {name}: nbd://HOST:PORT?leases=/FOLDER is right")
    return Nbd(host=parts.hostname, port=port, backups=backups)


def _rbd(name: str, pool: str, path: str, given: dict[str, str]) -> Rbd:
    conf, user = given.get("conf", "/etc/ceph/ceph.conf"), given.get("user", "admin")
    if not re.fullmatch(WORD, pool) or path not in ("", "/") or not re.fullmatch(WORD, user) or not conf.startswith("/"):
        raise ValueError(f"pool {name}: rbd://POOL?conf=/FILE&user=NAME&leases=/FOLDER is right")
    return Rbd(pool=pool, conf=conf, user=user)


def disk_nodes(disk: Disk, id: str, at: Remote) -> list[dict[str, Any]]:
    """QEMU's block nodes of a disk, in the order in which they are made."""
    below: dict[str, Any] = {"node-name": f"{id}-file", "read-only": False, "auto-read-only": False, "discard": "unmap"}
    match at:
        case Nbd():
            below |= {"driver": "nbd", "server": _server(at), "export": disk.file, "reconnect-delay": RECONNECT_S}
            below["cache"] = {"direct": True, "no-flush": False}
        case Rbd():
            below |= {"driver": "rbd", "pool": at.pool, "image": disk.file, "conf": at.conf, "user": at.user}
            below["cache"] = {"direct": False, "no-flush": False}  # librbd's own cache writes back when the guest flushes
    top = {"driver": "raw", "node-name": id, "file": f"{id}-file", "read-only": False, "discard": "unmap"}
    return [below, top]


def window_node(name: str, window: Window, *, writes: bool) -> dict[str, Any]:
    """QEMU's block node of what lies in a window, and the connection below it, which goes with it. One that is written does not
    wait for its server: a backup fails, and no write of its guest waits."""
    net: dict[str, Any] = {"driver": "nbd", "node-name": net_of(name), "server": _server(window.at), "export": window.at.backups}
    net |= {"reconnect-delay": 0 if writes else RECONNECT_S, "read-only": not writes, "auto-read-only": False}
    net |= {"cache": {"direct": True, "no-flush": False}, "discard": "unmap"}
    raw: dict[str, Any] = {"driver": "raw", "node-name": name, "offset": window.offset, "size": window.size, "file": net}
    return raw | {"read-only": not writes, "discard": "unmap"}


def net_of(name: str) -> str:
    return f"{name.removesuffix('-file')}-net"


def _server(at: Nbd) -> dict[str, str]:
    return {"type": "unix", "path": at.socket} if at.socket else {"type": "inet", "host": at.host, "port": str(at.port)}
