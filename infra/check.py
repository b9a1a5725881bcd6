"""`make check`: every rule that is a check, side by side, in under a minute. Prints what failed, whole.

style (ruff) · types (mypy --strict) · walls (import-linter) · messages (proto.check) · contracts (each message is in the contract
of its service). Files beyond 300 lines are named, as a reminder: a file that long usually has two purposes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("libs", "proto", "services", "tests", "infra")
LINES_MAX = 300
CHECK_S_MAX = 300

CHECKS = {
    "style": ("-m", "ruff", "check", "-q", *ROOMS),
    "types": ("-m", "mypy", "--strict", *ROOMS),
    "walls": ("-c", "from importlinter.cli import lint_imports_command as lint; lint()"),
    "messages": ("-m", "proto.check"),
    "contracts": ("-m", "tests.contract.messages.covered"),
}


def run(name: str) -> tuple[str, str]:
    """(how it went, all it said)."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *CHECKS[name]],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=CHECK_S_MAX,
        check=False,
    )
    verdict = "ok" if done.returncode == 0 else "FAILED"
    said = "" if done.returncode == 0 else done.stdout.decode(errors="replace")
    return f"{name:<9} {verdict}  {time.monotonic() - began:.1f} s", said


def too_long() -> list[str]:
    """Files of more than LINES_MAX lines. What a tool wrote is not counted."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            count = path.read_text().count("\n")
            if count > LINES_MAX:
                found.append(f"{path.relative_to(ROOT)}: {count} lines, more than {LINES_MAX}")
    return found


def main() -> int:
    failed = False
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        for verdict, said in pool.map(run, CHECKS):
            print(verdict, flush=True)
            if said:
                failed = True
                print(said, flush=True)
    for line in too_long():
        print(line)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
