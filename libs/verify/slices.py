"""A slice of a log in a file (libs/past/aslog.py): it has no chain, so that its own digest, which was checked as it was opened, is
all that it is proven by. What is left to look at is whether it is a log at all. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from libs.past.aslog import Aslog
from libs.verify import Fault
from libs.verify.streams import Streams
from libs.verify.verify import FAULTS_MAX, Reader, Report

NOTE = "A slice has no chain: it is what its file's digest was made of, and that is all that can be said of its history."


def look(content: Aslog, readers: Sequence[Reader] = ()) -> Report:
    """Versions, times, commands, gaps where it says that it has none; and what the readers find."""
    header, events = content.header, content.events
    streams = Streams(header.whole and header.first <= 1)
    for recorded in events:
        streams.take(recorded.position, [(b"", b"", recorded.stream, recorded.version)])
    for reader in readers:
        reader.take(events)
        reader.finish()
    faults = [*_order(content), *streams.faults, *(fault for reader in readers for fault in reader.faults)]
    return Report(
        after=header.first - 1, until=header.last, events=len(events), batches=0, streams=len(streams.versions),
        incarnation=header.incarnation, hash="", faults=list(dict.fromkeys(faults))[:FAULTS_MAX], notes=[NOTE],
    )  # fmt: skip


def _order(content: Aslog) -> Iterator[Fault]:
    position, at_us = content.header.first - 1, 0
    for recorded in content.events:
        if recorded.position <= position:
            yield Fault(f"position {recorded.position}", f"comes behind position {position}")
        if content.header.whole and recorded.position > position + 1:
            yield Fault(f"position {position + 1}", "is not in the file, which says that it has all of them")
        if recorded.at_us < at_us:
            said = f"was written at {recorded.at_us} µs, before the one before it ({at_us} µs)"
            yield Fault(f"position {recorded.position}", said)
        position, at_us = recorded.position, recorded.at_us
    written = {recorded.position: recorded for recorded in content.events}
    for command in content.commands:
        if command.position and (found := written.get(command.position)) is None:
            yield Fault(f"command {command.id}", f"is said to have written position {command.position}, which is not in the file")
        elif command.position and found is not None and found.stream != command.stream:
            yield Fault(f"command {command.id}", f"is of {command.stream}, and position {command.position} is of {found.stream}")
