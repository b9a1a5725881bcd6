"""What the grantor wants done, and what it is told of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.common.messages import Command
from proto.lease import AskLetter, AskProbe, AskRecords, Granted
from services.ha.states import Ha, Lease


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to an AskGrant. ref: as it came with the question."""

    ref: object
    granted: Granted


@dataclass(frozen=True, slots=True)
class Ask:
    """`ask.<node>.lease`: what comes back goes to `answered` under this id, or `unanswered`."""

    id: int
    node: str
    message: AskRecords | AskLetter | AskProbe


@dataclass(frozen=True, slots=True)
class Tell:
    """A command to a stream of ha itself. It may be lost: what still holds is told again."""

    command: Command


@dataclass(frozen=True, slots=True)
class FenceNode:
    """Have this node's device switch it off; what comes of it goes to `on_fenced`. Told again while it is wanted."""

    node: str
    epoch: int
    boot_id: str
    device: str


Effect = Reply | Ask | Tell | FenceNode


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster. pools: words of the pools that it reported. networks: what is wrong with its bridges' ways out,
    unlinked: one of them has none left.
    address: of its watchdog. device: its fence device, where it has one that is in order."""

    pools: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    unlinked: bool = False
    address: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the log says by now."""

    ha: Ha
    leases: Mapping[str, Lease]
    members: Mapping[str, Member]
    names: Mapping[str, str] = field(default_factory=dict)
    """of pools, by their words: for people"""
    incarnation: int = 1
    """of the log: more than one says that it was restored, and has forgotten something"""
