"""A watchdog as it ships (a process of its own) with guarded processes that do nothing, and an agent's line to it. Its leases are
short: a grant says how long one counts, and everything else shrinks with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from typing import Any

from libs.lease.record import Record, read_record
from libs.lease.words import Lines, line

MAIN = Path(__file__).parents[2] / "services" / "watchdog" / "__main__.py"
LEASE_US = 1_200_000
"""P is 0.72 s then, killing begins after 0.96 s, a beat is 0.24 s"""
WAIT_S_MAX = 10.0


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def until(holds: Callable[[], Any], what: str, wait_s_max: float = WAIT_S_MAX) -> Any:
    end = time.monotonic() + wait_s_max
    while not (found := holds()):
        assert time.monotonic() < end, f"{what}: not within {wait_s_max} s"
        time.sleep(0.01)
    return found


def stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["X"] * 20


class Rig:
    def __init__(self, folder: Path, node: str = "n1", pool: Path | None = None, **settings: str) -> None:
        self.node = node
        self.state = folder / node
        self.state.mkdir(parents=True, exist_ok=True)
        self.pool = pool or folder / "pool"
        self.pool.mkdir(exist_ok=True)
        if not (self.pool / "id").exists():
            (self.pool / "id").write_text("5a5a5a5a\n")
        self.settings = settings
        self.vms: dict[str, subprocess.Popen[bytes]] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.agent: socket.socket | None = None
        self.states: list[dict[str, Any]] = []
        self._lines = Lines()
        self._heard: list[dict[str, Any]] = []

    # --- the process ------------------------------------------------------------------------------------------------

    def start(self) -> Rig:
        environment = {"ASV_NODE": self.node, "ASV_STATE": str(self.state), "ASV_POOLS": f"default={self.pool}"}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(MAIN)],
            env={**environment, "ASV_WATCH_LISTEN": "127.0.0.1:0", **self.settings},
        )
        self.connect()
        return self

    def connect(self) -> None:
        self._lines = Lines()
        self._heard.clear()
        self.agent = until(self._dialled, "the watchdog takes its agent")
        self.say("hello")
        until(lambda: self.state_now().get("pools") is not None, "it says how it is")

    def _dialled(self) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX)
        folder = os.open(self.state, os.O_PATH)
        try:
            sock.connect(f"/proc/self/fd/{folder}/watchdog/socket")
        except OSError:
            sock.close()
            return None
        finally:
            os.close(folder)
        sock.setblocking(False)
        return sock

    def leave(self) -> None:
        """The agent ends."""
        assert self.agent is not None
        self.agent.close()
        self.agent = None

    def signal(self, number: Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        for each in (*self.vms.values(), self.process):
            if each is not None and each.poll() is None:
                each.send_signal(SIGCONT)
                each.kill()
                each.wait()
        if self.agent is not None:
            self.agent.close()

    # --- the agent --------------------------------------------------------------------------------------------------

    def say(self, word: str, **values: Any) -> None:
        assert self.agent is not None
        self.agent.sendall(line(word, **values))

    def hear(self) -> list[dict[str, Any]]:
        """All that was said so far; states are kept apart, too."""
        while self.agent is not None:
            try:
                data = self.agent.recv(65536)
            except BlockingIOError:
                break
            if not data:
                break
            words = list(self._lines.feed(data))
            self._heard += words
            self.states += [word for word in words if word["word"] == "state"]
        return self._heard

    def state_now(self) -> dict[str, Any]:
        self.hear()
        return self.states[-1] if self.states else {}

    def answer(self, word: str, id: int | None = None) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            return next((w for w in self.hear() if w["word"] == word and (id is None or w.get("id") == id)), None)

        return until(found, f"the word {word}")  # type: ignore[no-any-return]

    def grant(self, sent_us: int | None = None, **more: Any) -> int:
        at_us = now_us() if sent_us is None else sent_us
        values = {"term": 1, "epoch": 1, "lease_us": LEASE_US, "pools": ["5a5a5a5a"], "refused": "", "tolerant": False}
        self.say("grant", sent_us=at_us, **{**values, **more})
        return at_us

    def held(self, **more: Any) -> int:
        """A lease, and the time that it counts from."""
        until(lambda: "default" in self.state_now()["pools"], "it knows its pool")
        sent_us = self.grant(**more)
        until(lambda: self.state_now()["own"] == "held", "the lease is held")
        return sent_us

    # --- VMs --------------------------------------------------------------------------------------------------------

    def vm(self, name: str = "web-1", generation: int = 3, **more: Any) -> int:
        """A guarded process, as the driver would leave its record. Its process id."""
        process = self.vms[name] = subprocess.Popen(["sleep", "1000"])
        folder = self.state / "vms" / name
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "vm": name, "generation": generation, "pid": process.pid, "start_ticks": int(stat(process.pid)[19]),
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "cgroup": "", "protected": True,
        }  # fmt: skip
        (folder / "draft").write_text(json.dumps(record | more))
        (folder / "draft").replace(folder / "record")
        self.lease(name, generation, self.node)
        return process.pid

    def guarded(self, count: int) -> None:
        until(lambda: self.state_now()["guarded"] == count, f"{count} VMs are guarded")

    def lease(self, vm: str, generation: int, node: str) -> None:
        """The lease record beside the disks."""
        folder = self.pool / "leases"
        folder.mkdir(exist_ok=True)
        text = json.dumps({"vm": vm, "generation": generation, "node": node, "boot_id": "b"})
        (folder / "draft").write_text(text)
        (folder / "draft").replace(folder / f"{vm}.lease")

    def runs(self, vm: str = "web-1") -> bool:
        return self.vms[vm].poll() is None

    def still(self, vm: str = "web-1") -> bool:
        return stat(self.vms[vm].pid)[0] == "T"

    def freeze(self) -> None:
        """The whole node, as a suspended host is."""
        for each in (*self.vms.values(), self.process):
            assert each is not None
            each.send_signal(SIGSTOP)

    def thaw(self) -> None:
        for each in (*self.vms.values(), self.process):
            assert each is not None
            each.send_signal(SIGCONT)

    def kill(self) -> None:
        self.signal(SIGKILL)
        assert self.process is not None
        self.process.wait()

    # --- the pool ---------------------------------------------------------------------------------------------------

    def gone(self) -> None:
        """The pool fails from now on."""
        self.pool.rename(self.pool.with_name("away"))

    def back(self) -> None:
        self.pool.with_name("away").rename(self.pool)

    def record(self) -> Record | None:
        try:
            return read_record((self.pool / "ha" / f"{self.node}.record").read_bytes())
        except (OSError, ValueError):
            return None
