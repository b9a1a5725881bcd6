"""The first job, before anything else runs: who is who. Makes what is missing, renews every JWT, hands each process its own.

python -m infra.docker.keys        (as root, with the volumes of places.py)
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from infra.docker import places
from infra.docker.places import CLUSTER, GROUP, KEYS, USERS
from libs.common.bus import permissions
from libs.common.bus.credentials import own_key, write_private
from libs.common.bus.identity import ClusterIdentity, server_config
from libs.common.bus.permissions import Grant
from libs.common.clock import SystemClock
from libs.common.secrets import Keys
from services.cluster.identities import OPERATOR

STORE_MIB_MAX = 4096
READER = "asv_reader"
"""by which the gateway reads what is past: beside its own role"""
ROLES = dict.fromkeys(places.SERVICES, "asv_service") | {"gateway": "asv_gateway"}


def password(name: str) -> str:
    """Made on the first call, then the same."""
    path = CLUSTER / f"{name}.password"
    if not path.exists():
        write_private(path, secrets.token_hex(24).encode())
    return path.read_text()


def hand_out(cluster: ClusterIdentity, process: str, name: str, user: int, grant: Grant, now_us: int) -> Path:
    """The folder of one process with its key and JWT."""
    folder = places.folder(KEYS / process, user)
    key = own_key(folder / f"{name}.seed")
    write_private(folder / f"{name}.jwt", cluster.issue_user(name, key.public, grant, now_us=now_us).encode())
    return folder


def identities(cluster: ClusterIdentity, now_us: int) -> None:
    for name in places.SERVICES:
        hand_out(cluster, name, name, USERS[name], permissions.host(name, (name,)), now_us)
    folder = hand_out(cluster, "gateway", "gateway", USERS["gateway"], permissions.gateway(), now_us)
    seed, account = cluster.node_signer()
    write_private(folder / "node-signer.seed", seed.read_bytes())
    write_private(folder / "account", account.encode())
    hand_out(cluster, places.TINY, OPERATOR, places.TINY_USER, permissions.gateway(OPERATOR), now_us)


def databases() -> None:
    """Each process's DSN, and the owner's."""
    write_private(CLUSTER / "dsn", places.dsn(places.OWNER, password(places.OWNER)).encode())
    for process, role in ROLES.items():
        write_private(KEYS / process / "dsn", places.dsn(role, password(role)).encode())
    write_private(KEYS / "gateway" / "reader.dsn", places.dsn(READER, password(READER)).encode())
    places.PASSWORD.write_text(password(places.OWNER))
    places.PASSWORD.chmod(0o444)  # the server's image reads it as its own user; the volume is mounted nowhere else


def secrets_key() -> None:
    """The gateway keeps passwords of fence devices by it, ha reads them."""
    Keys.create(CLUSTER / "secrets.key")
    for process in ("gateway", "ha"):
        write_private(KEYS / process / "secrets.key", (CLUSTER / "secrets.key").read_bytes())


def nats(cluster: ClusterIdentity) -> None:
    """The server's configuration: public JWTs only."""
    places.folder(places.NATS_CONFIG.parent, USERS["nats"])
    store = places.folder(places.NATS_STORE, USERS["nats"])
    text = "\n".join([
        "server_name: asv",
        f'http: "127.0.0.1:{places.NATS_HEALTH_PORT}"',
        f"jetstream {{ store_dir: {json.dumps(str(store))}, max_memory_store: 32MB, max_file_store: {STORE_MIB_MAX}MB }}",
        server_config(cluster, port=places.NATS_PORT, listen="0.0.0.0"),  # noqa: S104  the container's own networks
    ])  # fmt: skip
    write_private(places.NATS_CONFIG, text.encode())


def main() -> None:
    now_us = SystemClock().now_us()
    places.own(KEYS, 0, 0o711)  # each process passes through to its own folder
    places.folder(CLUSTER, 0)
    cluster = ClusterIdentity.create(CLUSTER, now_us)
    identities(cluster, now_us)
    databases()
    secrets_key()
    nats(cluster)
    for process in [*USERS, places.TINY]:
        user = USERS.get(process, places.TINY_USER)
        for path in (KEYS / process).iterdir():
            places.own(path, user, 0o600)
    places.folder(places.GATEWAY_STATE, USERS["gateway"])
    places.own(places.POOL, 0, 0o711)
    places.folder(places.POOL / "incoming", 0, 0o2770, GROUP)
    for node in places.NODES:
        places.own(places.NODE_STATES / node, 0, 0o711, 0)
    print("keys: every process has its own")


if __name__ == "__main__":
    main()
