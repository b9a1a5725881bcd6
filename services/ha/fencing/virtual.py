"""One test and one try on a simulated machine in virtual time: what conduct.py does, without waiting. For worlds that have a clock
of their own. Pure but for the machine."""

from __future__ import annotations

from proto.fence import READS_MAX, NoteFence, NoteTest, Ordered, Power, PowerRead, Want
from services.ha.fencing.conduct import PROOF_READS
from services.ha.fencing.device import DeviceError
from services.ha.fencing.simulated import Machine
from services.ha.fencing.states import Job

EVERY_MS = 150
TRY_MS = 12_000


def tested(machine: Machine, node: str, number: int, now_us: int) -> NoteTest:
    try:
        seen = machine.look()
    except DeviceError as error:
        return NoteTest(node=node, number=number, now_us=now_us, error=error.sentence, remedy=error.remedy)
    return NoteTest(node=node, number=number, now_us=now_us, power=seen.power, identity=seen.identity)


def tried(machine: Machine, node: str, job: Job, now_us: int, try_ms: int = TRY_MS) -> NoteFence:
    """Its now_us is when the try was over: it is to be told then."""

    def read(after_ms: int) -> PowerRead:
        at_us = now_us + max(0, after_ms) * 1000
        try:
            seen = machine.look()
        except DeviceError as error:
            return PowerRead(at_us=at_us, after_ms=after_ms, error=error.sentence)
        return PowerRead(at_us=at_us, after_ms=after_ms, power=seen.power, identity=seen.identity)

    def note(ordered: Ordered, reads: list[PowerRead], error: str = "") -> NoteFence:
        over_us = now_us + max(0, reads[-1].after_ms) * 1000
        return NoteFence(
            node=node,
            attempt=job.attempt,
            now_us=over_us,
            ordered=ordered,
            reads=tuple(reads[-READS_MAX:]),
            error=error,
        )

    reads = [read(-1)]
    if reads[0].error or reads[0].identity != job.identity:
        return note(Ordered.NOT_SENT, reads, reads[0].error)
    try:
        machine.switch(on=job.want == Want.ON)
    except DeviceError as error:
        return note(Ordered.SILENT, reads, error.sentence)
    since = -1
    every_ms = max(EVERY_MS, job.apart_ms // PROOF_READS)
    for after_ms in range(0, try_ms + every_ms, every_ms):
        reads.append(read(after_ms))
        good = not reads[-1].error and reads[-1].power == Power(job.want) and reads[-1].identity == job.identity
        since = (after_ms if since < 0 else since) if good else -1
        if good and after_ms > since and after_ms - since >= job.apart_ms:
            break
    return note(Ordered.TAKEN, reads)
