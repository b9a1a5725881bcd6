"""The bridges of a simulated host: NICs go into those that it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proto.machine import Nic, NicKind
from proto.networks import Bridge
from services.node.drivers import CannotStart


def check(nics: Iterable[Nic], bridges: Sequence[Bridge]) -> None:
    """Raises CannotStart."""
    there = {bridge.name for bridge in bridges}
    for nic in nics:
        if nic.kind is NicKind.BRIDGE and nic.bridge not in there:
            has = ", ".join(sorted(there)) or "none"
            raise CannotStart(f"NIC {nic.name} wants bridge {nic.bridge!r}; there are: {has}")
