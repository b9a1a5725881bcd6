"""`asvctl log read FILE.aslog WORDS…`: any read command, asked of a log in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.failure import USAGE, Failure

ROOT = str(Path(__file__).resolve().parents[2])


def read(
    file: Annotated[Path, typer.Argument(metavar="FILE.aslog", help="Of `log export`.")],
    words: Annotated[list[str], typer.Argument(metavar="WORDS…", help="As `why vm/web-1`, `timeline node/n2`, `--at 40 vm ls`.")],
) -> None:
    """Ask a log in a file what one asks a cluster: why, why-not, timeline, diff, and what ls and show tell, at any --at.

    Without --at it is asked of its end. What only the present can say is refused.
    """
    from services.cli.main import run  # here: it is what calls this

    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH", ""))))}
    command = [sys.executable, "-m", "services.gateway.past.shown", str(file)]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdin is not None and shown.stdout is not None
        try:
            line = shown.stdout.readline()
            if not line:
                raise typer.Exit(shown.wait())
            told = json.loads(line)
            if any(word in ("--api", "--token") or word.startswith(("--api=", "--token=")) for word in words):
                raise Failure(USAGE, "--api and --token are of a cluster, and this is a file", "leave them out")
            moment = words[0] == "diff" or any(word == "--at" or word.startswith("--at=") for word in words)
            when = () if moment else ("--at", str(told["position"]))
            code = run(["--api", told["api"], "--token", told["token"], *when, *words])
        finally:
            shown.stdin.close()
    raise typer.Exit(code)
