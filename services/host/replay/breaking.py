"""`asvctl replay --bisect --condition …`: the event at which a condition on states broke."""

from __future__ import annotations

import json

import msgspec

from libs.common.messages import Recorded, decode_meta
from libs.past.breaking import Broke, History, NoSuchStream, checked, halve, held, scan
from libs.past.condition import Condition
from libs.past.deciding import Code
from libs.past.replaying import bounds
from libs.past.source import Past
from libs.past.where import opened
from services.host.replay import tell
from services.host.replay.codes import codes
from services.host.replay.words import DIFFERS, SAME, Wanted

READ_MAX = 10_000
"""events of a stream, read at once"""


async def run(wanted: Wanted) -> int:
    """Prints it. Raises BadCondition, BadRange, LogError, Unreadable."""
    kinds = {kind: code for code in codes() for kind in code.kinds}
    condition = checked(wanted.condition, kinds)
    past = await opened(wanted.log)
    try:
        first, last = await bounds(past, wanted.first, wanted.last)
        history = await read(past, condition, kinds, last)
    finally:
        await past.close()
    for stream in sorted(condition.streams - history.streams):
        raise NoSuchStream(f"the log has no event of {stream} up to {last}")
    broke = (halve if wanted.monotonic else scan)(condition, history, first, last)
    if wanted.json:
        print(as_json(condition, broke))
    else:
        ever = broke is not None or held(condition, history, first, last)
        print("\n".join(lines(condition, broke, (first, last), ever)))
    return SAME if broke is None else DIFFERS


async def read(past: Past, condition: Condition, kinds: dict[str, Code], last: int) -> History:
    """Only the streams that the condition names: no others are read."""
    found: list[Recorded] = []
    for stream in sorted(condition.streams):
        version = 0
        while more := await past.read_stream(stream, version, READ_MAX):
            found += [recorded for recorded in more if recorded.position <= last]
            version = more[-1].version
    return History(kinds, sorted(found, key=lambda recorded: recorded.position))


def lines(condition: Condition, broke: Broke | None, ends: tuple[int, int], ever: bool = True) -> list[str]:
    """ever: whether it held at all."""
    if broke is None and not ever:
        return [f"`{condition.text}` did not break: it never held from event {ends[0]} to {ends[1]}"]
    if broke is None:
        return [f"`{condition.text}` did not break from event {ends[0]} to {ends[1]}"]
    by, meta = broke.by, decode_meta(broke.by.meta)
    return [
        f"`{condition.text}` broke at event {by.position}, {tell.moment(by.at_us)} ({broke.looks} looks)",
        f"{by.type} on {by.stream}, version {by.version}, by {meta.actor or 'nobody'}, caused by {meta.causation or 'nothing'}",
        *(f"  {name}: {tell.value(given)}" for name, given in msgspec.msgpack.decode(by.data).items() if name != "type"),
        "what changed (before -> after):",
        *(f"  {line}" for line in tell.differing(broke.fields())),
    ]


def as_json(condition: Condition, broke: Broke | None) -> str:
    found = broke and {
        "position": broke.by.position, "at_us": broke.by.at_us, "stream": broke.by.stream, "type": broke.by.type,
        "before": broke.before, "after": broke.after, "looks": broke.looks,
    }  # fmt: skip
    return json.dumps({"condition": condition.text, "broke": found}, indent=2, ensure_ascii=False)
