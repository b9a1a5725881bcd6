"""The cluster itself (stream `cluster-main`), decided by compute: which life of the database this is, and which protocol all
speak."""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Command, Event, Tick

MAIN = "main"


class Refusal(StrEnum):
    BEHIND = "BEHIND"
    PROTOCOL = "PROTOCOL"


class BeginIncarnation(Tick):
    """Decides something only when the database was restored or promoted since; incarnation: filled in by the host."""

    incarnation: int = 1


class FinalizeCluster(Command):
    """All speak `protocol` from now on: what only it knows may be written. 0: the newest that compute speaks. services: the newest
    that each of them speaks, as it said itself (0: it did not answer); nodes likewise, filled in by compute's own view."""

    protocol: int = 0
    services: dict[str, int] = {}
    nodes: dict[str, int] = {}


class IncarnationBegan(Event):
    incarnation: int


class ClusterFinalized(Event):
    protocol: int


ClusterCommand = BeginIncarnation | FinalizeCluster
ClusterEvent = IncarnationBegan | ClusterFinalized
