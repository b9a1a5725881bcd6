"""What a control-plane process is told by its environment."""

from __future__ import annotations

from pathlib import Path

import msgspec


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """nats_creds: the identity's credentials file; ready: a file touched once all serve; name: the process's identity."""

    postgres_dsn: str
    nats_url: str
    nats_creds: Path | None = None
    name: str = ""
    ready: Path | None = None
    log_level: str = "INFO"
    metrics_listen: str = ""
    otlp_endpoint: str = ""
    trace_ratio: float = 0.01
