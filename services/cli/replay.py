"""`asvctl replay`: what a service decided, decided again by today's code; the first difference, the first break, step by step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.session import AsJson, wants_json
from services.cli.where import find_log

ROOT = str(Path(__file__).resolve().parents[2])


def replay(
    service: Annotated[str, typer.Option(metavar="SERVICE", help="Whose decisions: compute, memory, io or ha; else all.")] = "",
    first: Annotated[int, typer.Option("--from", metavar="POSITION", help="Only what was decided from here on.")] = 0,
    last: Annotated[int, typer.Option("--to", metavar="POSITION", help="Up to here.")] = 0,
    log: Annotated[str, typer.Option(metavar="DSN|FILE", help="The log (env ASV_LOG). Default: this machine's cluster's.")] = "",
    step: Annotated[bool, typer.Option("--step", help="Walk through it event by event, on this terminal.")] = False,
    bisect: Annotated[bool, typer.Option("--bisect", help="Find where it broke: say --condition or --good.")] = False,
    condition: Annotated[str, typer.Option(metavar="TEXT", help="As `vm-web-1.state.kind == 'Running'`: what broke it.")] = "",
    monotonic: Annotated[bool, typer.Option("--monotonic", help="Once broken it stays so: a few looks will do.")] = False,
    good: Annotated[str, typer.Option(metavar="REVISION", help="The code that still decides as was recorded.")] = "",
    bad: Annotated[str, typer.Option(metavar="REVISION", help="The code that does not.")] = "HEAD",
    repository: Annotated[str, typer.Option(metavar="FOLDER", help="Where the revisions are. Default: this program's.")] = "",
    parts: Annotated[int, typer.Option(min=0, max=8, help="Processes side by side; 0: as many as the log is worth.")] = 0,
    _json: AsJson = False,
) -> None:
    """Decide again what was decided; 0: the same, 1: it differs, 6: this release cannot replay this log."""
    # The services are no business of asvctl's: who knows them all is the host, which is handed the words (docs/decisions/0038).
    words = ["--log", find_log(os.environ, log), "--from", str(first), "--to", str(last), "--bad", bad, "--parts", str(parts)]
    named = (("--service", service), ("--condition", condition), ("--good", good), ("--repository", repository))
    words += [f"{name}={value}" for name, value in named if value]
    flags = (("--step", step), ("--bisect", bisect), ("--monotonic", monotonic), ("--json", wants_json()))
    words += [name for name, given in flags if given]
    sys.stdout.flush()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH", ""))))}
    done = subprocess.run([sys.executable, "-m", "services.host.replay", *words], env=environ, check=False)
    raise typer.Exit(done.returncode)
