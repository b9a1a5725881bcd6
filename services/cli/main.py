"""asvctl: the program. Exit codes are told in failure.py and in `asvctl --help`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.failure import INTERRUPTED, Failure
from services.cli.session import SESSION, begin

HELP = """Run and watch virtual machines on an aSV cluster.

Exit codes: 0 done, 1 refused, 2 usage, 3 not found, 4 unreachable or out of time, 5 denied, 130 interrupted; `vm exec` ends
with the guest program's own. `--json` works on every command, before or behind it."""


GROUPS = {
    "vm": "vm:app",
    "node": "node:app",
    "image": "image:app",
    "task": "task:app",
    "token": "token:app",
    "cluster": "cluster:app",
    "lab": "cluster:lab",
}
SINGLES = {"events": "events:events", "schema": "cluster:schema"}


def program(only: str = "") -> typer.Typer:
    """The tree of commands. `only`: just that branch, for a quick start; an unknown word gives the whole tree."""
    app = typer.Typer(name="asvctl", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_options)
    known = only in GROUPS or only in SINGLES
    for name, place in GROUPS.items():
        if not known or name == only:
            app.add_typer(_find(place), name=name)
    for name, place in SINGLES.items():
        if not known or name == only:
            app.command(name)(_find(place))
    return app


def _find(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"services.cli.{module}"), name)


def first_word(words: Sequence[str], environ: Mapping[str, str]) -> str:
    """The command's first word, past options for all; empty while a shell asks for completions."""
    if "_ASVCTL_COMPLETE" in environ:
        return ""
    rest = iter(words)
    for word in rest:
        if word in ("--api", "--token"):
            next(rest, "")
        elif not word.startswith("-"):
            return word
        elif word in ("--help", "-h"):
            return ""
    return ""


def _options(
    api: Annotated[
        str, typer.Option(metavar="URL", help="The API (env ASV_API). Default: this machine's cluster.")
    ] = "",
    token: Annotated[
        str, typer.Option(metavar="TOKEN", help="A bearer token (env ASV_TOKEN, ASV_TOKEN_FILE).", show_default=False)
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Results and errors as JSON.")] = False,
) -> None:
    SESSION.api, SESSION.token = api, token
    SESSION.json = SESSION.json or json


def run(words: Sequence[str]) -> int:
    """The exit code of one run."""
    begin()
    try:
        program(first_word(words, os.environ))(args=list(words), prog_name="asvctl")
    except Failure as failure:
        show.failure(failure, SESSION.json)
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main() -> None:
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read our output has gone: nothing more can be said there, the interpreter's own flush included
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
