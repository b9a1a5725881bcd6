"""What an agent is told by its environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from libs.memory.swap import SWAP_MIB_MIN
from services.node.drivers.qemu.stores import settings

SWAP_WORDS = ("", "zram", "disk", "auto")
SWAP_MIB_MAX = 16 << 20


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """node: this node's name. state: the agent's own folder. pools: `NAME=FOLDER`, or `NAME=URL` (docs/pools.md), comma-separated.
    share: how many embedded nodes divide this host. memory_mib: what this node may use of its host's memory, where that is
    not all (or its share): what its VMs and its agent hold is counted against it. gateway and join_token_file: where and with
    what one-time token to join, the first time only. nats_url: overrides the address that the join answered. driver: `qemu`
    or `simulated`. bridges: of this node, that VMs may be plugged into; none: all that there are. network_namespace: in which
    they are (a file such as /run/netns/NAME); none: the host's. migration_address: of this node, where guests and their disks
    come in from other hosts, encrypted; none: only from nodes on this very host.
    watchdog: one runs beside this agent (docs/watchdog.md).
    control_plane_group: the control group that the cluster's control plane stands in, where it runs on this host.
    swap: what the agent makes for VMs: `zram`, `disk` (encrypted), `auto` (zram, or else disk); none: nothing. swap_mib: how much,
    0: as follows from the memory. swap_device: a partition for it; none: a file in `state`.
    appliance: the folder of the file reader, which reads files of backups (docs/backup-files.md); none: this node reads none."""

    node: str
    state: Path
    pools: tuple[str, ...]
    gateway: str = ""
    join_token_file: Path | None = None
    nats_url: str = ""
    share: int = 1
    memory_mib: int = 0
    driver: str = "qemu"
    bridges: tuple[str, ...] = ()
    network_namespace: Path | None = None
    migration_address: str = ""
    control_plane_group: Path | None = None
    watchdog: bool = False
    swap: str = ""
    swap_mib: int = 0
    swap_device: Path | None = None
    appliance: Path | None = None
    ready: Path | None = None
    log_level: str = "INFO"
    otlp_endpoint: str = ""
    trace_ratio: float = 0.01

    def check(self) -> None:
        """Raises ValueError with the setting that cannot be."""
        folders = self.pool_folders()
        for name in self.remote_pools():
            if not folders[name].is_dir():
                raise ValueError(
                    f"ASV_POOLS: {folders[name]}, for the leases of pool {name}, is no folder: is it mounted?"
                )
        if self.swap not in SWAP_WORDS:
            raise ValueError(f"ASV_SWAP: {self.swap!r} is none of zram, disk, auto (or nothing, for no swap)")
        if self.swap_mib and not SWAP_MIB_MIN <= self.swap_mib <= SWAP_MIB_MAX:
            raise ValueError(f"ASV_SWAP_MIB: {self.swap_mib} is not 0 or {SWAP_MIB_MIN} to {SWAP_MIB_MAX}")
        device = self.swap_device
        if device is not None and not (str(device).startswith("/dev/") and device.is_block_device()):
            raise ValueError(f"ASV_SWAP_DEVICE: {device} is no block device below /dev")
        if self.network_namespace is not None and not self.network_namespace.exists():
            raise ValueError(f"ASV_NETWORK_NAMESPACE: there is no {self.network_namespace}")
        if self.control_plane_group is not None and not self.control_plane_group.is_dir():
            raise ValueError(f"ASV_CONTROL_PLANE_GROUP: there is no folder {self.control_plane_group}")

    def pool_folders(self) -> dict[str, Path]:
        """Of each pool; of one that is no folder, that of its leases. Raises ValueError with what would be right."""
        return {name: settings.parse(name, at)[0] if "://" in at else Path(at) for name, at in self._pools()}

    def remote_pools(self) -> dict[str, settings.Remote]:
        """Those that are no folders. Raises ValueError."""
        return {name: settings.parse(name, at)[1] for name, at in self._pools() if "://" in at}

    def _pools(self) -> Iterator[tuple[str, str]]:
        for entry in self.pools:
            name, equals, at = entry.partition("=")
            if not (name and equals and at):
                raise ValueError(f"ASV_POOLS: {entry!r} is not NAME=FOLDER or NAME=URL")
            yield name, at
