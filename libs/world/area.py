"""The lease area of a simulated pool: each node's record and its mailbox, whole sectors, with disks that are slow, full or gone.

    area = Area(net)
    area.write("n1", record, done)       lands after a while (and then done("")), or fails (done("no space left"))
    area.look("n2", ("n1", "n3"), got)   past all caches: got({node: record}), got(None) where it failed, which proves nothing

A node in `away` does not reach the pool. A write that was under way when its node lost power may land, or not; a write lands whole.
`stall_us` is added to every write before it lands, `ack_us` before it is acknowledged. Letters are written by others than the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from libs.world.net import Net

WRITE_US = (200, 3_000)
READ_US = (100, 1_500)

type Done = Callable[[str], None]
type Got = Callable[[dict[str, Any] | None], None]


@dataclass(slots=True)
class Area:
    """owner (of each call): the process that waits for it."""

    net: Net
    records: dict[str, Any] = field(default_factory=dict)
    letters: dict[str, Any] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    """nodes that do not reach it"""
    blind: set[str] = field(default_factory=set)
    """nodes whose reads fail"""
    gone: bool = False
    full: bool = False
    stall_us: int = 0
    ack_us: int = 0

    def write(self, node: str, record: Any, done: Done, owner: str = "") -> None:
        """Its record. done: '' or why not."""
        self._write(node, self.records, node, record, done, owner)

    def post(self, node: str, to: str, letter: Any, done: Done, owner: str = "") -> None:
        """Into another's mailbox."""
        self._write(node, self.letters, to, letter, done, owner)

    def look(self, node: str, whose: Sequence[str], got: Got, owner: str = "") -> None:
        """Others' records, of those that have one, and (under "") its own letter, where there is one."""

        def seen() -> None:
            if self.gone or node in self.away or node in self.blind:
                got(None)
                return
            found = {name: self.records[name] for name in whose if name in self.records}
            if (letter := self.letters.get(node)) is not None:
                found[""] = letter
            got(found)

        self.net.after(self.net.between(*READ_US), seen, owner)

    def reaches(self, node: str) -> bool:
        return not self.gone and node not in self.away

    def _write(self, node: str, there: dict[str, Any], whose: str, what: Any, done: Done, owner: str) -> None:
        def land() -> None:
            if (failed := self._why_not(node)) == "":
                there[whose] = what
            self.net.after(200 + self.ack_us, lambda: done(failed), owner)

        self.net.after(self.net.between(*WRITE_US) + self.stall_us, land)

    def _why_not(self, node: str) -> str:
        if not self.reaches(node):
            return "the pool does not answer"
        return "no space left in the pool" if self.full else ""
