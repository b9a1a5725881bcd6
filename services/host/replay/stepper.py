"""`asvctl replay --step`: reads what is to be walked through, then hands it to the screen."""

from __future__ import annotations

import asyncio
import sys

from libs.past.replaying import bounds
from libs.past.source import Past
from libs.past.steps import Steps
from libs.past.walking import Walk
from libs.past.where import open_past
from services.host.replay.codes import codes
from services.host.replay.words import SAME, USAGE, Wanted

STEPS_MAX = 50_000
"""events that are held with all their states; those before are folded only"""


async def load(past: Past, wanted: Wanted) -> Walk:
    """Raises BadRange, LogError, Unreadable, ValueError, LookupError (nothing is there of that service)."""
    first, last = await bounds(past, wanted.first, wanted.last)
    if not wanted.first:
        first = max(1, last - STEPS_MAX + 1)
    last = min(last, first + STEPS_MAX - 1)
    steps = Steps(codes(), first)
    decided = {one.position: one async for chunk in past.commands(first - 1, last) for one in chunk}
    async for records in past.replay(0, last):
        steps.take(records, decided)
    return Walk(steps, wanted.service)


async def _loaded(wanted: Wanted) -> Walk:
    past = await open_past(wanted.log)
    try:
        return await load(past, wanted)
    finally:
        await past.close()


def run(wanted: Wanted) -> int:
    """Until the user ends it. Raises as `load`, but for what says that there is nothing to see."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("asvctl replay: --step needs a terminal; without it the first difference is printed", file=sys.stderr)
        return USAGE
    try:
        walk = asyncio.run(_loaded(wanted))
    except LookupError as nothing:
        print(f"asvctl replay: {nothing}", file=sys.stderr)
        return USAGE
    if not walk.shown:
        print("asvctl replay: the log has no events", file=sys.stderr)
        return USAGE
    from services.host.replay.screen import Debugger

    Debugger(walk).run()
    return SAME


