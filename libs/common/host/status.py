"""How a service is doing, for `query.<service>.status`."""

from __future__ import annotations

import hashlib

import msgspec

from libs.common.host.core import Host, state_bytes
from libs.common.messages import Value
from libs.common.protocol import PROTOCOL, PROTOCOL_MIN


class Status(Value):
    """position: the last event whose reactions are committed. streams: held in memory. waiting: events heard and not yet reacted
    to. orders_unheard: orders that no agent has acknowledged. commands, bugs: since the process began. digest: of all own states;
    two hosts at one position have the same. protocol, protocol_min: what it speaks; finalized: what it writes."""

    service: str
    incarnation: int = 0
    position: int = 0
    streams: int = 0
    waiting: int = 0
    orders_unheard: int = 0
    commands: int = 0
    bugs: int = 0
    digest: str = ""
    protocol: int = msgspec.field(default_factory=lambda: PROTOCOL)
    protocol_min: int = msgspec.field(default_factory=lambda: PROTOCOL_MIN)
    finalized: int = 1


def of(host: Host, commands: int, bugs: int) -> Status:
    return Status(
        service=host.service.name,
        incarnation=host.incarnation,
        position=host.reactions.position,
        streams=sum(bool(slot.version) for slot in host.slots.values()),
        waiting=len(host.reactions.inbox) + len(host.reactions.todo),
        orders_unheard=host.book.unheard(),
        commands=commands,
        bugs=bugs,
        finalized=host.writer.protocol,
        digest=hashlib.sha256(state_bytes(host)).hexdigest()[:16],
    )
