"""The cluster's identity on NATS: decentralised JWTs that we sign and the server verifies.

    operator ── signs ──▶ account ASV ── signs ──▶ users of the control plane (permissions in the JWT)
             ── signs ──▶ account SYS       └─ node key (scoped): mints agents only; their permissions are the account's
                                               template, so whoever holds that key cannot make itself a relay

Seeds lie in one folder, mode 0600: operator.seed account.seed system.seed node-signer.seed. The server needs none of them:
its configuration holds public JWTs only. A user is removed by `revoke` and a reload of the server (SIGHUP).
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from libs.common.bus.credentials import Key, key_from, new_seed, write_private
from libs.common.bus.permissions import ANSWER_S_MAX, Grant, node

_S = 1_000_000_000
_NO_LIMIT = {"subs": -1, "data": -1, "payload": -1}
_SEEDS = {"operator": "operator", "account": "account", "system": "account", "node-signer": "account"}
CONNECTIONS_MAX = 4096
CONTROL_LINE_BYTES_MAX = 32 * 1024
"""a JWT with all its permissions is one line of the protocol; the server's own limit of 4096 would be short for some"""
AGENT_SUBSCRIPTIONS_MAX = 1024
_NODE_NAME = "{{name()}}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encode_jwt(claims: dict[str, Any], signer: Key) -> str:
    """A NATS JWT; `iss` and `jti` are filled in."""
    claims = {**claims, "iss": signer.public}
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    head = _b64(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
    body = f"{head}.{_b64(json.dumps(claims).encode())}"
    return f"{body}.{_b64(signer.sign(body.encode()))}"


def _permissions(grant: Grant) -> dict[str, Any]:
    """An empty list would allow everything, so that nothing is said as a denial of all."""
    claims: dict[str, Any] = {
        "pub": {"allow": list(grant.publish)} if grant.publish else {"deny": [">"]},
        "sub": {"allow": list(grant.subscribe)} if grant.subscribe else {"deny": [">"]},
    }
    if grant.answers:
        claims["resp"] = {"max": 1, "ttl": ANSWER_S_MAX * _S}
    return claims


class ClusterIdentity:
    """The keys of one cluster. `create` makes them, `open` reads them; both are safe to repeat."""

    def __init__(self, folder: Path, now_us: int) -> None:
        self._folder = folder
        self._now_s = now_us // 1_000_000
        self._keys = {name: key_from(folder / f"{name}.seed") for name in _SEEDS}

    @classmethod
    def create(cls, folder: Path, now_us: int) -> ClusterIdentity:
        """Keys that are there already are kept. Raises BadCredentials for one that is damaged."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, kind in _SEEDS.items():
            path = folder / f"{name}.seed"
            if not path.exists():
                write_private(path, new_seed(kind) + b"\n")
        return cls(folder, now_us)

    @property
    def operator_jwt(self) -> str:
        system = self._keys["system"].public
        claims = {"type": "operator", "version": 2, "system_account": system}
        return self._signed("operator", "asv", claims)

    @property
    def system_jwt(self) -> str:
        return self._signed(
            "system", "SYS", {"type": "account", "version": 2, "limits": _account_limits(jetstream=False)}
        )

    @property
    def account_jwt(self) -> str:
        scope = {
            "kind": "user_scope", "key": self._keys["node-signer"].public, "role": "node",
            "template": _permissions(node(_NODE_NAME)) | _NO_LIMIT | {"subs": AGENT_SUBSCRIPTIONS_MAX},
        }  # fmt: skip
        claims: dict[str, Any] = {
            "type": "account", "version": 2, "limits": _account_limits(jetstream=True), "signing_keys": [scope],
        }  # fmt: skip
        revoked = self._revoked()
        return self._signed("account", "ASV", claims | ({"revocations": revoked} if revoked else {}))

    def issue_user(self, name: str, public_key: str, grant: Grant, *, now_us: int, expires_s: int = 0) -> str:
        """A JWT for a process of the control plane. expires_s: seconds from now; 0: never."""
        claims = {"type": "user", "version": 2} | _NO_LIMIT | _permissions(grant)
        return encode_jwt(self._user(name, public_key, claims, now_us, expires_s), self._keys["account"])

    def issue_node(self, name: str, public_key: str, *, now_us: int, expires_s: int = 0) -> str:
        """A JWT for the agent of node `name`; see NodeSigner."""
        signer = NodeSigner(self._keys["node-signer"], self._keys["account"].public)
        return signer.issue(name, public_key, now_us=now_us, expires_s=expires_s)

    def node_signer(self) -> tuple[Path, str]:
        """What the gateway is given to let agents join: the scoped key's file and the account's public key."""
        return self._folder / "node-signer.seed", self._keys["account"].public

    def revoke(self, public_key: str, now_us: int) -> None:
        """All JWTs issued to that key so far are void once the server has reloaded its configuration."""
        revoked = self._revoked() | {public_key: now_us // 1_000_000}
        write_private(self._folder / "revoked.json", json.dumps(revoked, indent=1).encode())

    def server_config(self, *, port: int = 0, store: Path | None = None, tls: ServerTls | None = None) -> str:
        """Configuration of a nats-server of this cluster: loopback only. port 0, store None: given on its command line."""
        return server_config(self, port=port, store=store, tls=tls)

    @property
    def accounts(self) -> dict[str, str]:
        """Public key -> JWT, for the server's resolver."""
        return {self._keys["account"].public: self.account_jwt, self._keys["system"].public: self.system_jwt}

    @property
    def system_account(self) -> str:
        return self._keys["system"].public

    def _revoked(self) -> dict[str, int]:
        path = self._folder / "revoked.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _signed(self, key: str, name: str, nats: dict[str, Any]) -> str:
        claims = {"iat": self._now_s, "name": name, "sub": self._keys[key].public, "nats": nats}
        return encode_jwt(claims, self._keys["operator"])

    def _user(self, name: str, public_key: str, nats: dict[str, Any], now_us: int, expires_s: int) -> dict[str, Any]:
        return _user_claims(name, public_key, nats, now_us, expires_s)


class NodeSigner:
    """Lets agents in, and nothing else: their permissions come from the account's template and the node's name."""

    def __init__(self, key: Key, account: str) -> None:
        self._key = key
        self._account = account

    @classmethod
    def load(cls, seed: Path, account: str) -> NodeSigner:
        """account: the public key of the account. Raises BadCredentials."""
        return cls(key_from(seed), account)

    def issue(self, name: str, public_key: str, *, now_us: int, expires_s: int = 0) -> str:
        """`name` must have been checked to be a DNS label, and to be this key's. Raises ValueError for a key that is none."""
        nats = {"type": "user", "version": 2, "issuer_account": self._account}
        return encode_jwt(_user_claims(name, public_key, nats, now_us, expires_s), self._key)


def _user_claims(name: str, public_key: str, nats: dict[str, Any], now_us: int, expires_s: int) -> dict[str, Any]:
    if not (public_key.startswith("U") and len(public_key) == 56 and public_key.isalnum()):
        raise ValueError("not a user's public key: it should begin with U and have 56 letters and digits")
    now_s = now_us // 1_000_000
    claims = {"iat": now_s, "name": name, "sub": public_key, "nats": nats}
    return claims | ({"exp": now_s + expires_s} if expires_s else {})


def _account_limits(*, jetstream: bool) -> dict[str, Any]:
    limits = {**_NO_LIMIT, "imports": 0, "exports": 0, "wildcards": True, "conn": CONNECTIONS_MAX, "leaf": 0}
    # Bytes on disk: what the server has; the one stream is bounded by its own limits (feed.py).
    return limits | ({"mem_storage": 0, "disk_storage": -1, "streams": 4, "consumer": 1024} if jetstream else {})


class ServerTls:
    """Mutual TLS: the server's certificate and key, and the authority that clients' certificates must come from."""

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self.certificate = certificate
        self.key = key
        self.authority = authority


def server_config(
    identity: ClusterIdentity,
    *,
    port: int = 0,
    store: Path | None = None,
    tls: ServerTls | None = None,
    listen: str = "127.0.0.1",
    payload_bytes_max: int = 4 * 1024 * 1024,
) -> str:
    """nats-server's configuration as text. port 0 and store None leave both to the command line."""
    lines = [
        f"host: {json.dumps(listen)}",
        *([f"port: {port}"] if port else []),
        f"operator: {identity.operator_jwt}",
        f"system_account: {identity.system_account}",
        "resolver: MEMORY",
        "resolver_preload: {",
        *(f"  {key}: {jwt}" for key, jwt in sorted(identity.accounts.items())),
        "}",
        f"max_payload: {payload_bytes_max}",
        f"max_control_line: {CONTROL_LINE_BYTES_MAX}",
        f"max_connections: {CONNECTIONS_MAX}",
        "max_pending: 64MB",
        'write_deadline: "10s"',
        'ping_interval: "10s"',
        "ping_max: 3",
        "no_sys_acc: false",
    ]
    if store is not None:
        lines += ["jetstream {", f"  store_dir: {json.dumps(str(store))}", "}"]
    if tls is not None:
        lines += [
            "tls {",
            f"  cert_file: {json.dumps(str(tls.certificate))}",
            f"  key_file: {json.dumps(str(tls.key))}",
            f"  ca_file: {json.dumps(str(tls.authority))}",
            "  verify: true",
            "}",
        ]
    return "\n".join(lines) + "\n"
