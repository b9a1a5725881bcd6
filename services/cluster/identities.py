"""Who the processes of this cluster are on NATS: a key each, made here once, and a JWT with its rights, renewed at every start.

Agents are not among them: they make their own keys and join through the gateway with a one-time token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from libs.common.bus import permissions
from libs.common.bus.credentials import own_key, write_private
from libs.common.bus.identity import ClusterIdentity
from libs.common.bus.permissions import Grant

OPERATOR = "cluster"
"""The supervisor's own name: it may do what the gateway may, and brings in the built-in image by it."""


@dataclass(frozen=True, slots=True)
class Identities:
    """folder: `<name>.seed` and `<name>.jwt` of each process; None where a NATS that is not ours asks for none.
    server: the configuration for our own nats-server."""

    folder: Path | None
    server: str = ""
    signer: tuple[Path, str] | None = None
    """the node signer's seed file and the account's public key: what the gateway lets agents in with"""


def grants(services: tuple[str, ...], separate: bool) -> dict[str, Grant]:
    """Each process of the control plane with the least that it needs."""
    ours = {"gateway": permissions.gateway(), OPERATOR: permissions.gateway(OPERATOR)}
    if not separate:
        return ours | {"host": permissions.host("host", services)}
    return ours | {name: permissions.host(name, (name,)) for name in services}


def prepare(folder: Path, port: int, services: tuple[str, ...], separate: bool, now_us: int) -> Identities:
    """Makes what is missing in `folder`. Raises BadCredentials for a damaged key."""
    cluster = ClusterIdentity.create(folder, now_us)
    for name, grant in grants(services, separate).items():
        key = own_key(folder / f"{name}.seed")
        jwt = cluster.issue_user(name, key.public, grant, now_us=now_us)
        write_private(folder / f"{name}.jwt", jwt.encode())
    return Identities(folder, cluster.server_config(port=port), cluster.node_signer())
