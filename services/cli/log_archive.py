"""`asvctl log archive`: old partitions of the log into files, which all tools read on; what is there, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from libs.common import loop
from libs.common.clock import SystemClock
from libs.common.log import LogError, Unavailable
from libs.common.log.archive import BadArchive
from libs.common.log.archive.file import Archive
from libs.common.log.archive.shelf import Shelf
from libs.past.where import archive_folder
from libs.retention import NotArchived
from libs.retention.archiver import Archiver, Run
from libs.retention.policy import Partition, Policy
from libs.verify import Fault
from libs.verify.archived import Files
from libs.verify.postgres import PostgresEvidence
from libs.verify.verify import verify as prove
from proto.services import SERVICES
from services.cli import show
from services.cli.failure import REFUSED, UNREACHABLE, USAGE, Failure
from services.cli.session import AsJson, Log, wants_json
from services.cli.where import find_archive, find_log, find_owner

NEEDED = (*SERVICES, "gateway")
"""who has to have a snapshot of behind what is archived, so that a start does not need the files"""

app = typer.Typer(help="Old parts of the log, in files that all tools read.", no_args_is_help=False, invoke_without_command=True)
Owner = Annotated[str, typer.Option("--log", metavar="DSN", help="The log, for a member of asv_owner; else this cluster's.")]


@app.callback(invoke_without_command=True)
def create(
    context: typer.Context,
    keep_events: Annotated[int | None, typer.Option("--keep-events", min=0, help="Newest that stay; else the policy's.")] = None,
    keep_days: Annotated[float | None, typer.Option("--keep-days", min=0, help="Days that stay; else the policy's.")] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to; else this machine's cluster's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is due.")] = False,
    log: Owner = "",
    _json: AsJson = False,
) -> None:
    """Archive all partitions that are due: each is written, read back and proven, recorded, and only then taken away."""
    if context.invoked_subcommand is not None:
        return
    where = (folder or find_archive(os.environ)).absolute()
    changes = {name: value for name, value in (("keep_events", keep_events), ("keep_days", keep_days)) if value is not None}
    owner = find_owner(os.environ, log)
    if dry_run:
        _planned(_run(_plan(owner, where, changes)))
    else:
        _told(_run(_create(owner, where, changes)))


@app.command()
def policy(
    keep_events: Annotated[int | None, typer.Option("--keep-events", min=0, help="At least so many of the newest; 0: any.")] = None,
    keep_days: Annotated[float | None, typer.Option("--keep-days", min=0, help="All of so many days; 0: any.")] = None,
    commands_days: Annotated[float | None, typer.Option("--commands-days", min=1, help="How long a repeated id is known.")] = None,
    partition_events: Annotated[
        int | None, typer.Option("--partition-events", min=100_000, help="Size of the partitions that are to come.")
    ] = None,
    log: Owner = "",
    _json: AsJson = False,
) -> None:
    """What stays in the database. Shows it; with options, sets it."""
    given = {"keep_events": keep_events, "keep_days": keep_days, "commands_days": commands_days}
    changes = {name: value for name, value in given.items() if value is not None}
    found, size = _run(_policy(find_owner(os.environ, log), changes, partition_events))
    if wants_json():
        show.as_json(msgspec.to_builtins(found) | {"partition_events": size})
        return
    print(f"In the database stay the newest {found.keep_events} events, and all of {found.keep_days:g} days;")
    print(f"commands of {found.commands_days:g} days. New partitions have {size} events.")


@app.command()
def ls(log: Log = "", _json: AsJson = False) -> None:
    """All archives, and whether their files are there."""
    shelf = _run(_shelf(find_log(os.environ, log)))
    rows = [_line(shelf, n) for n in range(len(shelf.rows))]
    if wants_json():
        show.as_json(rows)
        return
    cells = [
        (f"{r['first']}-{r['last']}", show.when(r["until_us"]), f"{r['size'] / 1e6:.1f} MB", r["state"], r["file"])
        for r in rows
    ]  # fmt: skip
    show.table(("POSITIONS", "UNTIL", "SIZE", "STATE", "FILE"), cells, "nothing is archived")


@app.command()
def verify(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]…", help="Archives in order; else all of the log.")] = None,
    log: Log = "",
    _json: AsJson = False,
) -> None:
    """Whether the files are what was written, and one chain: all bytes are read. Exit code 1 where not."""
    found = _run(_verify_files(files)) if files else _run(_verify_all(find_log(os.environ, log)))
    if wants_json():
        show.as_json(msgspec.to_builtins(found) | {"holds": not found["faults"]})
    else:
        for fault in found["faults"]:
            print(show.clean(f"  {fault.where}: {fault.what}"))
        held = "hold" if not found["faults"] else "do not hold"
        print(f"{found['archives']} archives, positions {found['first']} to {found['last']}: they {held}.")
    if found["faults"]:
        raise typer.Exit(REFUSED)


# --- the work -------------------------------------------------------------------------------------------------------


def _run[T](work: Coroutine[Any, Any, T]) -> T:
    """Raises Failure."""
    try:
        return loop.run(work)
    except (NotArchived, BadArchive) as error:
        raise Failure(REFUSED, str(error)) from error
    except Unavailable as error:
        raise Failure(UNREACHABLE, str(error), "see that the database runs") from error
    except LogError as error:
        raise Failure(UNREACHABLE, str(error), "see that the address is of a log, and that it is migrated") from error


def _step(word: str, what: str) -> None:
    if not wants_json():
        show.note(f"{word} {what}")


async def _create(owner: str, folder: Path, changes: dict[str, Any]) -> Run:
    archiver = await Archiver.open(owner, folder, _step)
    try:
        wanted = msgspec.structs.replace(await archiver.policy(), **changes)
        return await archiver.run(wanted, NEEDED, SystemClock().now_us())
    finally:
        await archiver.close()


async def _plan(owner: str, folder: Path, changes: dict[str, Any]) -> list[Partition]:
    archiver = await Archiver.open(owner, folder, _step)
    try:
        wanted = msgspec.structs.replace(await archiver.policy(), **changes)
        return await archiver.plan(wanted, SystemClock().now_us())
    finally:
        await archiver.close()


async def _policy(owner: str, changes: dict[str, Any], partition_events: int | None) -> tuple[Policy, int]:
    archiver = await Archiver.open(owner, Path("/"))
    try:
        if changes or partition_events:
            await archiver.set_policy(msgspec.structs.replace(await archiver.policy(), **changes), partition_events)
        return await archiver.policy(), await archiver.partition_events()
    finally:
        await archiver.close()


async def _shelf(where: str) -> Shelf:
    evidence = await PostgresEvidence.open(where, archive=archive_folder())
    await evidence.close()
    return evidence.shelf


def _line(shelf: Shelf, number: int) -> dict[str, Any]:
    row = shelf.rows[number]
    path = shelf.path(row)
    try:
        Archive.open(path, row.registered)
        state = "whole" if row.dropped else "in the database, too"
    except BadArchive as error:
        state = "bad: " + str(error).partition("(")[2].partition(") ")[2]
    return {
        "first": row.first, "last": row.last, "batches": row.last_batch - row.first_batch + 1, "until_us": row.until_us,
        "size": row.size, "state": state, "file": str(path),
    }  # fmt: skip


async def _verify_all(where: str) -> dict[str, Any]:
    shelf = await _shelf(where)
    if not shelf.rows:
        raise Failure(USAGE, "nothing is archived", "`asvctl log verify` looks at the database")
    archives, faults = [], []
    for row in shelf.rows:
        try:
            archives.append(Archive.open(shelf.path(row), row.registered))
        except BadArchive as error:
            faults.append(Fault(f"archive {row.name}", str(error)))
    return await _held(archives if not faults else [], faults, len(shelf.rows), shelf.rows[0].first, shelf.last)


async def _verify_files(files: list[Path]) -> dict[str, Any]:
    archives = [Archive.open(file) for file in files]
    return await _held(archives, [], len(files), archives[0].header.first, archives[-1].header.last)


async def _held(archives: list[Archive], faults: list[Fault], many: int, first: int, last: int) -> dict[str, Any]:
    """The chain is walked where all files could be opened."""
    for archive in archives:
        try:
            archive.check()
        except BadArchive as error:
            faults.append(Fault(f"archive {archive.path.name}", str(error)))
    if archives and not faults:
        faults += (await prove(Files(archives))).faults
    return {"archives": many, "first": first, "last": last, "faults": faults}


# --- what is said ---------------------------------------------------------------------------------------------------


def _planned(found: list[Partition]) -> None:
    if wants_json():
        show.as_json(msgspec.to_builtins(found))
        return
    rows = [(one.name, f"{one.first}-{one.last}", show.when(one.until_us)) for one in found]
    show.table(("PARTITION", "POSITIONS", "UNTIL"), rows, "nothing is due")


def _told(run: Run) -> None:
    if wants_json():
        archived = [{"first": row.first, "last": row.last, "file": row.name, "size": row.size} for row in run.archived]
        show.as_json({"archived": archived, "blocked": run.blocked})
    else:
        for row in run.archived:
            print(f"Positions {row.first} to {row.last} are in {Path(row.folder) / row.name} ({row.size / 1e6:.1f} MB).")
        if not run.archived and not run.blocked:
            print("Nothing is due.")
    if run.blocked:
        raise Failure(REFUSED, "the next partition is due and stays: " + "; ".join(run.blocked))
