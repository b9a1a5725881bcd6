"""Python's own debugger at the entry of a decision."""

from __future__ import annotations

import pdb  # noqa: T100 it is what the user asked for
from collections.abc import Callable
from types import FrameType
from typing import IO, Any

from libs.common.decider import Refused


class _Debugger(pdb.Pdb):
    """With `$command` and `$state` in every frame, whatever the decision calls its arguments."""

    def __init__(self, given: dict[str, Any], stdin: IO[str] | None, stdout: IO[str] | None) -> None:
        super().__init__(stdin=stdin, stdout=stdout)
        self.given = given

    def interaction(self, frame: FrameType | None, *rest: Any) -> None:
        if frame is not None:
            frame.f_globals.setdefault("__pdb_convenience_variables", {}).update(self.given)
        super().interaction(frame, *rest)


def debug(
    decide: Callable[[Any, Any], Any], command: Any, state: Any, stdin: IO[str] | None = None, stdout: IO[str] | None = None
) -> str:  # fmt: skip
    """Stops before the first line of `decide`, with the command and the state as its arguments. What came of it, in a line."""
    debugger = _Debugger({"command": command, "state": state}, stdin, stdout)
    debugger.message(
        f"\n{type(command).__name__} on {type(state).__name__}: `p $command`, `p $state`; `n`, `s` step; `c` comes back"
    )
    try:
        made = debugger.runcall(decide, command, state)
    except Refused as no:
        return f"refused: {no}"
    except Exception as bug:  # it is looked at, not run for its effect
        return f"raised {bug!r}"
    if made is None:  # no decision gives that
        return "left before the end"
    return f"decided: {', '.join(type(event).__name__ for event in made) or 'nothing'}"
