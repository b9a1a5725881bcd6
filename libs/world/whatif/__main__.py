"""`python -m libs.world.whatif [--log WHERE] [--at MOMENT] VARIANT [--compare WORDS | --lived TIME] [--tries N] [--json]`: see
docs/what-if.md.

Exit codes: 0 answered, 1 an invariant did not hold (there is no answer), 2 what was asked is none, 4 no log.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

import msgspec

from libs.common.log import LogError
from libs.common.messages import Recorded
from libs.past.where import open_past
from libs.world.fork.beats import Moment
from libs.world.fork.fork import Fork
from libs.world.fork.slices import CannotFork, Slice, taken
from libs.world.fork.timings import learnt
from libs.world.whatif.acts import check
from libs.world.whatif.answer import Answer, answer
from libs.world.whatif.lived import LIVED_MAX, Lived, lived, moment
from libs.world.whatif.say import beside, compared, said
from libs.world.whatif.trial import tried
from libs.world.whatif.variant import USAGE, Variant, Words, options, parsed, variant

TRIES, TRIES_MAX = 5, 100
SEED = 20
"""of the first trial's chance; the same question has the same answer"""


def answers(slice: Slice, variants: Sequence[Variant], tries: int = TRIES) -> list[Answer]:
    """One for each. Raises CannotFork."""
    fork, timings = Fork(slice), learnt(slice.events)
    for one in variants:
        check(one, fork)
    when = moments(tries)
    return [
        answer(fork, one, timings, [tried(fork, one, timings, SEED + n, moment) for n, moment in enumerate(when)])
        for one in variants
    ]


def moments(tries: int) -> list[Moment]:
    """Of three and more, two show how early and how late it may be."""
    ends = [Moment.EARLY, Moment.LATE] if tries > len(Moment) - 1 else []
    return [Moment.CHANCE] * (tries - len(ends)) + ends


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = Words(prog="python -m libs.world.whatif", description=__doc__)
    parser.add_argument("--log", default=os.environ.get("ASV_LOG", ""))
    parser.add_argument("--at", default="now")
    parser.add_argument("--compare", default=None, metavar="WORDS")
    parser.add_argument("--lived", default="", metavar="TIME")
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--json", action="store_true")
    options(parser)
    return parser.parse_args(words)


async def read(where: str, at: str, lived: bool = False) -> tuple[Slice, list[Recorded]]:
    """And, if it is asked for, what was written after it."""
    past = await open_past(where)
    try:
        slice = await taken(past, at)
        end = min(slice.head.position, slice.position + LIVED_MAX) if lived else slice.position
        return slice, [recorded async for chunk in past.replay(slice.position, end) for recorded in chunk]
    finally:
        await past.close()


def main(words: Sequence[str]) -> int:
    try:
        given = arguments(words)
        if not 1 <= given.tries <= TRIES_MAX:
            raise CannotFork(f"{given.tries} trials: write --tries 1 to {TRIES_MAX}")
        variants = [variant(given), *([parsed(given.compare)] if given.compare is not None else [])]
        if not variants[0].words and given.compare is None:
            raise CannotFork(f"nothing is to be done: {USAGE}")
        if not given.log:
            raise CannotFork("no log is named: say where it is by --log or ASV_LOG")
        if given.lived and given.compare is not None:
            raise CannotFork("only one of two variants was lived: write --compare or --lived")
        when_us = moment(given.lived) if given.lived else 0
        slice, later = asyncio.run(read(given.log, given.at, bool(given.lived)))
        found = answers(slice, variants, given.tries)
        real = lived(found[0], later, when_us) if given.lived and not found[0].fault else None
    except CannotFork as wrong:
        return _complain(str(wrong), 2)
    except LogError as away:
        return _complain(str(away), 4)
    _print(found, real, given.json)
    return 1 if any(one.fault for one in found) else 0


def _print(found: Sequence[Answer], real: Lived | None, as_json: bool) -> None:
    if as_json:
        whole = {"foretold": found[0], "lived": real} if real else found[0] if len(found) == 1 else found
        sys.stdout.write(msgspec.json.encode(whole).decode() + "\n")
        return
    lines = [line for one in found for line in (*said(one), "")]
    lines += compared(*found) if len(found) > 1 else beside(real) if real else ()
    print("\n".join(lines).rstrip())


def _complain(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
