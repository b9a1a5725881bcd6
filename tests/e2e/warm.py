"""asvctl that is loaded already. A start of `./asvctl` takes some 0.3 s of CPU time, most of it for loading, and journeys say
hundreds of commands: here one process has loaded it, and each is a fork of that. What is to be refused is said to `./asvctl`.

    warm = WarmCtl(folder)                          python -m tests.e2e.warm, until `close`
    done = warm.run(words, env, timeout_s=150)      a CompletedProcess, as of ./asvctl
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from select import select
from typing import IO

from services.cli.main import GROUPS, SINGLES, main


class WarmCtl:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = self._begun()

    def _begun(self) -> subprocess.Popen[bytes]:
        words = (sys.executable, "-m", "tests.e2e.warm")
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self._folder)

    def run(self, words: tuple[str, ...], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Raises subprocess.TimeoutExpired."""
        asked, answered = self._process.stdin, self._process.stdout
        assert asked is not None and answered is not None
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            asked.write(json.dumps({"words": words, "env": dict(env), "out": out.name, "err": err.name}).encode() + b"\n")
            asked.flush()
            if not select([answered], [], [], timeout_s)[0]:
                self.close()
                self._process = self._begun()
                raise subprocess.TimeoutExpired(["asvctl", *words], timeout_s)
            return subprocess.CompletedProcess(["asvctl", *words], int(answered.readline()), out.read(), err.read())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _serve(asked: IO[str], answered: IO[str]) -> None:
    for place in (*GROUPS.values(), *SINGLES.values()):
        import_module(f"services.cli.{place.partition(':')[0]}")
    for line in asked:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answered, flush=True)


def _become(words: list[str], env: dict[str, str], out: str, err: str) -> None:
    """asvctl, as of its first line."""
    os.environ.clear()
    os.environ.update(env)
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR), number)
    sys.argv = ["asvctl", *words]
    code: object = 1
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
