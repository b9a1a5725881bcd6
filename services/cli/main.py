"""asvctl: the program. Exit codes are told in failure.py and in `asvctl --help`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer

from services.cli import show
from services.cli.failure import INTERRUPTED, Failure
from services.cli.moment import zoned
from services.cli.session import SESSION, begin

HELP = """Run and watch virtual machines on an aSV cluster.

Exit codes: 0 done, 1 refused, 2 usage, 3 not found, 4 unreachable or out of time, 5 denied, 130 interrupted; `vm exec` ends
with the guest program's own. `--json` works on every command, before or behind it; so does `--at` on those that read."""


GROUPS = {
    "vm": "vm:app",
    "node": "node:app",
    "disk": "devices:disk",
    "nic": "devices:nic",
    "network": "network:app",
    "cd": "cd:app",
    "snapshot": "snapshot:app",
    "backup": "backup:app",
    "recovery": "recovery:app",
    "memory": "memory:app",
    "image": "image:app",
    "pool": "pool:app",
    "ha": "ha:app",
    "task": "task:app",
    "token": "token:app",
    "log": "log:app",
    "cluster": "cluster:app",
    "lab": "cluster:lab",
}
SINGLES = {
    "alerts": "alerts:alerts",
    "audit": "audit:audit",
    "events": "events:events",
    "diff": "past:diff",
    "timeline": "past:timeline",
    "why": "why:why",
    "why-not": "why:why_not",
    "replay": "replay:replay",
    "what-if": "what_if:what_if",
    "schema": "cluster:schema",
}


BESIDE_THE_API = ("audit", "log", "lab", "replay")
"""commands that ask no gateway: what they say of the past is said by options of their own"""


def program(only: str = "", *, listing: bool = False) -> typer.Typer:
    """The tree of commands. `only`: just that branch, for a quick start, with --api, --token and --at already read. listing: also
    without --help, for whose sake alone typer would load its validation library."""
    app = typer.Typer(
        name="asvctl",
        help=HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=not only,
        add_help_option=not listing,
    )
    app.callback()(_json_option if only else _options)
    for name, place in GROUPS.items():
        if only in ("", name):
            group: typer.Typer = _find(place)
            for command in group.registered_commands:
                command.add_help_option = not listing
            app.add_typer(group, name=name, add_help_option=not listing)
    for name, place in SINGLES.items():
        if only in ("", name):
            app.command(name)(_find(place))
    return app


def _find(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"services.cli.{module}"), name)


class Words(NamedTuple):
    """A command line, its options for all taken apart. only: its first word, where that is a command and nothing else is
    wanted (help, completion, or a complaint about a word that is not known): then the whole tree is needed."""

    only: str
    rest: list[str]
    given: dict[str, str]


def split(words: Sequence[str], environ: Mapping[str, str]) -> Words:
    """Reads --api, --token and --at by hand: text options make typer load a validation library, which takes 100 ms."""
    whole = Words("", list(words), {})
    flags, given, at = [], {}, 0
    while at < len(words) and words[at].startswith("-"):
        name, equals, value = words[at].partition("=")
        if words[at] == "--json":
            flags.append(words[at])
        elif name in ("--api", "--token", "--at") and (equals or at + 1 < len(words)):
            at += not equals
            given[name[2:]] = value if equals else words[at]
        else:
            return whole
        at += 1
    if "_ASVCTL_COMPLETE" in environ or at == len(words) or words[at] not in {*GROUPS, *SINGLES}:
        return whole
    rest, moment = _moment(list(words[at:]))
    return Words(words[at], flags + rest, given | moment)


def _moment(rest: list[str]) -> tuple[list[str], dict[str, str]]:
    """--at behind a command says the same as before it; but for those that have their own, and for what goes to a guest."""
    if rest[0] == "what-if" or rest[:2] in (["vm", "exec"], ["vm", "recover"], ["recovery", "run"]):
        return rest, {}
    end = rest.index("--") if "--" in rest else len(rest)
    for n, word in enumerate(rest[:end]):
        if word.startswith("--at="):
            return rest[:n] + rest[n + 1 :], {"at": word[len("--at=") :]}
        if word == "--at" and n + 1 < end:
            return rest[:n] + rest[n + 2 :], {"at": rest[n + 1]}
    return rest, {}


def _json_option(json: Annotated[bool, typer.Option("--json")] = False) -> None:
    SESSION.json = SESSION.json or json


def _options(
    api: Annotated[
        str, typer.Option(metavar="URL", help="The API (env ASV_API). Default: this machine's cluster.")
    ] = "",
    token: Annotated[
        str, typer.Option(metavar="TOKEN", help="A bearer token (env ASV_TOKEN, ASV_TOKEN_FILE).", show_default=False)
    ] = "",
    at: Annotated[
        str,
        typer.Option(metavar="TIME|POSITION", help="What reads shows what was so then: '2026-11-20 14:03', -10m, now, a position."),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Results and errors as JSON.")] = False,
) -> None:
    SESSION.api, SESSION.token, SESSION.at = api, token, zoned(at)
    _json_option(json)


def run(words: Sequence[str]) -> int:
    """The exit code of one run."""
    begin()
    try:
        only, rest, given = split(words, os.environ)
        SESSION.api, SESSION.token, SESSION.at = given.get("api", ""), given.get("token", ""), zoned(given.get("at", ""))
        if only in BESIDE_THE_API:
            SESSION.of_now(f"asvctl {only}")
        program(only, listing=bool(only) and "ls" in rest[:3] and "--help" not in rest)(args=rest, prog_name="asvctl")
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
