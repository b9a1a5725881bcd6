"""`asvctl log checkpoint`: where the log is, signed, in a file outside of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from libs.common import loop
from libs.common.bus.credentials import BadCredentials, Key, key_from, write_private
from libs.common.clock import SystemClock
from libs.common.log import LogError
from libs.past.where import archive_folder
from libs.verify import checkpoint as checkpoints
from libs.verify.checkpoint import BadCheckpoint, Checkpoint
from libs.verify.postgres import PostgresEvidence
from services.cli import show
from services.cli.failure import DENIED, UNREACHABLE, USAGE, Failure
from services.cli.session import AsJson, Log, wants_json
from services.cli.where import find_log, home

OPERATOR = Path("keys") / "operator.seed"
"""the cluster's own key, below the state folder of an embedded one"""
Seed = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="A seed of the cluster; else this machine's operator's.")]


def checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE")], key: Seed = None, log: Log = "", _json: AsJson = False
) -> None:
    """Write where the log's chain is into a new file, signed by the cluster's key. Keep it elsewhere than the database."""
    if file.exists():
        raise Failure(USAGE, f"{file} is there already, and a checkpoint is never written over", "give another name")
    if not file.absolute().parent.is_dir():
        raise Failure(USAGE, f"the folder of {file} is not there", "make it, or give another name")
    taken = _taken(find_log(os.environ, log), _key(key or home(os.environ) / OPERATOR))
    write_private(file, checkpoints.write(taken))
    if wants_json():
        show.as_json(msgspec.to_builtins(taken))
    else:
        print(f"The log at position {taken.position} (batch {taken.batch}), signed by {taken.signer}, is in {file}.")


def read(file: Path, signer: str) -> Checkpoint:
    """For `log verify`. signer: as given; where it was not, this machine's cluster's, where it has one. Raises Failure."""
    own = home(os.environ) / OPERATOR
    try:
        wanted = signer or (_key(own).public if own.exists() else "")
        return checkpoints.read(file.read_bytes(), wanted)
    except OSError as error:
        raise Failure(USAGE, f"{file} cannot be read: {error.strerror}", "give a file of `asvctl log checkpoint`") from error
    except BadCheckpoint as error:
        said = f"{file} proves nothing: {error}"
        raise Failure(USAGE, said, "use it as it was written; --signer says whose it has to be") from error


def _key(path: Path) -> Key:
    try:
        return key_from(path)
    except BadCredentials as error:
        raise Failure(DENIED, str(error), "give the seed of the cluster's operator by --key") from error


def _taken(where: str, key: Key) -> Checkpoint:
    async def end() -> Checkpoint:
        evidence = await PostgresEvidence.open(where, archive=archive_folder())
        try:
            return checkpoints.take(await evidence.ends(), key, SystemClock().now_us())
        finally:
            await evidence.close()

    try:
        return loop.run(end())
    except (LogError, BadCheckpoint) as error:
        raise Failure(UNREACHABLE, str(error), "see that the database runs, and that the address is of a log") from error
