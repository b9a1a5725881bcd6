"""`asvctl what-if`: the recorded state goes on in the deterministic world, with something done to it. It runs as a process of its
own on this machine, on a copy of the log; the cluster hears nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli import show
from services.cli.failure import REFUSED, UNREACHABLE, USAGE, Failure
from services.cli.session import SESSION, AsJson, wants_json
from services.cli.where import find_log

CHECKOUT = Path(__file__).resolve().parents[2]
MODULE = "libs.world.whatif"
CODES = {1: REFUSED, 2: USAGE, 4: UNREACHABLE}
"""by the exit code of that process"""


def what_if(
    kill: Annotated[
        list[str] | None, typer.Option(metavar="node/NAME|vm/NAME", help="It loses power, or its process dies.")
    ] = None,
    add: Annotated[list[str] | None, typer.Option(metavar="NUMBERxVM", help="So many VMs more like that one: 20xweb.")] = None,
    policy: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Other settings (TOML, docs/what-if.md).")] = None,
    remove_memory: Annotated[list[str] | None, typer.Option(metavar="NODE=SIZE", help="It has so much less: n1=64GiB.")] = None,
    at: Annotated[
        str, typer.Option(metavar="NOW|TIME|POSITION", help="From when on; before `what-if` it means the same. Default: now.")
    ] = "",
    compare: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Another variant, in quotes, beside it; '' does nothing.")
    ] = None,
    lived: Annotated[
        str, typer.Option(metavar="TIME", help="It was really done then: what came of it by the log, beside what is foretold.")
    ] = "",
    tries: Annotated[int, typer.Option(help="How many trials, each with another chance.", min=1, max=100)] = 5,
    log: Annotated[str, typer.Option(metavar="DSN|FILE", help="The log (env ASV_LOG). Default: this machine's cluster.")] = "",
    _json: AsJson = False,
) -> None:
    """What would become of the cluster: what would be restarted where and when, what would not fit and why, what would move."""
    given = (("--kill", kill), ("--add", add), ("--policy", policy), ("--remove-memory", remove_memory))
    words = [word for option, values in given for value in values or () for word in (option, value)]
    words += ["--at", at or SESSION.at or "now", "--tries", str(tries), *(["--compare", compare] if compare is not None else [])]
    words += ["--lived", lived] if lived else []
    words += ["--json"] if wants_json() else []
    found = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(found)}
    environ["ASV_LOG"] = find_log(os.environ, log)  # not among the words, which anybody may list
    done = subprocess.run([sys.executable, "-m", MODULE, *words], env=environ, check=False, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        print(line if wants_json() else show.clean(line))
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Failure(CODES.get(done.returncode, REFUSED), said[-1] if said else "the simulation has no answer: see above")
