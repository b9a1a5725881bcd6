"""When is a node's power known to be off? Pure: from one try's reads to a yes, or to the sentence that says why not.

    the order       was taken, or was needless because the power was read as off before
    the last reads  say off, two or more of them, without an error or another word in between
    apart           the first and the last of them, by apart_ms: one answer kept in a cache is read twice at once
    the machine     is in each read the one that answered at the test
    the node        was not heard after the first of them, on any path: by beats and requests, by peers, by its record in a pool
    its record      stood still by the last of them; one that cannot be read counts as moving when the order is given
What does not hold leaves the power unknown. There is no other way to a yes. What a device that lies may cost all the same:
docs/decisions/0034-a-fence-device-that-lies.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from proto.fence import NoteFence, Ordered, Power, PowerRead, Want
from services.ha.fencing.states import Job

APART_MS = 250
APART_SPOKE_MS = 1_500
"""where the node was heard until the order: it would be heard again by then, if it lived"""
SPOKE_US = 3_000_000
STILL_US = 4_000_000
"""so long a record stands still by the last of the reads, seen from where it was known to move"""
LIVELY_US = 2_000_000
"""one that was seen to move so lately may have been written until just now, and that be seen only after the order"""
MOVES_US = 2_500_000
"""one that is written every second is seen to move within this time"""
MOVED_LATE_US = 1_500_000
"""a record that is seen to have moved was written so long before at most"""
LATE_US = 300_000
"""what was on its way when the power went"""
READS_MIN = 2


def apart_ms(spoke_us: int, moved_us: int, now_us: int) -> int:
    """How far the reads are to lie apart, by when the node was heard, and its record seen to move, last (0: never): so that by the
    last of them it has been silent for long enough, if it is."""
    apart = APART_SPOKE_MS if spoke_us and now_us - spoke_us < SPOKE_US else APART_MS
    still_us = now_us - moved_us if moved_us else STILL_US
    left_us = STILL_US if still_us < LIVELY_US else STILL_US - still_us
    return max(apart, -(-left_us // 1_000))


def proves(job: Job, note: NoteFence) -> tuple[tuple[PowerRead, ...], str]:
    """(the reads that prove it, "") or ((), why it is not proven)."""
    said = note.error or _wrong_machine(job, note) or _order(job, note)
    if said:
        return (), said
    reads = _tail(note.reads, Power(job.want))
    if len(reads) < READS_MIN:
        return (), _too_few(job, note, len(reads))
    apart = reads[-1].after_ms - reads[0].after_ms
    if apart < job.apart_ms:
        return (), f"read as {job.want} within {apart} ms only; the reads are to lie {job.apart_ms} ms apart"
    if job.want == Want.OFF and note.spoke_us > reads[0].at_us + LATE_US:
        late_s = (note.spoke_us - reads[0].at_us) / 1e6
        return (), f"the device says off, and {note.node} showed itself {late_s:.1f} s after: its word does not hold"
    if job.want == Want.OFF and (said := _moves(note, reads[-1])):
        return (), said
    return reads, ""


def _moves(note: NoteFence, last: PowerRead) -> str:
    """Until just now: what was written before the power went may be seen after."""
    still_us = last.at_us - note.moved_us
    if not note.moved_us or still_us >= MOVES_US:
        return ""
    return f"its record in a pool was seen to move {max(0, still_us) / 1e6:.1f} s before the last read, as one does that is written"


def _wrong_machine(job: Job, note: NoteFence) -> str:
    if note.twin:
        return f"the device answers for the machine of {note.twin}"
    for read in note.reads:
        if not read.error and read.identity != job.identity:
            return f"the device answers for {read.identity or 'no machine'}; when it was tested it was {job.identity}"
    return ""


def _order(job: Job, note: NoteFence) -> str:
    match note.ordered:
        case Ordered.TAKEN:
            return ""
        case Ordered.NEEDLESS:
            before = [read for read in note.reads if read.after_ms < 0 and not read.error]
            if before and before[-1].power == Power(job.want):
                return ""
            return f"the device refused to switch {job.want}, as if it were, and was not read so before"
        case Ordered.SILENT:
            return f"no answer to the order to switch {job.want} in time: nothing is known"
        case Ordered.FAILED | Ordered.NOT_SENT:
            return f"the order to switch {job.want} was not taken"


def _tail(reads: Sequence[PowerRead], wanted: Power) -> tuple[PowerRead, ...]:
    """The last reads after the order, as far back as they are without fault."""
    tail: list[PowerRead] = []
    for read in reversed(reads):
        if read.after_ms < 0 or read.error or read.power != wanted:
            break
        tail.append(read)
    return tuple(reversed(tail))


def _too_few(job: Job, note: NoteFence, count: int) -> str:
    last = note.reads[-1] if note.reads else None
    if last is not None and last.error:
        return f"the power could not be read after the order: {last.error}"
    if count:
        return f"read as {job.want} once only; one read is no proof"
    seen = last.power if last is not None else "nothing"
    return f"the power was not read as {job.want} after the order, but as {seen}"
