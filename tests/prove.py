"""`make prove`: a million random lives of a ledger, every step held against the invariants (tests/model/ledger_stories.py).

    python -m tests.prove [--sequences 1000000] [--steps 8] [--seed 0] [--processes N]

The last line is one JSON object; exit 1 and the seed where an invariant broke.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from tests.model.ledger_stories import Story

BATCH = 5_000


def batch(first: int, sequences: int, steps: int) -> Counter[str]:
    """So many stories from that seed on. Raises AssertionError with the seed in it."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + sequences):
        story = Story(seed)
        try:
            for _ in range(steps):
                story.step()
        except AssertionError as broken:
            raise AssertionError(f"seed {seed}: {broken}") from None
        proof = story.proof
        seen.update(
            events=proof.positions, promises=proof.promises, denials=proof.denials, steps_of_the_ladder=proof.steps,
            beyond=proof.beyond,
        )  # fmt: skip
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    firsts = range(given.seed, given.seed + given.sequences, BATCH)
    sizes = [min(BATCH, given.seed + given.sequences - first) for first in firsts]
    begun, total = time.perf_counter(), Counter[str]()
    breaches: list[str] = []
    with ProcessPoolExecutor(given.processes) as pool:
        try:
            for seen in pool.map(batch, firsts, sizes, repeat(given.steps)):
                total += seen
        except AssertionError as broken:
            breaches.append(str(broken)[:2000])
    taken_s = round(time.perf_counter() - begun, 1)
    for breach in breaches:
        print(breach)
    print(
        json.dumps({"sequences": given.sequences, "steps": given.steps, **total, "breaches": len(breaches), "s": taken_s})
    )
    return 1 if breaches else 0


if __name__ == "__main__":
    raise SystemExit(main())
