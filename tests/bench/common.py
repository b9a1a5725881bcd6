"""What the benchmarks share: their two options, alternating windows, and the one JSON line at the end.

Other work may share the machine. So two things that are compared run in turn, several times, and the best window of each
counts: a ratio of two numbers from different minutes says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """quick: shorter windows, the same keys; json: only the JSON line."""

    quick: bool
    json: bool

    def say(self, text: str) -> None:
        """Progress, on standard error, so that standard output ends with the JSON line."""
        if not self.json:
            print(text, file=sys.stderr, flush=True)


def options(description: str) -> Options:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="shorter windows")
    parser.add_argument("--json", action="store_true", help="print nothing but the result")
    found = parser.parse_args()
    return Options(found.quick, found.json)


def alternate(rounds: int, *windows: Callable[[], float]) -> list[float]:
    """Runs the windows in turn, `rounds` times; returns the highest figure of each."""
    best = [0.0] * len(windows)
    for _ in range(rounds):
        for n, window in enumerate(windows):
            best[n] = max(best[n], window())
    return best


def report(**figures: Any) -> None:
    """The last line: one JSON object. Adds how busy the machine was (`load1`)."""
    print(json.dumps({**figures, "load1": round(os.getloadavg()[0], 2)}), flush=True)
