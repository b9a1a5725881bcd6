"""`asvctl replay --step`: reads what is to be walked through, then hands it to the screen."""

from __future__ import annotations

import asyncio
import sys

from libs.past.replaying import bounds, is_whole
from libs.past.source import Past
from libs.past.steps import WRITTEN_MAX, Steps
from libs.past.walking import Walk
from libs.past.where import opened
from services.host.replay.codes import codes
from services.host.replay.words import SAME, USAGE, Wanted

STEPS_MAX = 50_000
"""events that are held with all their states; those before are folded only"""


TOLD_MIN = 100_000
"""events before the first that is walked, of which it is said that they are read"""


def window(wanted: Wanted, first: int, last: int) -> tuple[int, int]:
    """Which of the events from first to last are walked: those behind --from, or the last."""
    if not wanted.first:
        return max(1, last - STEPS_MAX + 1), last
    return first, min(last, first + STEPS_MAX - 1)


async def load(past: Past, wanted: Wanted) -> Walk:
    """Raises BadRange, LogError, Unreadable, ValueError, LookupError (nothing is there of that service)."""
    first, last = window(wanted, *await bounds(past, wanted.first, wanted.last))
    if first > TOLD_MIN:
        print(f"asvctl replay: the {first - 1} events before {first} are folded", file=sys.stderr, flush=True)
    steps = Steps(codes(), first, is_whole(past))
    decided = {
        one.position: one async for chunk in past.commands(max(first - 1 - WRITTEN_MAX, 0), last) for one in chunk
    }
    async for records in past.replay(0, last):
        steps.take(records, decided)
    return Walk(steps, wanted.service)


async def _loaded(wanted: Wanted) -> tuple[Walk, str]:
    """And what is to be said of it."""
    past = await opened(wanted.log)
    try:
        walk = await load(past, wanted)
        head, steps = (await past.head()).position, walk.steps
        return walk, _left_out(steps.first, steps.first + len(steps.all) - 1, head)
    finally:
        await past.close()


def _left_out(first: int, last: int, head: int) -> str:
    if (first, last) == (1, head):
        return ""
    return f"events {first} to {last} of {head} are here; --from says where to begin ({STEPS_MAX} are held at most)"


def run(wanted: Wanted) -> int:
    """Until the user ends it. Raises as `load`, but for what says that there is nothing to see."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("asvctl replay: --step needs a terminal; without it the first difference is printed", file=sys.stderr)
        return USAGE
    try:
        walk, said = asyncio.run(_loaded(wanted))
    except LookupError as nothing:
        print(f"asvctl replay: {nothing}", file=sys.stderr)
        return USAGE
    if not walk.shown:
        print("asvctl replay: the log has no events", file=sys.stderr)
        return USAGE
    from services.host.replay.screen import Debugger

    Debugger(walk, said).run()
    return SAME
