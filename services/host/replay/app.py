"""One run of it: opens the log, has it replayed, tells what was found, and ends with its code (words.py)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from libs.common.log import LogError, Unavailable
from libs.past.condition import BadCondition
from libs.past.replaying import BadRange, bounds, redecide
from libs.past.where import opened
from libs.past.written import Unreadable
from services.host.replay import breaking, revisions, stepper, tell
from services.host.replay.codes import code
from services.host.replay.parts import in_parts, parts_for
from services.host.replay.words import AWAY, DIFFERS, SAME, UNREADABLE, USAGE, Wanted, read


async def replay(wanted: Wanted) -> int:
    past = await opened(wanted.log)
    try:
        _, last = await bounds(past, wanted.first, wanted.last)
        of = wanted.parts or parts_for(last)
        if of > 1:
            found = await asyncio.to_thread(in_parts, wanted, of)
        else:
            found = await redecide(past, code(wanted.service), wanted.first, wanted.last)
    finally:
        await past.close()
    print(tell.as_json(wanted.service, found) if wanted.json else "\n".join(tell.lines(wanted.service, found)))
    return SAME if found.difference is None else DIFFERS


def main(words: Sequence[str]) -> int:
    """The exit code."""
    wanted = read(words)
    try:
        if wanted.step:
            return stepper.run(wanted)
        if wanted.good:
            return revisions.run(wanted)
        if wanted.condition:
            return asyncio.run(breaking.run(wanted))
        return asyncio.run(replay(wanted))
    except (BadRange, BadCondition, revisions.BadRevision) as error:
        return _ends(USAGE, str(error))
    except Unreadable as error:
        return _ends(UNREADABLE, str(error))
    except Unavailable as error:
        return _ends(AWAY, str(error))
    except (LogError, ValueError) as error:
        return _ends(UNREADABLE, f"the log cannot be replayed: {error}")
    except KeyboardInterrupt:
        return 130


def _ends(code: int, sentence: str) -> int:
    print(f"asvctl replay: {tell.value(sentence)[1:-1]}", file=sys.stderr)
    return code
