"""What is to be known of a real VM when its test fails: a guest that stood still says nothing, and is gone after the test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from services.node.drivers.qemu.driver import QemuDriver
from services.node.drivers.qemu.folder import Folder

REGISTERS = {"command-line": "info registers"}
ASKED: tuple[tuple[str, dict[str, str]], ...] = (
    ("qmp_capabilities", {}), ("query-status", {}), ("query-chardev", {}), ("query-migrate", {}),
    ("human-monitor-command", REGISTERS), ("human-monitor-command", REGISTERS),
)  # fmt: skip
"""the registers twice: a guest that goes round in a circle is told from one that waits"""
WAIT_S_MAX = 2.0
TAIL_CHARS = 3000


def account(top: Path, drivers: Iterable[QemuDriver]) -> Iterator[tuple[str, str]]:
    """Headings and texts: of each process what QEMU says of itself (by the watchdog's monitor, which nobody uses in these tests)
    and what it printed, of each driver the end of what guests printed on their consoles."""
    for place in sorted(top.glob("*/vms/*")):
        yield f"QEMU of {place.relative_to(top)}", "\n".join([*_said(place), *_printed(place)])
    for driver in drivers:
        for vm, running in driver._fleet.vms.items():
            said = bytes(running.console._ring).decode(errors="replace")
            yield f"console of {vm}, generation {running.record.generation}", said[-TAIL_CHARS:]


def _printed(place: Path) -> list[str]:
    try:
        return [(place / "log").read_text(errors="replace")[-TAIL_CHARS:]]
    except OSError as error:
        return [f"no log: {error}"]


def _said(place: Path) -> list[str]:
    try:
        sock = Folder(place.parents[1], place.name).dial("guard")
        sock.settimeout(WAIT_S_MAX)
        with sock, sock.makefile("rw") as line:
            line.readline()
            return [f"{command}: {str(_answer(line, command, given))[:TAIL_CHARS]}" for command, given in ASKED]
    except (OSError, ValueError) as error:
        return [f"its monitor: {error!r}"]


def _answer(line: Any, command: str, given: dict[str, str]) -> Any:
    line.write(json.dumps({"execute": command, "arguments": given}) + "\n")
    line.flush()
    while "event" in (answer := json.loads(line.readline())):
        continue
    return answer.get("return", answer)
