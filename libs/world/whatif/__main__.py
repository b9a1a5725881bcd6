"""`python -m libs.world.whatif [--log WHERE] [--at MOMENT] VARIANT [--compare WORDS] [--tries N] [--json]`: see docs/what-if.md.

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
from libs.past.where import open_past
from libs.world.fork.fork import Fork
from libs.world.fork.slices import CannotFork, Slice, taken
from libs.world.fork.timings import learnt
from libs.world.whatif.acts import check
from libs.world.whatif.answer import Answer, answer
from libs.world.whatif.say import compared, said
from libs.world.whatif.trial import tried
from libs.world.whatif.variant import USAGE, Variant, Words, options, parsed, variant

TRIES, TRIES_MAX = 5, 100
SEED = 20
"""of the first trial's chance; the same question has the same answer"""


def answers(slice: Slice, variants: Sequence[Variant], tries: int = TRIES) -> list[Answer]:
    """One for each. Raises CannotFork."""
    fork, timings = Fork(slice), learnt(slice.events)
    nodes = {machine.name: machine.member.capabilities.memory_mib for machine in fork.machines}
    for one in variants:
        check(one, fork.states, nodes)
    return [answer(fork, one, timings, [tried(fork, one, timings, SEED + n) for n in range(tries)]) for one in variants]


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = Words(prog="python -m libs.world.whatif", description=__doc__)
    parser.add_argument("--log", default=os.environ.get("ASV_LOG", ""))
    parser.add_argument("--at", default="now")
    parser.add_argument("--compare", default=None, metavar="WORDS")
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--json", action="store_true")
    options(parser)
    return parser.parse_args(words)


async def read(where: str, at: str) -> Slice:
    past = await open_past(where)
    try:
        return await taken(past, at)
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
        found = answers(asyncio.run(read(given.log, given.at)), variants, given.tries)
    except CannotFork as wrong:
        return _complain(str(wrong), 2)
    except LogError as away:
        return _complain(str(away), 4)
    if given.json:
        sys.stdout.write(msgspec.json.encode(found[0] if len(found) == 1 else found).decode() + "\n")
    else:
        lines = [line for one in found for line in (*said(one), "")]
        print("\n".join([*lines, *(compared(*found) if len(found) > 1 else ())]).rstrip())
    return 1 if any(one.fault for one in found) else 0


def _complain(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
