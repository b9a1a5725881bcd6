"""`asvctl replay --bisect --good REVISION`: the first revision of the code that decides otherwise than was recorded; with a
condition, the first by whose states it breaks.

Each revision that is looked at is checked out by itself (`git worktree`), and its own `python -m services.host.replay` runs on the
same log. Revisions that cannot say (they cannot read the log, do not start, or are from before there was a replay) are passed over,
as git bisect does. What a revision says counts, not its exit code alone: Python ends with 1 whatever is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from libs.past.replaying import bounds
from libs.past.where import opened
from services.host.replay import tell
from services.host.replay.words import DIFFERS, SAME, UNREADABLE, Wanted

RUN_S_MAX = 3600
SAYS = {SAME: "decides what was recorded", DIFFERS: "decides otherwise", UNREADABLE: "cannot say"}
HOLDS = {SAME: "keeps the condition", DIFFERS: "breaks the condition", UNREADABLE: "cannot say"}
HERE = Path(__file__).resolve().parents[3]


class BadRevision(Exception):
    """What is asked for cannot be bisected. The sentence says why."""


class Found(NamedTuple):
    """first: the first revision that differs; unsure: revisions just before it that could not say, any of which it may be; looks:
    how many were run."""

    first: str
    unsure: tuple[str, ...]
    looks: int


def search(revisions: Sequence[str], look: Callable[[str], int]) -> Found:
    """Pure. `revisions` from the first behind the good one to the bad one, in order; look: how a replay at it ends. Halves, and
    goes to the nearest that can say where one cannot. The last is known to differ."""
    known: dict[str, int] = {revisions[-1]: DIFFERS}
    low, high = -1, len(revisions) - 1
    while True:
        between = [n for n in range(low + 1, high) if known.get(revisions[n]) is None]
        if not between:
            return Found(revisions[high], tuple(revisions[low + 1 : high]), len(known) - 1)
        middle = min(between, key=lambda n: (abs(2 * n - low - high), n))
        found = known[revisions[middle]] = look(revisions[middle])
        if found == SAME:
            low = middle
        elif found == DIFFERS:
            high = middle


class Checkouts:
    """Worktrees of one repository, made beside it and gone at the end."""

    def __init__(self, repository: Path, words: Sequence[str], found: str = "difference") -> None:
        """words: to the replay of each; found: what of its answer is null where nothing was found."""
        self._repository = repository
        self._words = words
        self._found = found
        self.differences: dict[str, dict[str, Any]] = {}
        """by commit, as its replay told it"""

    def git(self, *words: str) -> str:
        """Raises BadRevision with what git said."""
        try:
            done = subprocess.run(
                ["git", "-C", str(self._repository), *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
            )
        except OSError as error:
            raise BadRevision(f"git cannot be run: {error}") from error
        if done.returncode:
            raise BadRevision(f"git {' '.join(words)}: {done.stderr.strip() or done.returncode}")
        return done.stdout.strip()

    def commit(self, revision: str) -> str:
        if revision.startswith("-"):
            raise BadRevision(f"`{revision}` is no revision")
        try:
            return self.git("rev-parse", "--verify", f"{revision}^{{commit}}")
        except BadRevision as error:
            raise BadRevision(f"there is no revision `{revision}` in {self._repository} ({error})") from error

    def between(self, good: str, bad: str) -> list[str]:
        """Behind good, up to bad, along first parents. Raises BadRevision."""
        found = self.git("rev-list", "--first-parent", "--reverse", f"{good}..{bad}").split()
        if not found or found[-1] != bad:
            raise BadRevision(f"{bad[:12]} does not come after {good[:12]}: say an older --good, or a newer --bad")
        return found

    def title(self, commit: str) -> str:
        return self.git("log", "-1", "--format=%h %s", commit)

    def look(self, commit: str) -> int:
        """How the replay of that revision ends: SAME, DIFFERS, or UNREADABLE where it cannot say."""
        with tempfile.TemporaryDirectory(prefix="asv-replay-") as folder:
            place = Path(folder) / "tree"
            self.git("worktree", "add", "--detach", "--quiet", str(place), commit)
            try:
                return self._run(place, commit)
            finally:
                self.git("worktree", "remove", "--force", str(place))

    def _run(self, place: Path, commit: str) -> int:
        environ = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "services.host.replay", *self._words], cwd=place, env=environ, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=RUN_S_MAX, check=False,
            )  # fmt: skip
            difference = json.loads(done.stdout)[self._found]
        except (subprocess.TimeoutExpired, ValueError, LookupError, TypeError):
            return UNREADABLE
        if difference is not None:
            self.differences[commit] = difference
        return SAME if difference is None else DIFFERS


def run(wanted: Wanted) -> int:
    """Prints the first revision that differs. Raises BadRevision, BadRange, LogError."""
    first, last = asyncio.run(_ends(wanted))
    words = ["--log", wanted.log, "--from", str(first), "--to", str(last), "--json"]
    if wanted.condition:
        words += ["--bisect", f"--condition={wanted.condition}"] + ["--monotonic"] * wanted.monotonic
    else:
        words += ["--service", wanted.service]
    says = HOLDS if wanted.condition else SAYS
    checkouts = Checkouts(Path(wanted.repository or HERE).resolve(), words, "broke" if wanted.condition else "difference")
    good, bad = checkouts.commit(wanted.good), checkouts.commit(wanted.bad)
    revisions = checkouts.between(good, bad)

    def look(revision: str) -> int:
        ended = checkouts.look(revision)
        print(f"{checkouts.title(revision)}: {says[ended]}", file=sys.stderr, flush=True)
        return ended

    for revision, expected in ((good, SAME), (bad, DIFFERS)):
        if (ended := look(revision)) != expected:
            raise BadRevision(f"{revision[:12]} was to be one that {says[expected]}, and {says[ended]}")

    found = search(revisions, look)
    if wanted.json:
        print(_as_json(found, checkouts.differences[found.first]))
        return DIFFERS
    print("\n".join(_lines(found, checkouts, f"the first that {says[DIFFERS]}")))
    return DIFFERS


async def _ends(wanted: Wanted) -> tuple[int, int]:
    """The same for each revision, however the log grows meanwhile."""
    past = await opened(wanted.log)
    try:
        return await bounds(past, wanted.first, wanted.last)
    finally:
        await past.close()


def _lines(found: Found, checkouts: Checkouts, what: str) -> Iterator[str]:
    yield f"{what}: {checkouts.title(found.first)}"
    yield from _difference(checkouts.differences[found.first])
    for revision in found.unsure:
        yield f"  or this one, which cannot say: {checkouts.title(revision)}"


def _difference(found: dict[str, Any]) -> Iterator[str]:
    """Told by another revision: what is not there is left out. A difference, or where a condition broke."""
    if "command" not in found:
        yield f"  first at event {found.get('position')}, {found.get('type', '')} on {found.get('stream', '')}"
        return
    command, fields = found.get("command") or {}, found.get("fields") or ()
    where = f"event {found['position']}" if found.get("position") else "a command that wrote no event"
    yield f"  first at {where} on {found.get('stream', '')}: {command.get('type', '')} ({found.get('id', '')})"
    for field in fields:
        sides = (tell.value(field[side]) if side in field else "(absent)" for side in ("recorded", "produced"))
        yield f"  {field.get('path', '')}: {' -> '.join(sides)}"


def _as_json(found: Found, difference: dict[str, Any]) -> str:
    told = {"first": found.first, "unsure": found.unsure, "looks": found.looks, "difference": difference}
    return json.dumps(told, indent=2, ensure_ascii=False)
