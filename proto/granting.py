"""ha: what nodes and their grantor say to one another, by the second. Never recorded: what is concluded from it is (lease.py).

    lease.<node>           AskGrant, answered with Granted
    tel.<node>.leases      LeaseBeat
    ask.<node>.lease       AskRecords, AskLetter: Records · AskProbe: Probes
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from libs.common.messages import Message, Name, Value


class Refuse(StrEnum):
    """Why a lease is not renewed. lost: the node was declared lost in this epoch or a later one: what it guards is to be ended,
    and it asks for the next epoch only then. not-leading: another process grants, or none may yet. stranger: no such node.
    other-boot: its name has a lease in another boot (it was started anew, or two nodes have one name): that one is waited out."""

    LOST = "lost"
    OTHER_BOOT = "other-boot"
    NOT_LEADING = "not-leading"
    STRANGER = "stranger"


MUTE = "mute"
"""LeaseBeat.own: the watchdog says nothing; this is its agent's word"""
UNKNOWN = -1
"""AskGrant.left_us: it may last, or be over"""


class AskGrant(msgspec.Struct, frozen=True, array_like=True):
    """`lease.<node>`, request and reply, once a second. epoch: of the lease that it has (0: none yet). sent_us: its own boot-time
    clock when it sent this; comes back as it was. guarded: how many VMs it keeps under the lease. pools: shared pools that it
    reaches, by their words (Capabilities.pool_ids). renews: the pools of the last grant that it took, by which it may be renewing
    its lease now (None: it does not say, nor `tolerant`, the length of that grant). address: `HOST:PORT` where its watchdog answers
    probes. left_us: for how long the lease of that epoch lasts on at least, by the node's own clock when it sent this; 0: it is
    over, or there is none; UNKNOWN: its watchdog has not said for too long; None: this agent never says."""

    node: str
    boot_id: str
    epoch: int
    sent_us: int
    term: int = 0
    guarded: int = 0
    pools: tuple[str, ...] = ()
    renews: tuple[str, ...] | None = None
    tolerant: bool = False
    address: str = ""
    left_us: int | None = None


class Granted(msgspec.Struct, frozen=True, array_like=True):
    """The lease ends lease_us after sent_us, by the node's own clock. term: a node refuses one below the highest it has seen.
    pools: the only ones by which the node may renew it itself. refused: it is not renewed."""

    term: int
    epoch: int
    sent_us: int
    lease_us: int = 0
    pools: tuple[str, ...] = ()
    refused: str = ""
    tolerant: bool = False


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    """A node's record in a pool's lease area, as another node read it past all caches. error: it could not be read, which proves
    nothing. acknowledged: the letter that it answered last, done: VMs that it says it has ended since (process gone). lease_us: how
    long that node lets a renewal count, by the newest grant that it has heard of; own: how its lease stands (as in LeaseBeat)."""

    pool: str
    node: str
    boot_id: str = ""
    epoch: int = 0
    sequence: int = -1
    acknowledged: int = 0
    done: tuple[str, ...] = ()
    error: str = ""
    lease_us: int = 0
    own: str = ""


class LeaseBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.leases`, once a second: what its watchdog saw of the others' records. own: how its own lease stands
    (`held`, `paused`, `ended`, `none`; MUTE: nobody says), left_us: until it ends. slow: it was late itself, so that its word
    counts less."""

    node: str
    boot_id: str
    at_us: int
    own: str
    epoch: int
    left_us: int = 0
    sightings: tuple[Sighting, ...] = ()
    slow: bool = False


class AskRecords(Message):
    """Read these nodes' records now, past all caches, in these pools (by word), once this was heard."""

    nodes: tuple[str, ...]
    pools: tuple[str, ...]


class Records(Value):
    sightings: tuple[Sighting, ...] = ()
    error: str = ""


class AskLetter(Message):
    """Put a letter into a node's mailbox beside its record, in each of these pools: it is to end these VMs (all that it guards
    where none is named) and to say so in its record. number: rises by one with each letter to that node; term: the grantor's."""

    node: Name
    pools: tuple[str, ...]
    number: int
    term: int
    epoch: int
    vms: tuple[str, ...] = ()


class AskProbe(Message):
    """Try to reach these nodes directly, at the addresses where their watchdogs answer."""

    addresses: dict[str, str]


class Probes(Value):
    """By node: the round trip in milliseconds; -1: no answer within a second."""

    answered_ms: dict[str, float] = {}
    error: str = ""

    @property
    def reached(self) -> tuple[str, ...]:
        return tuple(node for node, took_ms in self.answered_ms.items() if took_ms >= 0)
