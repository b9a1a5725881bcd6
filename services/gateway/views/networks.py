"""Networks as the events tell of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.messages import Recorded
from proto import io
from proto.networks import Network, network_of


class NetworkShown(msgspec.Struct):
    """nodes: those that have it; without: why each other node has it not; vms: those with a NIC in it that the asker may see."""

    name: str
    bridge: str = ""
    vlan: int = 0
    mtu: int = 0
    trusted: bool = False
    description: str = ""
    created_us: int = 0
    changed_us: int = 0
    nodes: tuple[str, ...] = ()
    without: dict[str, str] = {}
    faults: dict[str, tuple[str, ...]] = {}
    vms: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        return Network(
            name=self.name, bridge=self.bridge, vlan=self.vlan, mtu=self.mtu, trusted=self.trusted,
            description=self.description,
        )  # fmt: skip


@dataclass(slots=True)
class NetworksView:
    all: dict[str, NetworkShown] = field(default_factory=dict)

    def apply(self, recorded: Recorded, event: Any) -> None:
        match event:
            case io.NetworkCreated() | io.NetworkChanged():
                known, is_now = self.all.get(event.network), network_of(event)
                self.all[event.network] = NetworkShown(
                    name=is_now.name, bridge=is_now.bridge, vlan=is_now.vlan, mtu=is_now.mtu, trusted=is_now.trusted,
                    description=is_now.description, created_us=known.created_us if known else recorded.at_us,
                    changed_us=recorded.at_us,
                )  # fmt: skip
            case io.NetworkDeleted():
                self.all.pop(event.network, None)
