"""What people see: tables on a terminal, plain columns in a pipe, JSON when asked; progress and errors on stderr.

Names, reasons and addresses come from elsewhere, some from guests: control characters never reach the terminal.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from services.cli.failure import Failure

ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]",
    re.DOTALL,
)
"""Terminal escape sequences and control characters, but for tab and line feed."""

COLOURS = {
    "running": "green",
    "online": "green",
    "ready": "green",
    "done": "green",
    "ok": "green",
    "failed": "red",
    "offline": "red",
    "rejected": "red",
    "revoked": "red",
    "stopped": "dim",
}
"""By the first word of a cell; other words that end in -ing are yellow: on their way."""


def clean(value: object) -> str:
    """Text on one line without anything a terminal would obey."""
    return ESCAPES.sub("", str(value)).replace("\n", " ").replace("\t", " ")


def as_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """One line per row; `empty` on stderr where there is none."""
    cells = [[clean(cell) or "-" for cell in row] for row in rows]
    if not cells:
        print(empty, file=sys.stderr)
    elif sys.stdout.isatty():
        _rich_table(heads, cells)
    else:
        _columns([list(heads), *cells])


def _columns(lines: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(heads: Sequence[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(*heads, box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        made.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console(highlight=False).print(made)


def _style(cell: str) -> str:
    word = cell.partition(" ")[0].rstrip(",")
    return COLOURS.get(word, "yellow" if word.endswith("ing") and word.islower() else "")


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """One thing, as `name  value` lines; empty values are left out, and each entry of a list has a line of its own."""
    known = [(name, value if isinstance(value, list) else [value]) for name, value in pairs if value not in (None, "", [], ())]
    width = max((len(name) for name, _ in known), default=0)
    for name, values in known:
        for number, value in enumerate(values):
            print(f"{('' if number else name).ljust(width)}  {clean(value)}")


def note(text: str) -> None:
    """A sentence beside the result."""
    print(clean(text), file=sys.stderr)


def failure(failure: Failure, json_wanted: bool) -> None:
    if json_wanted:
        json.dump(failure.as_dict(), sys.stderr, ensure_ascii=False)
        sys.stderr.write("\n")
        return
    reason = failure.problem.get("reason")
    note(f"asvctl: {failure.sentence}" + (f" [{reason}]" if reason else ""))
    if failure.remedy:
        note(f"  what would help: {failure.remedy}")


def when(us: int | None) -> str:
    """Microseconds since the epoch as local time."""
    if not us:
        return "-"
    return datetime.fromtimestamp(us / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Progress:
    """One line on stderr that says the current step and for how long: rewritten on a terminal, one line per step elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()

    def step(self, text: str) -> None:
        line = f"{self._what}: {clean(text)}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{line[:160]} ({time.monotonic() - self._began:.1f} s)")
            sys.stderr.flush()
        elif line != self._said:
            print(line, file=sys.stderr)
        self._said = line

    def end(self) -> None:
        if self._live and self._said:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
