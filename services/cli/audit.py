"""`asvctl audit`: who did what, when, from where, refused or done. Read from the log itself, by a role that cannot write."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from libs.common import loop
from libs.common.clock import SystemClock
from libs.common.log import LogError
from libs.common.log.archive import BadArchive
from libs.past.where import archive_folder
from libs.verify.audit import Act, Filter, act
from libs.verify.postgres import PostgresEvidence
from services.cli import show, units
from services.cli.failure import UNREACHABLE, USAGE, Failure
from services.cli.session import AsJson, Log, wants_json
from services.cli.where import find_log

LAST = 200


def audit(
    actor: Annotated[str, typer.Option("--actor", help="NAME of a user, service:NAME, node:NAME, or all.")] = "",
    since: Annotated[str, typer.Option("--since", help="A time (2026-11-20 14:03), or how long ago (2h).")] = "",
    object: Annotated[str, typer.Option("--object", metavar="vm/NAME", help="What it was done to; any stream.")] = "",
    last: Annotated[int, typer.Option("--last", min=1, help="The newest of them.")] = LAST,
    log: Log = "",
    _json: AsJson = False,
) -> None:
    """Who did what, when, from where, and whether it was refused. Without --actor: all users."""
    since_us = moment(since, SystemClock().now_us()) if since else 0
    try:
        found = loop.run(_read(find_log(os.environ, log), since_us, Filter(actor, object), last))
    except BadArchive as error:
        raise Failure(UNREACHABLE, str(error)) from error
    except LogError as error:
        raise Failure(UNREACHABLE, str(error), "see that the database runs, and that the address is of a log") from error
    if wants_json():
        show.as_json(msgspec.to_builtins(found))
        return
    rows = [(show.when(a.at_us), a.actor, a.from_, a.did, a.object, _became(a)) for a in found]
    show.table(("WHEN", "WHO", "FROM", "WHAT", "OBJECT", "BECAME"), rows, "nobody did anything of that kind")


def moment(text: str, now_us: int) -> int:
    """Microseconds since the epoch, of a local time or of how long ago. Raises Failure."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e6)
    except ValueError:
        pass
    try:
        return now_us - int(units.seconds(text) * 1e6)
    except typer.BadParameter as error:
        raise Failure(USAGE, f"`{text}` is no time", "write '2026-11-20 14:03', or how long ago: 2h, 30m") from error


async def _read(where: str, since_us: int, wanted: Filter, last: int) -> list[Act]:
    found: list[Act] = []
    evidence = await PostgresEvidence.open(where, archive=archive_folder())
    try:
        await evidence.ends()
        async for rows in evidence.commands(since_us):
            found += [one for one in map(act, rows) if wanted.wants(one)]
            del found[:-last]
    finally:
        await evidence.close()
    return found


def _became(a: Act) -> str:
    if a.outcome == "refused":
        return f"refused: {a.reason}: {a.sentence}"
    return f"done at {a.position}" if a.position else "nothing to do"
