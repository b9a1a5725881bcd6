"""Trees of fault schedules, many: `make sim`, `make sim-million`.

    python -m tests.sim [--schedules N] [--processes N] [--state FILE] [--shrink TREE]

Each tree is a seed; done trees are counted in the state file after each batch, and a run that was ended goes on from there. Exit
code 1 where an invariant did not hold: the tree's number is printed, and `--shrink` makes a short story of it.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import chain, count
from pathlib import Path

import msgspec

from libs.world.census import Census
from libs.world.shrink import same, shrunk
from libs.world.storms import Storm, begun
from libs.world.story import written
from libs.world.tree import Shape, grown

BATCH = 20
"""trees that one process does before it is counted"""
CLOSE = Shape()
DENSE = Shape(settled=8)
"""many go on until all has settled: what is forgotten shows in peace only"""
LONG = Shape(turns=(7.0,), widths=(3,), seconds=30.0, settled=3)
HANGS = Shape(turns=(23.5, 25.0, 26.0), seconds=26.4, calm_s=18.0)
"""guests hang, and are found, which takes more than 20 s, around the failover of a node that goes away later"""
LONG_EVERY = 40
"""one tree of so many is followed long after its failover"""
DENSE_EVERY = 20
"""one of so many has many schedules that are followed until all has settled"""
HANGS_EVERY = 5
"""and of those in which guests' signs of life are looked at, one of so many has its failover when hangs are found"""


class State(msgspec.Struct):
    """next_tree: all before are counted, or under way when the run was ended; those are done again as `redo`."""

    next_tree: int = 0
    redo: list[int] = []
    seconds: float = 0.0
    census: Census = msgspec.field(default_factory=Census)


def shape_of(tree: int) -> Shape:
    if tree % LONG_EVERY == LONG_EVERY - 1:
        return LONG
    if tree % DENSE_EVERY == DENSE_EVERY // 2:
        return DENSE
    return HANGS if tree % HANGS_EVERY == HANGS_EVERY - 1 and begun(tree).vitals else CLOSE


def batch(first: int) -> Census:
    """In a process of its own; worlds are prepared once in each."""
    if gc.isenabled():
        gc.disable()
    found = Census()
    for tree in range(first, first + BATCH):
        shape = shape_of(tree)
        for schedule in grown(tree, begun(tree), shape, Storm(shape)):
            found.count(schedule)
        found.trees += 1
    gc.collect()
    return found


def run(state: State, schedules: int, processes: int, path: Path | None) -> None:
    firsts: Iterator[int] = chain(state.redo, count(state.next_tree, BATCH))
    began, before = time.monotonic(), state.seconds
    with ProcessPoolExecutor(processes) as pool:
        under_way = {pool.submit(batch, n): n for n in (next(firsts) for _ in range(processes))}
        while under_way:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for one in done:
                state.next_tree = max(state.next_tree, under_way.pop(one) + BATCH)
                state.census.add(one.result())
                if state.census.schedules < schedules:
                    first = next(firsts)
                    under_way[pool.submit(batch, first)] = first
            state.redo = sorted(n for n in under_way.values() if n < state.next_tree)
            state.seconds = before + time.monotonic() - began
            if path is not None:
                _save(state, path)
                print(f"{state.census.schedules} schedules, {state.census.violations} violations", flush=True)


def _save(state: State, path: Path) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(path)


def shrink(tree: int) -> int:
    """The first of its schedules that fails, made short; as TOML."""
    shape = shape_of(tree)
    failed = next((one for one in grown(tree, begun(tree), shape, Storm(shape)) if one.fault), None)
    if failed is None:
        print(f"tree {tree} holds every invariant")
        return 0
    print(f"# {failed.fault}\n{written(shrunk(failed.story, same(failed.fault)))}")
    return 1


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--shrink", type=int, metavar="TREE")
    asked = parser.parse_args(words)
    if asked.shrink is not None:
        return shrink(asked.shrink)
    state = State()
    if asked.state is not None and asked.state.is_file():
        state = msgspec.json.decode(asked.state.read_bytes(), type=State)
    run(state, asked.schedules, asked.processes, asked.state)
    for line in state.census.lines():
        print(line)
    print(f"{state.seconds:.0f} s with {asked.processes} processes: {60 * state.census.schedules / state.seconds:.0f} a minute")
    return 1 if state.census.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
