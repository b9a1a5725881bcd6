"""What the control plane adds to a VM's start, how long `make up` takes, and what the idle cluster weighs.

python -m tests.bench.start [--quick] [--json]

added_ms_p50      HTTP request sent -> the VM's QEMU process is there (its own start-up is not in it; making its disk is),
                  in ms. QEMU's birth is known to 10 ms
added_ms_max      the slowest of them
running_ms_p50    the same until the VM is seen running, by the event's own time
up_s              `services.cluster up` on a set-up tree, new state folder, until healthy
pss_mb            proportional set size of all processes of the default grouping (engines, services, gateway, three agents,
                  supervisor; no VMs); pss_separate_mb: with one process per service
accelerator       what the guests ran on
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.common import Options, options, report

CHECKOUT = Path(__file__).parents[2]
WAIT_S_MAX = 60.0


class Embedded:
    """A cluster of its own in a folder of its own; or one that is there already, by its folder."""

    def __init__(self, *words: str, home: Path | None = None) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="asvbench"))
        if home is None:
            self.home.chmod(0o755)
        self._words = words
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("ASV_")} | {"ASV_HOME": str(self.home)}

    def up(self) -> float:
        """Seconds until healthy."""
        begin = time.perf_counter()
        self._run("up", *self._words)
        return time.perf_counter() - begin

    def close(self) -> None:
        self._run("destroy", "--yes")
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, *words: str) -> None:
        argv = [sys.executable, "-m", "services.cluster", *words]
        done = subprocess.run(argv, env=self._env, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "cluster.json").read_text())
        return found

    def pss_mb(self) -> float:
        """Of the supervisor, its children and theirs, and the watchdogs; VMs are nobody's children."""
        record = self.record()
        kept = (*record["children"].values(), *record["watchdogs"].values())
        roots = [record["supervisor"]["pid"], *(c["mark"]["pid"] for c in kept)]
        family = {
            p.pid for root in roots for p in (psutil.Process(root), *psutil.Process(root).children(recursive=True))
        }
        return sum(_pss_mb(pid) for pid in family if "qemu" not in psutil.Process(pid).name())

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        api = http.client.HTTPConnection("127.0.0.1", self.record()["ports"]["gateway"], timeout=30)
        token = (self.home / "tokens" / "admin.token").read_text().strip()
        text = None if body is None else json.dumps(body)
        api.request(method, path, text, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        answer = api.getresponse()
        said = json.loads(answer.read() or b"{}")
        assert answer.status < 300, said
        api.close()
        return said

    def until(self, vm: str, state: str) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < end:
            shown: dict[str, Any] = self.call("GET", f"/v1/vms/{vm}")
            if shown["state"] == state:
                return shown
            time.sleep(0.02)
        raise AssertionError(f"{vm} did not become {state}")


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def one_start(cluster: Embedded, vm: str) -> tuple[float, float]:
    """(ms until QEMU's process was there, ms until it was seen running)."""
    cluster.call("POST", "/v1/vms", {"name": vm, "vcpus": 1, "memory_mib": 128, "image": "tiny", "start": False})
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    offset = time.time() - begin  # noqa: TID251 events carry the wall clock
    cluster.call("POST", f"/v1/vms/{vm}/start")
    cluster.until(vm, "running")
    born = next(_born(p.pid) for p in psutil.process_iter() if _is_vm(p, vm))
    events = cluster.call("GET", "/v1/events?after=0")["items"]
    seen = next(e["at_us"] for e in reversed(events) if e["type"] == "vm_started" and e["stream"] == f"vm-{vm}")
    cluster.call("POST", f"/v1/vms/{vm}/stop", {"deadline_s": 0})
    cluster.until(vm, "stopped")
    return (born - begin) * 1000, (seen / 1e6 - offset - begin) * 1000


def _born(pid: int) -> float:
    """Seconds since the machine's boot, on the kernel's own clock, in ticks of 10 ms."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def _is_vm(process: psutil.Process, vm: str) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return bool(line) and "qemu-system" in line[0] and any(f"guest={vm}," in word for word in line)


def measure(wanted: Options) -> dict[str, Any]:
    cluster = Embedded()
    try:
        wanted.say("bringing up the default grouping")
        up_s = cluster.up()
        pss_mb = cluster.pss_mb()
        wanted.say(f"  {up_s:.1f} s, {pss_mb:.0f} MB; starting VMs")
        accelerator = cluster.call("GET", "/v1/nodes")["items"][0]["capabilities"]["accelerator"]
        starts = [one_start(cluster, f"bench-{n}") for n in range(5 if wanted.quick else 20)]
    finally:
        cluster.close()
    apart = Embedded("--separate")
    try:
        wanted.say("bringing up one process per service")
        apart.up()
        pss_separate_mb = apart.pss_mb()
    finally:
        apart.close()
    return {
        "added_ms_p50": round(statistics.median(s[0] for s in starts)),
        "added_ms_max": round(max(s[0] for s in starts)),
        "running_ms_p50": round(statistics.median(s[1] for s in starts)),
        "up_s": round(up_s, 1),
        "pss_mb": round(pss_mb),
        "pss_separate_mb": round(pss_separate_mb),
        "accelerator": accelerator,
    }


if __name__ == "__main__":
    report(**measure(options("what the control plane adds")))
