"""Where containers find one another and their own: users, volumes, addresses. docker-compose.yml says the same in its words.

    /keys/cluster/      (root)   the cluster's signing keys, passwords
    /keys/<process>/    (its own user) `<name>.seed` and `.jwt`, and `dsn` where it uses the log; the gateway's `reader.dsn`
    /keys/nats/         nats.conf
    /postgres-password/ the database owner's password, for the server's first start
    /nodes/<node>/      each agent's own volume
    /pool/              disks and images, shared by all nodes; incoming/ is where images are handed over
"""

from __future__ import annotations

import os
from pathlib import Path

GROUP = 10000
USERS = {"compute": 10001, "memory": 10002, "io": 10003, "relay": 10004, "gateway": 10005, "nats": 10006, "ha": 10007}
TINY = "tiny"
TINY_USER = USERS["gateway"]
"""The job that brings in the image reads the gateway's admin token."""
SERVICES = ("compute", "memory", "io", "ha", "relay")
NODES = ("n1", "n2", "n3")

KEYS = Path("/keys")
CLUSTER = KEYS / "cluster"
PASSWORD = Path("/postgres-password/password")
NATS_CONFIG = KEYS / "nats" / "nats.conf"
NATS_STORE = Path("/nats-store")
GATEWAY_STATE = Path("/gateway")
NODE_STATES = Path("/nodes")
POOL = Path("/pool")

NATS_PORT, NATS_HEALTH_PORT = 4222, 8222
DATABASE = OWNER = "asv"


def dsn(role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@postgres:5432/{DATABASE}"


def own(path: Path, user: int, mode: int, group: int = GROUP) -> Path:
    os.chown(path, user, group)
    path.chmod(mode)
    return path


def folder(path: Path, user: int, mode: int = 0o700, group: int = GROUP) -> Path:
    """Made where it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    return own(path, user, mode, group)
