"""How many fault schedules a minute one core runs through the production code: `python -m tests.bench.world [--quick] [--json]`.

A schedule is a path through a tree (libs/world/tree.py): what it has in common with others before it is executed once. Printed is
what was executed for each alone beside what it holds; a schedule counts only as libs/world/census.py says. The figure is by the CPU
time of this one process (a minute of one core); the wall clock's is printed beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time

from libs.world.census import Census
from libs.world.play import started
from libs.world.storms import Storm, begun
from libs.world.tree import Shape, grown

TREES, TREES_QUICK = 160, 30
WARM = 8
TARGET = 10_000


def run(trees: range, shape: Shape) -> Census:
    found = Census()
    for seed in trees:
        for schedule in grown(seed, begun(seed), shape, Storm(shape)):
            found.count(schedule)
        found.trees += 1
    return found


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(words)
    shape, trees = Shape(), range(1000, 1000 + (TREES_QUICK if asked.quick else TREES))
    run(range(WARM), shape)  # code is read once,
    for seed in trees:  # and worlds are prepared once for all trees that begin alike
        started(begun(seed))
    gc.collect()
    gc.freeze()
    gc.disable()
    cpu_s, wall_s = time.process_time(), time.monotonic()
    found = run(trees, shape)
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    result = {
        "schedules_per_min": round(found.schedules / cpu_s * 60),
        "schedules_per_min_wall": round(found.schedules / wall_s * 60),
        "violations": found.violations,
        "schedules": found.schedules,
        "held_mean": round(found.held / max(1, found.schedules)),
        "executed_mean": round(found.own / max(1, found.schedules)),
        "restarts_pct": round(100 * found.restarts / max(1, found.schedules)),
    }
    for line in found.lines():
        print(line)
    print(f"{result['schedules_per_min']} schedules a minute of one core (target {TARGET})")
    if asked.json:
        print(json.dumps(result))
    return 0 if found.violations == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
