"""Where everything of an embedded cluster lies: one folder, every path in it named here.

    postgres/          data/ (the server user's own, 0700), run/ (its socket)
    nats/              nats.conf, store/ (JetStream)
    keys/              identities of cluster and services (0700)
    tokens/admin.token the first token (0600)
    nodes/n1 …         each agent's own folder
    pools/default/     disks and images, reached by all nodes
    pools/n1 …         each node's own pool, `local`
    archive/           old partitions of the log, where `asvctl log archive` puts them
    run/  logs/        control socket, lock, readiness files; one log per process
    bin/               copies of server binaries, where the server user cannot enter the checkout
    groups             where in the control groups of this host the cluster's own processes stand
    cluster.json       ports, pids, and folders outside (record.py)

The folder is $ASV_HOME, else /var/lib/asv for root, else ~/.local/share/asv. Where the unprivileged server user cannot enter
it, or a socket's path in it would be too long, the engines' folders lie in a private place outside; see places.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TINY = CHECKOUT / ".cache" / "tiny"
"""the built-in image, and the reader of files in backups"""
READER = "reader.initrd"
"""which is no part of the image"""
NODES = ("n1", "n2", "n3")


def default_home(environ: Mapping[str, str]) -> Path:
    """The state folder of this user, absolute, not yet made."""
    if environ.get("ASV_HOME"):
        return Path(environ["ASV_HOME"]).expanduser().absolute()
    return Path("/var/lib/asv") if os.geteuid() == 0 else Path.home() / ".local" / "share" / "asv"


@dataclass(frozen=True, slots=True)
class Layout:
    home: Path

    @property
    def record(self) -> Path:
        return self.home / "cluster.json"

    @property
    def groups(self) -> Path:
        """What the names of the control plane's control groups begin with, for whoever takes the cluster away."""
        return self.home / "groups"

    @property
    def lock(self) -> Path:
        return self.run / "supervisor.lock"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def archive(self) -> Path:
        return self.home / "archive"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def secrets_key(self) -> Path:
        """By which passwords of fence devices are kept; the gateway makes it."""
        return self.keys / "secrets.key"

    @property
    def nodes(self) -> Path:
        return self.home / "nodes"

    @property
    def pool(self) -> Path:
        return self.home / "pools" / "default"

    def local(self, node: str) -> Path:
        return self.home / "pools" / node

    @property
    def admin_token(self) -> Path:
        return self.home / "tokens" / "admin.token"

    def node(self, name: str) -> Path:
        return self.nodes / name

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def ready(self, process: str) -> Path:
        """Touched by the process once it serves."""
        return self.run / f"{process}.ready"

    def make(self) -> None:
        """Makes the folders, private ones 0700. The home itself may be passed through (0711), not listed, when we are root:
        the server user's folders are in it. Folders that exist keep their mode."""
        if not self.home.exists():
            self.home.parent.mkdir(parents=True, exist_ok=True)
            self.home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700)
        for folder in (self.run, self.keys, self.logs, self.admin_token.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.nodes, *map(self.node, NODES)):  # QEMU's own folders are in them
            folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        for folder in (self.pool, *map(self.local, NODES)):
            folder.mkdir(parents=True, exist_ok=True)
