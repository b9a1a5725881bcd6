"""Telemetry as it comes in: who is there, how busy, how much of each NUMA cell is left. Nothing of it is recorded; what a choice
was made of is in the choice."""

from __future__ import annotations

import msgspec

from proto.node import Beat
from proto.plan import CpuBeat
from proto.pools import PoolsBeat
from services.compute.cells import MEASURED_STEP_MIB
from services.compute.fleet import LOAD_STEPS
from services.compute.node_views import roomy
from services.compute.views import Views

_decode_beat = msgspec.msgpack.Decoder(Beat).decode
_decode_cpu = msgspec.msgpack.Decoder(CpuBeat).decode
_decode_pools = msgspec.msgpack.Decoder(PoolsBeat).decode


def hear(subject: str, data: bytes, now_us: int, views: Views) -> None:
    """`tel.NODE.beat`, `tel.NODE.cpu`, `tel.NODE.pools`. Only a node that joined, and only in its own name."""
    if subject.endswith(".cpu"):
        views.plans.hear(subject, data, now_us)
        views.balance.hear(subject, data, now_us)
        _hear_cpu(subject, _decode_cpu(data), now_us, views)
        return
    if subject.endswith(".pools"):
        told = _decode_pools(data)
        if told.node in views.nodes and subject == f"tel.{told.node}.pools":
            views.rooms.hear(told.node, told.pools)
            roomy(views, told.node)
        return
    beat = _decode_beat(data)
    node = views.nodes.get(beat.node)
    if node is not None and subject == f"tel.{beat.node}.beat":
        node.heard_us = now_us
        views.fleet.heard(beat.node, now_us)
        load = round(beat.load * LOAD_STEPS) / LOAD_STEPS
        cells = tuple(mib - mib % MEASURED_STEP_MIB for mib in beat.cells_free_mib)
        if (load, cells) != (node.load, node.cells_free_mib):
            node.load, node.cells_free_mib = load, cells
            views.fleet.changed(beat.node)


def _hear_cpu(subject: str, beat: CpuBeat, now_us: int, views: Views) -> None:
    node = views.nodes.get(beat.node)
    if node is None or subject != f"tel.{beat.node}.cpu":
        return
    node.waits.hear(beat, now_us)
    if (told := node.waits.told()) != node.told:
        node.told = told
        views.fleet.changed(beat.node)
