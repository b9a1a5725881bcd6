"""`asvctl log verify`: does the log still hold what was written?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from libs.common import loop
from libs.common.log import LogError
from libs.common.log.archive import BadArchive
from libs.past.aslog import ENDING as ASLOG
from libs.past.aslog import AslogPast
from libs.past.where import archive_folder
from libs.verify.archived import Files, opened
from libs.verify.beside import Ended
from libs.verify.checkpoint import Checkpoint, compare
from libs.verify.postgres import PostgresEvidence
from libs.verify.reading import Reading
from libs.verify.slices import look
from libs.verify.verify import Report
from libs.verify.verify import verify as prove
from proto.families import REGISTRY
from services.cli import log_checkpoint, show
from services.cli.failure import REFUSED, UNREACHABLE, USAGE, Failure
from services.cli.session import AsJson, Log, wants_json
from services.cli.where import find_log

FAULTS_SHOWN = 40


def verify(
    log: Log = "",
    after: Annotated[int, typer.Option("--from", min=0, metavar="POSITION", help="From the batch that holds it.")] = 0,
    until: Annotated[int, typer.Option("--to", min=0, metavar="POSITION", help="Up to it; 0: the end.")] = 0,
    deep: Annotated[
        bool, typer.Option("--deep", help="Fold it, too: against snapshots, and the running services unless --log is given.")
    ] = False,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", metavar="FILE", help="Of `log checkpoint`: the log still has that history.")
    ] = None,
    database_only: Annotated[
        bool, typer.Option("--database-only", help="Without archives: from the last of them on, whose link is believed.")
    ] = False,
    signer: Annotated[str, typer.Option("--signer", help="Public key of who has to have signed it; else this cluster's.")] = "",
    _json: AsJson = False,
) -> None:
    """Whether the log is what was written: chain, gaps, versions, times, commands, and that today's code reads every event.

    --log takes files, too: an archive, a folder of them, or a slice (NAME.aslog).

    Exit code 1 where anything does not hold; each fault is named.
    """
    if until and until < after:
        raise Failure(USAGE, f"--to {until} is before --from {after}", "give the smaller position to --from")
    held = [log_checkpoint.read(file, signer) for file in checkpoint or ()]
    if (held or deep) and (after or until):
        raise Failure(USAGE, "a checkpoint, and what is folded, are held against the whole log", "leave out --from and --to")
    where, part = find_log(os.environ, log), Part(after, until or None)
    if where.endswith(ASLOG):
        if held or deep or after or until:
            raise Failure(USAGE, f"{where} is a slice: it has no chain, and is looked at whole", "leave out all but --log")
        work = _slice(Path(where))
    else:
        work = _verify(where, part, held, deep, live=deep and not log, archives=not database_only)
    try:
        report = loop.run(work)
    except BadArchive as error:
        raise Failure(UNREACHABLE, str(error)) from error
    except LogError as error:
        raise Failure(UNREACHABLE, str(error), "see that the database runs, and that the address is of a log") from error
    except Ended as error:
        raise Failure(UNREACHABLE, str(error), "see that there is memory for all states, and ask again") from error
    _tell(report)


class Part(NamedTuple):
    """Which positions; until None: up to the head."""

    after: int
    until: int | None


async def _slice(file: Path) -> Report:
    past = AslogPast.open(file)
    return look(past.content, [Reading(REGISTRY)])


async def _evidence(where: str, archives: bool) -> PostgresEvidence | Files:
    """Of a database, or of files. Raises LogError."""
    if "://" in where:
        return await PostgresEvidence.open(where, archive=archive_folder(), archives=archives)
    return Files(opened(Path(where)))


async def _verify(where: str, part: Part, held: Sequence[Checkpoint], deep: bool, live: bool, archives: bool) -> Report:
    evidence = await _evidence(where, archives)
    try:
        ends = await evidence.ends()
        end = ends.position
        furthest = max(part.after, part.until or 0)
        if furthest > end:
            raise Failure(USAGE, f"position {furthest} does not exist: the log ends at {end}", f"say at most {end}")
        notes: list[str] = []
        if deep:
            _whole((await evidence.start(0)).position)
            report = await _deep(evidence, end, live, notes)
        else:
            report = await prove(evidence, max(part.after - 1, 0), part.until, [Reading(REGISTRY)])
        report.notes += notes
        for one in held:
            report.faults += await compare(evidence, ends, one)
            report.notes.append(f"Held against the checkpoint at position {one.position}, signed by {one.signer}.")
        return report
    finally:
        await evidence.close()


async def _deep(evidence: PostgresEvidence | Files, end: int, live: bool, notes: list[str]) -> Report:
    from services.cli import log_deep  # all services' code, for this alone

    held, others = await log_deep.held(evidence, live, notes)
    with log_deep.folding(held, end) as readers:
        return await prove(evidence, readers=[*readers, *others])


def _whole(position: int) -> None:
    if position:
        said = f"what is folded has to begin with position 1, and this begins behind {position}"
        raise Failure(USAGE, said, "give all archives, or leave out --deep")


def _tell(report: Report) -> None:
    if wants_json():
        show.as_json(msgspec.to_builtins(report) | {"holds": report.holds})
    else:
        rate = f" in {report.seconds:.1f} s" if report.seconds else ""
        print(f"Positions {report.after + 1} to {report.until}: {report.events} events in {report.batches} batches{rate}.")
        for note in report.notes:
            print(note)
        for fault in report.faults[:FAULTS_SHOWN]:
            print(show.clean(f"  {fault.where}: {fault.what}"))
        if len(report.faults) > FAULTS_SHOWN:
            print(f"  and {len(report.faults) - FAULTS_SHOWN} more (--json tells all)")
        print("The log holds." if report.holds else "The log does not hold.")
    if not report.holds:
        raise typer.Exit(REFUSED)
