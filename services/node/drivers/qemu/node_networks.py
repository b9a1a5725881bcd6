"""The bridges that this node's VMs may be put into, and taps in them. Blocking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proto.machine import Nic
from proto.networks import Bridge
from services.node.drivers import CannotStart
from services.node.drivers.qemu import tap
from services.node.host import network
from services.node.host.netns import NetworkRoom, NoSuchNamespace


class NodeNetworks:
    """bridges: by name; none named: all that there are. namespace: of this node, where it has one of its own."""

    def __init__(self, bridges: Sequence[str] = (), namespace: Path | None = None) -> None:
        self.allowed = tuple(bridges)
        self._room = NetworkRoom(namespace)
        self._no_filter: str | None = None

    def bridges(self) -> tuple[Bridge, ...]:
        """Those that are there now."""
        try:
            found = self._room.call(network.bridges)
        except NoSuchNamespace:
            return ()
        return tuple(bridge for bridge in found if not self.allowed or bridge.name in self.allowed)

    def not_enforced(self, bridges: Sequence[Bridge]) -> tuple[str, ...]:
        """Why taps in these cannot be kept to their VLAN and addresses, where they cannot."""
        said = self._why_no_filter() if bridges else ""
        return (f"networks with a VLAN, or that guests are not trusted in, are not offered: {said}",) if said else ()

    def may_filter(self, bridges: Sequence[Bridge]) -> bool:
        return bool(bridges) and not self._why_no_filter()

    def open_tap(self, nic: Nic) -> list[int]:
        """A descriptor for each queue. Raises CannotStart."""
        if self.allowed and nic.bridge not in self.allowed:
            raise CannotStart(f"NIC {nic.name} wants bridge {nic.bridge!r}; those allowed here: {', '.join(self.allowed)}")
        try:
            return self._room.call(tap.open_tap, nic, not self._why_no_filter())
        except NoSuchNamespace as error:
            raise CannotStart(f"NIC {nic.name}: {error}") from error

    def close(self) -> None:
        self._room.close()

    def _why_no_filter(self) -> str:
        """Tried once: a kernel does not learn it."""
        if self._no_filter is None:
            try:
                self._no_filter = self._room.call(tap.why_no_filter)
            except NoSuchNamespace as error:
                return str(error)
        return self._no_filter
