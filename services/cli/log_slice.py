"""`asvctl log export` and `asvctl log import`: a part of the log as a file, and such a file as a log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.failure import USAGE, Failure
from services.cli.moment import zoned
from services.cli.session import AsJson, Log, wants_json
from services.cli.where import find_log

ROOT = str(Path(__file__).resolve().parents[2])
MOMENT = "POSITION|TIME"


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.aslog", help="Made anew; one that is there is left alone.")],
    vm: Annotated[list[str] | None, typer.Option("--vm", metavar="NAME", help="What this VM's story needs.")] = None,
    node: Annotated[list[str] | None, typer.Option("--node", metavar="NAME", help="What this node's story needs.")] = None,
    around: Annotated[str, typer.Option(metavar=MOMENT, help="What happened about then.")] = "",
    before: Annotated[int, typer.Option(min=0, help="With --around: so many events of the log before.")] = 500,
    after: Annotated[int, typer.Option(min=0, help="With --around: so many after.")] = 500,
    first: Annotated[str, typer.Option("--from", metavar=MOMENT, help="What happened from here on.")] = "",
    last: Annotated[str, typer.Option("--to", metavar=MOMENT, help="Up to here.")] = "",
    anonymize: Annotated[bool, typer.Option("--anonymize", help="Other names of the same shapes; no texts.")] = False,
    names: Annotated[str, typer.Option(metavar="FILE", help="Keep here which new name is whose (for yourself).")] = "",
    key: Annotated[str, typer.Option(metavar="FILE", help="Make the new names from these bytes; else from chance.")] = "",
    note: Annotated[str, typer.Option(help="A sentence that goes along.")] = "",
    log: Log = "",
    _json: AsJson = False,
) -> None:
    """Write a part of the log to a file that decides again, elsewhere, as it did here.

    Without --vm and --node all of it is in it. Exit codes: 2 nothing such is in the log, 6 it cannot be anonymized.
    """
    said = (("from", _moment(first)), ("to", _moment(last)), ("around", _moment(around)), ("names", names), ("key", key))
    words = ["export", str(file), "--log", find_log(os.environ, log), f"--before={before}", f"--after={after}", f"--note={note}"]
    words += [f"--vm={one}" for one in vm or ()] + [f"--node={one}" for one in node or ()]
    words += [f"--{name}={value}" for name, value in said if value]
    _run([*words, *(("--anonymize",) if anonymize else ())])


def take_in(
    file: Annotated[Path, typer.Argument(metavar="FILE.aslog", help="Of `log export`.")],
    log: Annotated[str, typer.Option(metavar="DSN", help="A new database, as its owner: postgresql://OWNER@HOST/DATABASE.")],
    _json: AsJson = False,
) -> None:
    """Make a log of such a file, in a database that has none yet: positions, times and the chain over them.

    Whole or not at all. Exit codes: 5 that log is not empty, 6 the file is torn, no one log, or of a later release.
    """
    _run(["import", str(file), "--log", log])


def _moment(text: str) -> str:
    """A position as it is, a time as @MICROSECONDS."""
    if not text or text.isdigit():
        return text
    from datetime import datetime  # here: most commands ask of now, and start faster without it

    try:
        time = datetime.fromisoformat(zoned(text))
        return f"@{round(time.timestamp() * 1_000_000)}"
    except ValueError as error:
        raise Failure(USAGE, f"`{text}` is neither a position nor a time", "write 18233 or '2026-11-20 14:03'") from error


def _run(words: list[str]) -> None:
    # Who can decide again is the host, as for `replay` (docs/decisions/0038).
    words += ["--json"] if wants_json() else []
    sys.stdout.flush()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH", ""))))}
    done = subprocess.run([sys.executable, "-m", "services.host.slices", *words], env=environ, check=False)
    raise typer.Exit(done.returncode)
