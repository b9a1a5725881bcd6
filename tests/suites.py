"""All suites, in about the time that two cores need: `make test`. First two halves of the contract suites; then the journeys of
real guests, which wait a good deal, and some of which measure how CPU time is shared. The pure suites run beside both, in what
time nobody else wants (SCHED_IDLE), and in all of it at the end. What runs aside is printed when it is over. Exits 1 where any
of it failed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
PYTEST = (sys.executable, "-m", "pytest")
IDLE = ("chrt", "--idle", "0") if shutil.which("chrt") else ("nice", "-n", "19")
SLOW = (
    *("contract/test_driver_vitals.py", "contract/test_fence_devices.py", "contract/test_uefi.py", "e2e/test_ladder.py"),
    *("contract/test_backups_qemu.py", "contract/test_backup_orders.py", "contract/test_recovery_qemu.py"),
    *("contract/test_backups_nbd.py", "contract/test_backup_shares.py"),
    *("contract/test_backups_encrypted.py", "contract/test_backups_encrypted_nbd.py"),
    *("contract/test_backup_files_qemu.py", "contract/test_backup_files_kept.py"),
    *("contract/test_recovery_forecast.py", "e2e/test_backup_schedules.py", "e2e/test_recovery_drill.py"),
    *("contract/test_recovery_reads.py", "contract/test_backups_filled.py"),
    *("e2e/test_recovery_wave.py", "e2e/test_recovery_killed.py"),
)
"""what takes a minute or more for itself: `make test-slow`"""
PURE = ("history", "model", "sim")
"""rooms that are run whole"""


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


def files(room: str) -> list[str]:
    """Of that room and the rooms in it, but for the slow ones."""
    slow = {HERE / name for name in SLOW}
    return [str(path) for path in sorted(HERE.glob(f"{room}/**/test_*.py")) if path not in slow]


def halves(room: str) -> tuple[list[str], list[str]]:
    """Every second file of the room, and of those of the rooms in it; and the others: neither has more of either."""
    found = files(room)
    own = [path for path in found if Path(path).parent == HERE / room]
    inner = [path for path in found if path not in own]
    return own[::2] + inner[::2], own[1::2] + inner[1::2]


def main() -> int:
    if sys.argv[1:] == ["slow"]:
        return subprocess.run([*PYTEST, *(str(HERE / name) for name in SLOW)], stdin=subprocess.DEVNULL, check=False).returncode
    pure = [
        Aside("fault schedules", *IDLE, sys.executable, "-m", "tests.sim"),
        Aside("models, histories and worlds", *IDLE, *PYTEST, *(str(HERE / room) for room in PURE)),
    ]
    contracts = [Aside(f"contracts, half {n}", *PYTEST, *half) for n, half in enumerate(halves("contract"), 1)]
    failed = [one.title for one in contracts if not one.over()]
    print("--- journeys", flush=True)
    if subprocess.run([*PYTEST, *files("e2e")], stdin=subprocess.DEVNULL, check=False).returncode:
        failed.append("journeys")
    failed += [one.title for one in pure if not one.over()]
    print(f"failed: {', '.join(failed)}\n" if failed else "", end="", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
