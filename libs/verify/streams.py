"""Versions along the streams, and what stands beside the log: its ends, consumers and snapshots. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from libs.verify import Ends, Fault, Start


class Streams:
    """`take` events in order: each stream's versions have no gap. whole: from the log's beginning, so that each starts with 1."""

    def __init__(self, whole: bool) -> None:
        self.faults: list[Fault] = []
        self.versions: dict[str, int] = {}
        self._whole = whole

    def take(self, first: int, rows: Sequence[Any]) -> None:
        """Rows of Proof (its fields by number: by name they cost more than all else here)."""
        versions = self.versions
        known = versions.get
        for number, row in enumerate(rows):
            stream, version = row[2], row[3]
            if known(stream, 0) != version - 1:
                self._odd(first + number, stream, version)
            versions[stream] = version

    def _odd(self, position: int, stream: str, version: int) -> None:
        before = self.versions.get(stream)
        if before is None and not self._whole:
            return
        said = f"is version {version} of {stream}, whose last one was {before or 0}"
        self.faults.append(Fault(f"position {position}", said))

    def compare(self, heads: Sequence[tuple[str, int]]) -> None:
        """With the stored versions; each stream is then done with."""
        for stream, stored in heads:
            version = self.versions.pop(stream, None)
            if version is None and self._whole:
                self.faults.append(Fault(f"stream {stream}", f"is said to be at version {stored}, and has no event"))
            elif version is not None and version != stored:
                self.faults.append(Fault(f"stream {stream}", f"is said to be at version {stored}, its last event is {version}"))

    def rest(self) -> None:
        """After all stored versions."""
        for stream, version in sorted(self.versions.items()):
            self.faults.append(Fault(f"stream {stream}", f"has {version} events, and no stored version"))


def of_ends(ends: Ends, start: Start, batches: int, position: int, at_us: int) -> Iterator[Fault]:
    """The log's head against what was found up to it: the last batch, its last position and time."""
    if position < ends.position:
        yield Fault(f"position {position + 1}", f"is in no batch, nor is any up to the head, {ends.position}")
    for said, found, what in ((ends.batches, batches, "batch"), (ends.at_us, at_us, "time (µs)")):
        if said != found and batches > start.batch:
            yield Fault("the head", f"its {what} is {said}, that of the last batch {found}")
    for where in ends.loose:
        yield Fault(where, f"lies beyond the head ({ends.position}, batch {ends.batches})")
    for name, mark, incarnation in ends.consumers:
        if not 0 <= mark <= ends.position:
            yield Fault(f"consumer {name}", f"is said to be at {mark}; the log ends at {ends.position}")
        if not 0 < incarnation <= ends.incarnation:
            yield Fault(f"consumer {name}", f"is of incarnation {incarnation}; the log is at {ends.incarnation}")
    for kept in ends.snapshots:
        if not 0 <= kept.position <= ends.position:
            yield Fault(f"snapshot {kept.name}", f"is said to be of {kept.position}; the log ends at {ends.position}")
