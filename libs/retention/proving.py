"""A file that was just made, read back and held against the chain: only then may anything be taken away."""

from __future__ import annotations

from libs.common.log import NewEvent
from libs.common.log.archive.file import FRAME_DIGEST_BYTES, Archive
from libs.common.log.archive.shelf import Shelved
from libs.common.log.digest import event_digest
from libs.common.log.link import Connection
from libs.common.messages import Recorded
from libs.retention import NotArchived
from libs.verify.archived import Files, behind
from libs.verify.verify import verify

HASH = "select hash from asv.log_batches where number = $1"


async def prove(archive: Archive, before: Shelved | None, connection: Connection) -> None:
    """That it goes on from the archive before it, holds, and ends where the database's chain is. Raises NotArchived, BadArchive."""
    archive.check()
    header = archive.header
    report = await verify(Files([archive]), start=behind(before))
    if report.faults:
        fault = report.faults[0]
        said = f"{fault.where} {fault.what}" + (f", and {len(report.faults) - 1} more faults" if len(report.faults) > 1 else "")
        raise NotArchived(f"{header.span} do not hold: {said}. Nothing was taken away; `asvctl log verify` looks at them")
    for records, digests in archive.events(header.ended, header.last):
        for n, recorded in enumerate(records):
            if _digest(recorded) != digests[n * FRAME_DIGEST_BYTES : (n + 1) * FRAME_DIGEST_BYTES]:
                raise NotArchived(f"position {recorded.position} does not hold: its content is not what was written")
    known = await connection.fetchval(HASH, header.last_batch)
    if known is not None and known != header.hash:
        said = f"{archive.path} ends with another link at batch {header.last_batch} than the database has"
        raise NotArchived(f"{said}: it is of another history. Move it away, and archive again")


def _digest(r: Recorded) -> bytes:
    return event_digest(r.stream, r.version, NewEvent(r.type, r.v, r.data, r.meta))
