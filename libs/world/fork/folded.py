"""Each service's state up to a position, folded once: forks of it are branched from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from libs.common.host.core import Host
from libs.common.host.service import Service
from libs.common.messages import Recorded
from libs.common.registry import UnknownType
from libs.world.fork.slices import CannotFork
from proto.upcasts import DOWNCASTS, UPCASTS


def folded(service: Service, events: Sequence[Recorded], reacted: int) -> Host:
    """As at any start of that service, which had come to `reacted` with its reactions. Raises CannotFork."""
    host = Host(service, dict(UPCASTS), dict(DOWNCASTS))
    try:
        host.fold(events, reacted)
    except UnknownType as unknown:
        said = f"the log holds {unknown.name} events, which this release does not know: ask the release that wrote it"
        raise CannotFork(said) from unknown
    return host


def states(hosts: Mapping[str, Host]) -> dict[str, Any]:
    """Of all services, by stream."""
    return {stream: state for host in hosts.values() for stream, state in host.states().items()}
