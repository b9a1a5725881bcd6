"""Which node has the networks that a VM's NICs are in. Pure; the definition is io's, what a node has is its agent's word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from libs.common.messages import Value
from proto.io import NetworkChanged, NetworkCreated, NetworkDeleted
from proto.machine import NicWish
from proto.networks import USER, Bridge, Network, known_names, lack, network_of
from proto.nodes import Capabilities


class Ground(Value):
    """A network that a node must have. None: there is none of that name, and `reason` says which there are."""

    network: Network | None = None
    reason: str = ""


@dataclass(slots=True)
class Networks:
    all: dict[str, Network] = field(default_factory=dict)

    def apply(self, event: Any) -> bool:
        """Whether the event was of a network."""
        match event:
            case NetworkCreated() | NetworkChanged():
                self.all[event.network] = network_of(event)
            case NetworkDeleted():
                self.all.pop(event.network, None)
            case _:
                return False
        return True

    def names(self, nics: Iterable[NicWish]) -> tuple[str, ...]:
        """Of the networks that are on bridges, sorted."""
        return tuple(sorted({nic.network for nic in nics} - {USER}))

    def missing(self, nics: Iterable[NicWish]) -> tuple[str, ...]:
        return tuple(name for name in self.names(nics) if name not in self.all)

    def needed(self, nics: Iterable[NicWish]) -> tuple[Ground, ...]:
        return tuple(self._ground(name) for name in self.names(nics))

    def _ground(self, name: str) -> Ground:
        found = self.all.get(name)
        if found is None:
            return Ground(reason=f"there is no network {name}; {known_names(tuple(self.all))}")
        return Ground(network=found)

    def had(self, can: Capabilities, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these networks that such a node has."""
        return tuple(name for name in names if not lacks([self._ground(name)], can.bridges, can.tap_filter))


def lacks(grounds: Iterable[Ground], bridges: tuple[Bridge, ...], tap_filter: bool) -> tuple[str, ...]:
    """Why a node with these has not the networks that it has not, a sentence each."""
    said = (lack(g.network, bridges, tap_filter) if g.network is not None else g.reason for g in grounds)
    return tuple(sentence for sentence in said if sentence)
