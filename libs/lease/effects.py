"""What the machine of a lease is told and what it wants done (holder.py). Plain tuples: the standard library only."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

LOST = "lost"
"""proto.lease.Refuse.LOST"""


class State(StrEnum):
    """none: it never had one. held. paused: it has not been renewed for P, or was since and the generations are not learnt yet.
    woken: it ran past its end without noticing (the host slept): paused, until a grant that was asked for since. ended."""

    NONE = "none"
    HELD = "held"
    PAUSED = "paused"
    WOKEN = "woken"
    ENDED = "ended"


class Grant(NamedTuple):
    """proto.lease.Granted, field by field. sent_us: this node's clock when it asked."""

    term: int
    epoch: int
    sent_us: int
    lease_us: int = 0
    pools: tuple[str, ...] = ()
    refused: str = ""
    tolerant: bool = False


class Letter(NamedTuple):
    """The node is to end these VMs (none named: all that it guards), and to say so in its record."""

    node: str
    number: int
    term: int
    epoch: int
    vms: tuple[str, ...] = ()


class Pause(NamedTuple):
    """Reversible. Of VMs that were still already nothing changes, and `Resume` does not wake them."""

    vms: tuple[str, ...]
    why: str = ""


class Resume(NamedTuple):
    vms: tuple[str, ...]


class Kill(NamedTuple):
    """Until the process is gone: said once, `Holder.doomed` says it until then."""

    vms: tuple[str, ...]
    why: str = ""


class LearnGenerations(NamedTuple):
    """Of these VMs (name, generation here); `Holder.learnt` with this number. Read at the storage or asked of the control plane,
    after this was said."""

    number: int
    vms: tuple[tuple[str, int], ...]


class AskNow(NamedTuple):
    """Ask for a grant at once, not at the next beat."""


class WriteRecord(NamedTuple):
    """The record says something new: write it at once, not at the next beat."""


class Answer(NamedTuple):
    """A letter is answered: what it asked for is gone (in the next record, too)."""

    number: int
    done: tuple[str, ...]


type Effect = Pause | Resume | Kill | LearnGenerations | AskNow | WriteRecord | Answer


class Saved(NamedTuple):
    """What a successor on the same host must know. An older one is safe: it ends earlier."""

    boot_id: str
    state: str
    epoch: int
    term: int
    renewed_us: int
    granted_us: int
    lease_us: int
    tolerant: bool
    pools: tuple[str, ...]
    acknowledged: int = 0
    done: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
