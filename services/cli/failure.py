"""How a command ends when it does not succeed: one exit code, one sentence, one remedy.

0   done
1   refused: the rules, or the task that was awaited, say no
2   usage: a word, size or body that was not understood
3   not found
4   unreachable: no API, the control plane is away, or the time was over
5   denied: no token, a wrong one, or one without the role
130 interrupted by Ctrl-C
`vm exec` ends with the guest program's own exit code.
"""

from __future__ import annotations

from typing import Any

REFUSED = 1
USAGE = 2
NOT_FOUND = 3
UNREACHABLE = 4
DENIED = 5
INTERRUPTED = 130

_BY_STATUS = {400: USAGE, 401: DENIED, 403: DENIED, 404: NOT_FOUND, 408: UNREACHABLE, 422: USAGE}


class Failure(Exception):
    """Ends the program. `problem` is the gateway's own answer, where there was one."""

    def __init__(self, code: int, sentence: str, remedy: str = "", problem: dict[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
        self.problem = problem or {}

    def as_dict(self) -> dict[str, Any]:
        """For --json: the problem, with the exit code beside it."""
        said = {"detail": self.sentence, "remedy": self.remedy, "exit_code": self.code}
        return {k: v for k, v in (self.problem | said).items() if v != ""}


def code_of(status: int) -> int:
    """The exit code of an HTTP status other than success."""
    return _BY_STATUS.get(status, UNREACHABLE if status >= 500 else REFUSED)
