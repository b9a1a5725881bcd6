"""All suites, in about the time that two cores need: `make test`. First the pure ones (with less right to the CPU) beside two
halves of the contract suites; then the journeys of real guests, some of which measure how CPU time is shared, with nothing beside
them. What runs aside is printed when it is over. Exits 1 where any of it failed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
PYTEST = (sys.executable, "-m", "pytest")
NICE = ("nice", "-n", "10")


class Aside:
    """A command whose output is kept until it is over."""

    def __init__(self, title: str, *argv: str) -> None:
        self.title = title
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(argv, stdout=self._said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def over(self) -> bool:
        """Waits, and prints. Whether all was well."""
        code = self._process.wait()
        self._said.seek(0)
        print(f"--- {self.title}")
        sys.stdout.flush()
        sys.stdout.buffer.write(self._said.read())
        sys.stdout.buffer.flush()
        return code == 0


def main() -> int:
    contract = [str(path) for path in sorted(HERE.glob("contract/test_*.py"))]
    aside = [Aside(f"contracts, half {n + 1}", *PYTEST, *contract[n::2]) for n in (0, 1)]
    aside.append(Aside("models and worlds", *NICE, *PYTEST, str(HERE / "model"), str(HERE / "sim")))
    aside.append(Aside("fault schedules", *NICE, sys.executable, "-m", "tests.sim"))
    failed = [one.title for one in aside if not one.over()]
    print(f"--- journeys{f'; failed before: {', '.join(failed)}' if failed else ''}", flush=True)
    journeys = subprocess.run([*PYTEST, str(HERE / "e2e")], stdin=subprocess.DEVNULL, check=False)
    return journeys.returncode or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
