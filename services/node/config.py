"""What an agent is told by its environment."""

from __future__ import annotations

from pathlib import Path

import msgspec


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """node: this node's name. state: the agent's own folder. pools: `NAME=FOLDER`, comma-separated. share: how many embedded
    nodes divide this host. gateway and join_token_file: where and with what one-time token to join, the first time only.
    nats_url: overrides the address that the join answered. driver: `qemu` or `simulated`. bridges: of this node, that VMs
    may be plugged into. migration_address: of this node, where guests come in from other hosts (their memory passes in the clear:
    a network of the nodes' own); none: only from nodes on this very host."""

    node: str
    state: Path
    pools: tuple[str, ...]
    gateway: str = ""
    join_token_file: Path | None = None
    nats_url: str = ""
    share: int = 1
    driver: str = "qemu"
    bridges: tuple[str, ...] = ()
    migration_address: str = ""
    ready: Path | None = None
    log_level: str = "INFO"
    otlp_endpoint: str = ""
    trace_ratio: float = 0.01

    def pool_folders(self) -> dict[str, Path]:
        """Raises ValueError with the entry that is not NAME=FOLDER."""
        out: dict[str, Path] = {}
        for entry in self.pools:
            name, equals, folder = entry.partition("=")
            if not (name and equals and folder):
                raise ValueError(f"ASV_POOLS: {entry!r} is not NAME=FOLDER")
            out[name] = Path(folder)
        return out
