"""What a control-plane process is told by its environment."""

from __future__ import annotations

from pathlib import Path

import msgspec


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """nats_creds: the folder of `<name>.jwt` and `<name>.seed`; name: the identity; ready: a file touched once all serve.
    log_archive: the folder of archived events, where it is not the one they were written to.
    secrets_key: the key file by which ha reads passwords of fence devices, the same as the gateway's."""

    postgres_dsn: str
    nats_url: str
    nats_creds: Path | None = None
    name: str = ""
    ready: Path | None = None
    secrets_key: Path | None = None
    log_archive: Path | None = None
    log_level: str = "INFO"
    metrics_listen: str = ""
    otlp_endpoint: str = ""
    trace_ratio: float = 0.01
