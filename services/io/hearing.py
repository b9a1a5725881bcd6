"""What io hears of nodes: that they are there, and the room of their pools. Nothing of it is recorded."""

from __future__ import annotations

import msgspec

from proto.node import Beat
from proto.pools import PoolsBeat
from services.io.backups import watch_views
from services.io.views import Views

_decode_beat = msgspec.msgpack.Decoder(Beat).decode
_decode_pools = msgspec.msgpack.Decoder(PoolsBeat).decode


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    """`tel.NODE.beat`, `tel.NODE.pools`, `tel.NODE.copies`. Only a node that joined, and only in its own name."""
    if subject.endswith(".copies"):
        watch_views.hear(subject, data, now_us, views)
        return
    if subject.endswith(".pools"):
        told = _decode_pools(data)
        if told.node in views.nodes and subject == f"tel.{told.node}.pools":
            views.pools.hear(told, now_us)
        return
    beat = _decode_beat(data)
    node = views.nodes.get(beat.node)
    if node is not None and subject == f"tel.{beat.node}.beat":
        node.heard_us = now_us
