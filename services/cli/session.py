"""What the options before the command said, for the length of one run."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from services.cli.client import Client
from services.cli.failure import USAGE, Failure
from services.cli.where import find


class Session:
    """api and token as given by options (empty: to be found); at: the moment of the past that is asked about, as it is written;
    json: results as JSON."""

    def __init__(self) -> None:
        self.api = ""
        self.token = ""
        self.at = ""
        self.json = False

    def of_now(self, what: str) -> None:
        """Raises Failure where a moment of the past is asked about."""
        if self.at:
            raise Failure(USAGE, f"`{what}` takes no moment before the command", f"leave out --at; see {what} --help")

    def client(self, **options: Any) -> Client:
        """Raises Failure where no API or token can be found."""
        return Client(find(os.environ, self.api, self.token), at=self.at, **options)


SESSION = Session()
"""The one run of this process; `begin` clears it."""


def begin() -> None:
    SESSION.__init__()  # type: ignore[misc]  # the same object, as new: commands hold on to it


def client(**options: Any) -> Client:
    return SESSION.client(**options)


def wants_json() -> bool:
    return SESSION.json


def _note_json(value: bool) -> bool:
    SESSION.json = SESSION.json or value
    return value


AsJson = Annotated[
    bool, typer.Option("--json", help="Result (and errors) as JSON.", callback=_note_json, is_eager=True)
]
Log = Annotated[str, typer.Option("--log", metavar="DSN", help="Another log than that of this machine's cluster.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end, with a progress line.")]
TimeoutS = Annotated[
    float, typer.Option("--timeout", help="With --wait: give up waiting after that many seconds.", min=0.1)
]
