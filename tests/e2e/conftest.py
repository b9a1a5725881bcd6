"""A whole embedded cluster with real guests, brought up as a user does, in a folder of its own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.warm import WarmCtl
from tests.replayed import assert_replayed

CHECKOUT = Path(__file__).parents[2]
WAIT_S_MAX = 60.0
SAID_S_MAX = 150.0


@cache
def warm() -> WarmCtl:
    """For all clusters of the run."""
    made = WarmCtl(CHECKOUT)
    atexit.register(made.close)
    return made


class EmbeddedCluster:
    """`asvctl` and `services.cluster` on a state folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ASV_")} | {"ASV_HOME": str(home)}

    def cluster(self, *words: str) -> str:
        """`python -m services.cluster WORDS`; raises AssertionError with what it said."""
        return self._run(sys.executable, "-m", "services.cluster", *words)

    def ctl(self, *words: str) -> str:
        """`asvctl WORDS`; its output. Raises AssertionError with its exit code and words."""
        done = self.done(*words)
        assert done.returncode == 0, f"{words[-3:]} ended with {done.returncode}: {done.stdout} {done.stderr}"
        return done.stdout

    def done(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`asvctl WORDS`, however it ends."""
        return warm().run(words, self.env, SAID_S_MAX)

    def refused(self, *words: str) -> tuple[int, str]:
        """(exit code, standard error) of an `asvctl` that is expected to say no."""
        done = self._done(str(CHECKOUT / "asvctl"), *words)
        assert done.returncode != 0, done.stdout
        return done.returncode, done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.ctl(*words, "--json"))

    def pids(self) -> dict[str, int]:
        """Every process of the cluster by its name."""
        record = json.loads((self.home / "cluster.json").read_text())
        return {name: child["mark"]["pid"] for name, child in record["children"].items() if child["mark"]}

    def until[T](self, look: Callable[[], T | None], what: str) -> T:
        """Looks again and again until there is something; raises AssertionError after WAIT_S_MAX."""
        end = time.monotonic() + WAIT_S_MAX
        last: BaseException | None = None
        while time.monotonic() < end:
            try:
                if found := look():
                    return found
            except AssertionError as error:
                last = error
            time.sleep(0.1)
        raise AssertionError(f"waited {WAIT_S_MAX} s for {what}") from last

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until the supervisor has it back."""
        before = self.pids()[name]
        os.kill(before, signal.SIGKILL)

        def back() -> bool:
            record = json.loads((self.home / "cluster.json").read_text())
            child = record["children"][name]
            return bool(child["state"] == "ready" and child["mark"]["pid"] != before)

        self.until(back, f"{name} to be back")

    def _run(self, *argv: str) -> str:
        done = self._done(*argv)
        assert done.returncode == 0, f"{argv[-3:]} ended with {done.returncode}: {done.stdout} {done.stderr}"
        return done.stdout

    def _done(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self.env, cwd=CHECKOUT, capture_output=True, text=True, timeout=SAID_S_MAX, check=False
        )


@contextmanager
def embedded(*how: str, **env: str) -> Iterator[EmbeddedCluster]:
    """Up, with these options and this environment, until the block ends; then all that it decided is decided again, its VMs are
    killed and its folder is removed."""
    home = Path(tempfile.mkdtemp(prefix="asv e2e "))  # with spaces, as users have them
    home.chmod(0o755)
    one = EmbeddedCluster(home)
    one.env |= env
    try:
        one.cluster("up", *how)
        yield one
        assert_replayed(home)
    finally:
        one.cluster("destroy", "--yes")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedCluster]:
    """One for all journeys."""
    with embedded() as one:
        yield one
