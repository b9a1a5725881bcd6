"""Reads from the log what `why` and `why-not` are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from libs.common.log import EventLog
from libs.common.messages import Envelope, Recorded, Reply, decode_envelope, decode_meta, decode_reply
from libs.common.registry import UnknownType
from services.gateway.model import EVENTS
from services.gateway.why.tree import Known

EVENTS_MAX = 200
"""events of the object itself that an answer goes back to, the newest"""
REFUSALS_MAX = 20


class Refusal(msgspec.Struct):
    """A command that was decided and refused: who asked, for what, why not, and what would make it a yes."""

    at_us: int
    actor: str
    command: str
    reason: str
    sentence: str
    remedy: str


async def read_newest(log: EventLog, stream: str) -> list[Recorded]:
    """The last EVENTS_MAX events of a stream, in order."""
    kept: list[Recorded] = []
    while rows := await log.read_stream(stream, kept[-1].version if kept else 0):
        kept = (kept + rows)[-EVENTS_MAX:]
    return kept


async def about_backup(log: EventLog, vm: str, backup: str) -> list[int]:
    """Where the events lie that speak of it, the last EVENTS_MAX, in order. Raises LogError."""
    found: list[int] = []
    after, recoveries, drills = 0, set[str](), set[str]()
    while rows := await log.read_stream(f"backups-{vm}", after):
        for row in rows:
            said = msgspec.msgpack.decode(row.data, type=dict[str, Any])
            named = said.get("backup") == backup or backup in (said.get("heirs") or ()) or backup in (said.get("found") or ())
            if named and "recovery" in said:
                recoveries.add(said["recovery"])
            if named and said.get("drill"):
                drills.add(said["drill"])
            if named or said.get("recovery") in recoveries or said.get("drill") in drills:
                found.append(row.position)
        after = rows[-1].version
    return found[-EVENTS_MAX:]


async def read_at(log: EventLog, positions: Sequence[int]) -> list[Known]:
    return [known(row) for position in positions for row in await log.read_all(position - 1, 1)]


async def refusals(log: EventLog, stream: str) -> list[Refusal]:
    """What was refused to this stream, the newest first. Raises LogError."""
    found = []
    for row in await log.eventless(stream, REFUSALS_MAX):
        reply: Reply = decode_reply(row.outcome)
        if reply.status == "refused":
            asked: Envelope = decode_envelope(row.payload)
            name = str(msgspec.msgpack.decode(asked.data, type=dict[str, object]).get("type", ""))
            found.append(Refusal(row.at_us, asked.actor, name, reply.reason, reply.sentence, reply.remedy))
    return found


def known(recorded: Recorded) -> Known:
    try:
        event = EVENTS.event(recorded)
    except UnknownType:
        event = None
    return Known(recorded, decode_meta(recorded.meta), event)
