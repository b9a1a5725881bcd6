"""What the gateway is told by its environment."""

from __future__ import annotations

from pathlib import Path

import msgspec

from libs.common.config import BadConfig


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """
    postgres_dsn      the log and the tokens
    reader_dsn        the log again, as a role that cannot write (asv_reader): what past states are read by. Where it is not set
                      they are read as the rest is, over connections that refuse to write
    nats_url          the bus; agents_nats_url: what agents are told, where that is another address
    nats_creds        credentials of this identity (file or folder, see libs/common/bus/credentials.py)
    account_key       seed file of the key that signs agents in; account: the public key of the account it belongs to.
                      Without them nodes cannot join.
                      Where they are not set: node-signer.seed beside the credentials, and who issued those.
    gateway_listen    HOST:PORT; `listen` is another name for it
    pools             NAME=PATH, comma-separated: where uploaded images go
    ready             a file that is touched once the gateway serves
    secrets_key       the key file by which passwords of fence devices are kept (made where it is missing); ha has the same
    log_archive       the folder of archived events, where it is not the one they were written to
    admin_token_file  where the first admin token is written when there is none yet; empty: nowhere
    """

    postgres_dsn: str
    nats_url: str
    reader_dsn: str = ""
    agents_nats_url: str = ""
    nats_creds: Path | None = None
    account_key: Path | None = None
    account: str = ""
    gateway_listen: str = ""
    listen: str = ""
    pools: tuple[str, ...] = ()
    name: str = "gateway"
    cluster_name: str = "asv"
    ready: Path | None = None
    admin_token_file: Path | None = None
    secrets_key: Path | None = None
    log_archive: Path | None = None
    log_level: str = "INFO"
    upload_bytes_max: int = 64 * 1024**3
    otlp_endpoint: str = ""
    trace_ratio: float = 0.01

    def address(self) -> tuple[str, int]:
        """Raises BadConfig."""
        text = self.gateway_listen or self.listen or "127.0.0.1:0"
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65_535:
            raise BadConfig(f"ASV_GATEWAY_LISTEN={text!r}: HOST:PORT would be right, as 127.0.0.1:8080")
        return host.strip("[]"), int(port)

    def pool_folders(self) -> dict[str, Path]:
        """Raises BadConfig."""
        found = {}
        for text in self.pools:
            name, _, path = text.partition("=")
            if not name or not Path(path).is_absolute():
                raise BadConfig(f"ASV_POOLS: {text!r} is not NAME=PATH with an absolute path")
            found[name] = Path(path)
        return found
