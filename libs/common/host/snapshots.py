"""A host's folded state as bytes, so that a start folds only the tail of the log.

A snapshot is taken when no reaction waits, at the position up to which the views have come; streams may be ahead of it, as an
own commit is folded at once, and their events are then skipped by version. It is thrown away when the code that folds has
other states or views than the code that took it (`schema`): the log alone is the truth.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from libs.common.host.core import Host
from libs.common.host.jobs import Slot
from libs.common.host.service import Service
from libs.common.log import Snapshot
from libs.common.messages import tag_of


class _Stream(msgspec.Struct, array_like=True):
    name: str
    version: int
    project: str
    owner: str
    correlation: str
    trace: str
    state: msgspec.Raw


class _Image(msgspec.Struct, array_like=True):
    views: msgspec.Raw
    streams: list[_Stream]
    protocol: int = 1


_encode = msgspec.msgpack.Encoder().encode
_image = msgspec.msgpack.Decoder(_Image).decode


def schema(service: Service) -> str:
    """A digest of the shape of all states and views, and of the events that are folded into them: equal where one's snapshot can be
    read as the other's, and holds all that the other would have heard."""
    shapes = [msgspec.json.schema(d.state) for d in service.deciders] + [msgspec.json.schema(service.views)]
    heard = sorted(tag_of(event) for event in {*service.follows, *(e for d in service.deciders for e in d.events)})
    return hashlib.sha256(msgspec.json.encode([shapes, heard], order="deterministic")).hexdigest()[:32]


def take(host: Host) -> Snapshot | None:
    """None while reactions wait or are under way: ask again later."""
    reactions = host.reactions
    if reactions.under_way or reactions.todo:
        return None
    streams = [
        _Stream(name, s.version, s.project, s.owner, s.correlation, s.trace, msgspec.Raw(_encode(s.state)))
        for name, s in host.slots.items()
        if s.version
    ]
    data = _encode(_Image(msgspec.Raw(_encode(host.views)), streams, host.writer.protocol))
    return Snapshot(host.service.name, reactions.taken, schema(host.service), data)


def restore(host: Host, snapshot: Snapshot | None) -> int:
    """The position to fold from; 0 where there is no snapshot that this code can read. The host must be fresh."""
    if snapshot is None or snapshot.schema != schema(host.service):
        return 0
    image = _image(snapshot.data)
    host.views = msgspec.msgpack.decode(image.views, type=host.service.views)
    host.writer.protocol = image.protocol
    decoders: dict[str, Any] = {
        d.kind: msgspec.msgpack.Decoder(d.state).decode
        for d in host.service.deciders
    }
    for s in image.streams:
        state = decoders[s.name.partition("-")[0]](s.state)
        host.slots[s.name] = Slot(
            state, s.version, project=s.project, owner=s.owner, correlation=s.correlation, trace=s.trace
        )
    host.reactions.taken = host.reactions.marked = snapshot.position
    return snapshot.position
