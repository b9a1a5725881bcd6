"""Live events as server-sent events (the HTML standard's text/event-stream).

Each client reads at its own pace, from memory or from the log: nothing is queued for it, so a slow one costs nothing but its
connection. One that falls too far behind is told so and cut; it may come back with `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from libs.common.log import LogError
from libs.common.messages import Recorded, decode_meta
from services.gateway.auth import Principal
from services.gateway.gateway import Gateway

CHUNK_MAX = 256
BEHIND_MAX = 10_000
"""events behind the end of the log, once it was there, after which a client is cut"""
KEEP_ALIVE_S = 15.0
CHECK_US = 30_000_000
"""between two looks at the token, which may expire, or be revoked where that is not heard"""

_json = msgspec.json.Encoder().encode


def told(recorded: Recorded) -> dict[str, Any]:
    """An event as the API shows it, metadata and all. Unknown types are shown too: nothing is decoded into classes."""
    return {
        "position": recorded.position,
        "stream": recorded.stream,
        "version": recorded.version,
        "type": recorded.type,
        "v": recorded.v,
        "at_us": recorded.at_us,
        "data": msgspec.msgpack.decode(recorded.data),
        "meta": msgspec.structs.asdict(decode_meta(recorded.meta)),
    }


def seen(gateway: Gateway, who: Principal, records: list[Recorded]) -> list[dict[str, Any]]:
    """Those that this principal may see."""
    out = []
    for recorded in records:
        event = told(recorded)
        if who.sees(gateway.model.scopes.project_of(recorded, event["data"])):
            out.append(event)
    return out


def frame(event: dict[str, Any]) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event["position"], event["type"].encode(), _json(event))


def last_frame(after: int, sentence: str) -> bytes:
    """The end, with where to go on."""
    return b"id: %d\nevent: cut\ndata: %s\n\n" % (after, _json({"after": after, "sentence": sentence}))


async def live(gateway: Gateway, who: Principal, after: int) -> AsyncIterator[bytes]:
    """Frames from a position on, for ever. Ends with `event: cut` when the client is too slow, its token is no longer valid,
    the log cannot be read, or the gateway stops."""
    with gateway.keyring.changes(who.id) as changed:
        async for some in _live(gateway, who, after, changed):
            yield some


async def _live(gateway: Gateway, who: Principal, after: int, changed: asyncio.Event) -> AsyncIterator[bytes]:
    yield b": from %d\n\n" % after
    caught_up, checked_us = False, gateway.clock.now_us()
    while True:
        if changed.is_set() or gateway.clock.now_us() - checked_us >= CHECK_US:
            changed.clear()
            checked_us = gateway.clock.now_us()
            if not await gateway.still(who):
                yield last_frame(after, "the token is no longer valid")
                return
        behind = gateway.follower.position - after
        if caught_up and behind > BEHIND_MAX:
            yield last_frame(after, f"{behind} events behind: read faster, or ask again with after={after}")
            return
        if gateway.follower.ending.is_set():
            yield last_frame(after, f"the gateway stops: come again with after={after}")
            return
        if behind <= 0:
            caught_up = True
            if await gateway.follower.moved(after, KEEP_ALIVE_S, changed):
                continue
            yield b": still here\n\n"
            continue
        try:
            records = await gateway.follower.since(after, CHUNK_MAX)
        except LogError as error:
            yield last_frame(after, f"the log cannot be read just now: {error}")
            return
        after = records[-1].position if records else after
        if frames := b"".join(frame(event) for event in seen(gateway, who, records)):
            yield frames
