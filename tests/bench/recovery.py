"""A VM back from its backup: how soon it runs, how fast its data comes home, and what its guest feels of that.

python -m tests.bench.recovery [--quick] [--json]

first_ms_1g, first_ms_64g      `recover` ordered -> the guest's first instruction (QEMU's RESUME, as the event has it), with
                               disks of 1 and of 64 GiB (sparse); medians
userspace_more_ms              order -> the guest's agent answers, less what a start of that VM takes; the worse of both sizes
copy_booting_vs_convert        data of a guest that boots meanwhile comes home, MiB/s from its first instruction on, by what
                               `qemu-img convert` gives from that backup to that pool, written out, in turn with it; medians
speedup_vs_convert_then_boot   `qemu-img convert` of that backup, then a start, until RESUME: by recover until RESUME
incremental_ms                 order -> task done, of a backup of 10 MiB that changed on the disk of 64 GiB; median
copy_vs_convert                likewise, of a guest that has booted and is idle
p99_ratio                      a guest's 99th percentile of 4 KiB direct writes while data comes home, by that without; at
p99_rate                       what the copy has meanwhile of what it has with an idle guest (at least 0.2 is promised)

The last three are of the driver alone (recovery_guest.py); the others of a whole cluster by its API.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from services.cluster.layout import Layout
from tests.bench import recovery_guest
from tests.bench.common import Options, options, report
from tests.bench.recovery_data import convert_s, fill
from tests.bench.start import Embedded

GIB = 1024
DONE_S_MAX = 180.0
CHANGED_MIB = 10
SMALL, LARGE, FULL = "r1g", "r64g", "rdata"
SIZES = ((SMALL, 1), (LARGE, 64))
"""VM, GiB of its second disk"""
INCREMENTALS = 3


class Cluster(Embedded):
    """With what a recovery is measured by."""

    def make(self, vm: str, mib: int) -> None:
        """A guest that boots from its first disk, with so much for data on a second."""
        disks = [{"image": "tiny"}, {"size_mib": mib}]
        self.call("POST", "/v1/vms", {"name": vm, "vcpus": 1, "memory_mib": 160, "disks": disks, "start": True})

    def ready(self, vm: str) -> None:
        """Its agent answers from inside."""
        end = time.monotonic() + DONE_S_MAX
        while time.monotonic() < end:
            try:
                self.inside(vm, "true")
                return
            except AssertionError:
                time.sleep(0.02)
        raise AssertionError(f"{vm} does not answer")

    def inside(self, vm: str, script: str) -> None:
        body = {"argv": ["/bin/sh", "-c", script], "timeout_s": DONE_S_MAX}
        said = self.call("POST", f"/v1/vms/{vm}/exec", body)
        assert said["exit_code"] == 0, said

    def runs(self, vm: str) -> None:
        """It may not be there yet."""
        end = time.monotonic() + DONE_S_MAX
        while time.monotonic() < end:
            if any(one["name"] == vm and one["state"] == "running" for one in self.call("GET", "/v1/vms")["items"]):
                return
            time.sleep(0.02)
        raise AssertionError(f"{vm} does not run")

    def write(self, vm: str, seek_mib: int = 0) -> None:
        """What nothing compresses, on its second disk."""
        size = CHANGED_MIB << 20
        self.inside(vm, f"head -c {size} /dev/urandom | dd of=/dev/vdb bs=1M seek={seek_mib} conv=fsync 2>/dev/null")

    def done(self, accepted: dict[str, Any]) -> None:
        end = time.monotonic() + DONE_S_MAX
        while time.monotonic() < end:
            shown = self.call("GET", f"/v1/tasks/{accepted['task']}")
            if shown["state"] != "running":
                assert shown["state"] == "done", shown
                return
            time.sleep(0.01)
        raise AssertionError("the task did not end")

    def gone(self, vm: str) -> None:
        self.done(self.call("POST", f"/v1/vms/{vm}/stop", {"deadline_s": 0}))
        self.done(self.call("DELETE", f"/v1/vms/{vm}"))

    def stopped(self, vm: str) -> None:
        self.done(self.call("POST", f"/v1/vms/{vm}/stop", {"deadline_s": 0}))

    def backup(self, vm: str) -> float:
        """Milliseconds until it is there."""
        begun = time.perf_counter()
        self.done(self.call("POST", f"/v1/vms/{vm}/backups", {"pool": "default"}))
        return (time.perf_counter() - begun) * 1000

    def at(self, kind: str, stream: str) -> float:
        """When the newest such event was written, in seconds since the epoch."""
        after, found = 0, 0
        while page := self.call("GET", f"/v1/events?after={after}")["items"]:
            after = page[-1]["position"]
            found = next((e["at_us"] for e in reversed(page) if e["type"] == kind and e["stream"] == stream), found)
        assert found, f"no {kind} of {stream}"
        return found / 1e6

    def recover(self, vm: str) -> tuple[float, float]:
        """(ms from the order to RESUME, ms to the guest's agent)."""
        offset = time.time() - time.perf_counter()  # noqa: TID251 events carry the wall clock
        begun = time.perf_counter()
        self.call("POST", f"/v1/vms/{vm}/recover")
        self.runs(vm)
        self.ready(vm)
        inside = time.perf_counter()
        first = self.at("vm_started", f"vm-{vm}") - offset
        return (first - begun) * 1000, (inside - begun) * 1000

    def start(self, vm: str) -> tuple[float, float]:
        """As `recover`, of a VM that is stopped."""
        offset = time.time() - time.perf_counter()  # noqa: TID251 likewise
        begun = time.perf_counter()
        self.call("POST", f"/v1/vms/{vm}/start")
        self.until(vm, "running")
        self.ready(vm)
        inside = time.perf_counter()
        return (self.at("vm_started", f"vm-{vm}") - offset - begun) * 1000, (inside - begun) * 1000

    def came_home(self, vm: str) -> None:
        end = time.monotonic() + DONE_S_MAX
        while time.monotonic() < end:
            mine = [one["recovery"] for one in self.call("GET", "/v1/recoveries")["items"] if one["recovery"]["target"] == vm]
            if mine[-1]["state"] == "independent":
                return
            time.sleep(0.05)
        raise AssertionError(f"{vm} did not become independent")


def sizes(wanted: Options, cluster: Cluster) -> dict[str, Any]:
    """first_ms_…, userspace_more_ms, incremental_ms."""
    figures: dict[str, Any] = {}
    more: list[float] = []
    for vm, gib in SIZES:  # they boot beside each other; nothing is measured yet
        cluster.make(vm, gib * GIB)
    for vm, _ in SIZES:
        cluster.until(vm, "running")
        cluster.ready(vm)
    for vm, gib in SIZES:
        cluster.write(vm)
        cluster.backup(vm)
        if vm == LARGE:
            took = []
            for n in range(INCREMENTALS):
                cluster.write(vm, seek_mib=5 * n)
                took.append(cluster.backup(vm))
            kinds = [one["backup"]["kind"] for one in cluster.call("GET", f"/v1/vms/{vm}/backups")["items"]]
            assert kinds[1:] == ["incremental"] * INCREMENTALS, kinds
            figures["incremental_ms"] = round(statistics.median(took))
        firsts, insides, starts = [], [], []
        for _ in range(1 if wanted.quick else 4):
            cluster.stopped(vm)
            starts.append(cluster.start(vm)[1])
            cluster.gone(vm)
            first, inside = cluster.recover(vm)
            firsts.append(first)
            insides.append(inside)
            cluster.came_home(vm)
        figures[f"first_ms_{gib}g"] = round(statistics.median(firsts))
        more.append(statistics.median(insides) - statistics.median(starts))
        wanted.say(f"{gib} GiB: {firsts} ms to the first instruction, {insides} to user space; starts {starts}")
        cluster.gone(vm)
    return figures | {"userspace_more_ms": round(max(more))}


def copies(wanted: Options, cluster: Cluster, mib: int) -> dict[str, Any]:
    """copy_booting_vs_convert, speedup_vs_convert_then_boot."""
    cluster.make(FULL, mib + GIB)
    cluster.until(FULL, "running")  # its disks are made now; nobody waits for its guest
    cluster.stopped(FULL)
    pool = Layout(cluster.home).pool
    fill(pool / "disks" / f"{FULL}-disk1.qcow2", mib)
    booted = cluster.start(FULL)[0]
    cluster.backup(FULL)
    backup = cluster.call("GET", f"/v1/vms/{FULL}/backups")["items"][-1]["backup"]["id"]
    file = pool / "backups" / FULL / backup / f"{FULL}-disk1.{backup}.qcow2"
    ours, theirs, firsts = [], [], []
    for _ in range(1 if wanted.quick else 4):
        theirs.append(convert_s(file, pool))
        cluster.gone(FULL)
        first, _inside = cluster.recover(FULL)
        firsts.append(first)
        cluster.came_home(FULL)
        ours.append(cluster.at("disks_home", f"devices-{FULL}") - cluster.at("vm_started", f"vm-{FULL}"))
    wanted.say(f"{mib} MiB: home {ours} s, convert {theirs} s, first {firsts} ms, a start {booted:.0f} ms")
    convert = statistics.median(theirs)
    return {
        "copy_booting_vs_convert": round(convert / statistics.median(ours), 2),
        "convert_mibps": round(mib / convert),
        "speedup_vs_convert_then_boot": round((convert * 1000 + booted) / statistics.median(firsts), 1),
    }


def main() -> None:
    wanted = options("a VM back from its backup")
    cluster = Cluster()
    try:
        cluster.up()
        figures = sizes(wanted, cluster)
        figures |= copies(wanted, cluster, 2 * GIB if wanted.quick else 4 * GIB)
    finally:
        cluster.close()
    figures |= recovery_guest.figures(wanted)
    report(**figures)


if __name__ == "__main__":
    main()
