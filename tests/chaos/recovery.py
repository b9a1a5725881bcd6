"""A VM is destroyed and recovered; while its data comes home, processes and nodes are killed at random moments. Nothing is lost.

python -m tests.chaos.recovery [--seed N] [--faults N] [--mib N]

A guest writes numbered, checksummed records (records.py) and has a disk of data beside. It is backed up twice, writes on, and is
deleted. From then on only what its newest backup holds may be there: every record flushed before that instant, all of the data, and
every record that was flushed since the recovery, whatever was killed meanwhile; in one history. In the end it stands on no backup.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos import faults, records
from tests.chaos.faults import Fault, Scene
from tests.chaos.ha import AGAIN_S_MAX, Writers
from tests.chaos.rig import HaCluster

VM = "w-1"
DATA_MIB = 160
FAULTS = 20
RATE_MIBPS = 2
"""so slow that all faults come before its data is home"""
FILL_S_MAX = 120.0
PAUSE_S = (0.2, 3.0)
"""between two faults"""
KINDS = (
    Fault("kill agent", 4, (0, 1), faults.kill_agent),
    Fault("kill both", 3, (0, 1), faults.kill_both),
    Fault("kill guest", 4, (0, 1), faults.kill_guest),
    Fault("kill central", 4, (0, 1), faults.kill_central),
    Fault("power", 4, (1, 4), faults.power),
)


class Recovery:
    """One round, step by step. told: what was done, with its time."""

    def __init__(self, cluster: HaCluster, seed: int, mib: int) -> None:
        self.cluster, self.random, self.mib = cluster, Random(f"chaos recovery {seed}"), mib
        self.scene = Scene(cluster, self.random)
        self.writers = Writers(cluster, (VM,))
        self.kept: dict[str, set[tuple[int, int]]] = {}
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def prepare(self) -> None:
        """It runs, has its data, writes, and has a full backup and an incremental one; then more is written."""
        disks = [{"image": "tiny"}, {"size_mib": 64}, {"size_mib": self.mib + 64}]
        self.cluster.call("POST", "/v1/vms", {"name": VM, "vcpus": 1, "memory_mib": 128, "disks": disks, "start": True})
        self.cluster.until(VM, "running")
        self.cluster.boot_id(VM)
        data = f"yes $(cat /proc/sys/kernel/random/uuid) | head -c {self.mib << 20} | dd of=/dev/vdc bs=1M conv=fsync"
        self.cluster.inside(VM, f"({data}; touch /run/full) </dev/null >/dev/null 2>&1 & true")
        self.cluster.wait_for(lambda: self.cluster.inside(VM, "ls /run/full").strip(), "its data to be there", FILL_S_MAX)
        self.write_more()
        self.backup()
        self.write_more()
        before = self.acknowledged()
        self.backup()
        self.kept = before
        self.write_more()

    def acknowledged(self) -> dict[str, set[tuple[int, int]]]:
        return {boot: set(ats) for boot, ats in self.writers.acknowledged[VM].items()}

    def write_more(self) -> None:
        newest = self.writers.newest(VM)
        self.cluster.wait_for(lambda: self.writers.newest(VM) > newest, f"more than {newest} to be written", AGAIN_S_MAX)

    def backup(self) -> None:
        self.done(self.cluster.call("POST", f"/v1/vms/{VM}/backups", {"pool": "default"}))
        newest = self.cluster.call("GET", f"/v1/vms/{VM}/backups")["items"][-1]["backup"]
        self.say(f"{newest['id']}: {newest['kind']}, {newest['copied_mib']} MiB read, {newest['consistency']}")

    def done(self, accepted: dict[str, Any]) -> None:
        def ended() -> str:
            shown = self.cluster.call("GET", f"/v1/tasks/{accepted['task']}")
            return "" if shown["state"] == "running" else str(shown["state"])

        assert self.cluster.wait_for(ended, "the task to end", AGAIN_S_MAX) == "done", accepted

    def destroy(self) -> None:
        """What it wrote since its newest backup is lost with it, as is said."""
        self.writers.close()
        self.done(self.cluster.call("POST", f"/v1/vms/{VM}/stop", {"deadline_s": 0}))
        self.done(self.cluster.call("DELETE", f"/v1/vms/{VM}"))
        self.say("it is deleted")

    def recover(self) -> None:
        begun = time.monotonic()
        self.cluster.call("POST", f"/v1/vms/{VM}/recover", {"rate_mibps": RATE_MIBPS})
        self.cluster.wait_for(self.runs, "it to run on its backup")
        self.say(f"recovered, and runs after {time.monotonic() - begun:.1f} s")
        self.writers = Writers(self.cluster, (VM,))
        self.writers.acknowledged[VM] = self.kept

    def runs(self) -> bool:
        return bool(self.cluster.call("GET", f"/v1/vms/{VM}")["state"] == "running")

    def state(self) -> str:
        return str(self.cluster.call("GET", "/v1/recoveries")["items"][-1]["recovery"]["state"])

    def fault(self) -> None:
        fault = self.random.choices(KINDS, [kind.weight for kind in KINDS])[0]
        hold_s = self.random.uniform(*fault.hold_s)
        with fault.play(self.scene) as said:
            self.say(f"{said} ({hold_s:.1f} s)")
            time.sleep(hold_s)  # how long it lasts is what is played
        time.sleep(self.random.uniform(*PAUSE_S))  # when the next one comes, too

    def home(self) -> None:
        self.cluster.wait_for(self.runs, "it to run again", AGAIN_S_MAX)
        self.write_more()
        wait_s = self.mib / RATE_MIBPS + AGAIN_S_MAX
        self.cluster.wait_for(lambda: self.state() == "independent", "its data to be home", wait_s)
        self.write_more()
        self.say("independent")

    def verdicts(self) -> list[str]:
        """What is wrong; none: nothing is lost."""
        self.writers.close()
        self.done(self.cluster.call("POST", f"/v1/vms/{VM}/stop", {"deadline_s": 0}))
        told = [e["data"] for e in self.cluster.events() if e["type"] in ("devices_granted", "devices_changed")]
        newest = [one for one in told if one["vm"] == VM][-1]
        disks = {disk["name"]: self.cluster.layout.pool / "disks" / disk["file"] for disk in newest["disks"]}
        backup = self.cluster.call("GET", f"/v1/vms/{VM}/backups")["items"][-1]["backup"]["id"]
        folder = self.cluster.layout.pool / "backups" / VM / backup
        found = records.judge(records.read(raw(disks["disk1"])), VM, self.writers.acknowledged[VM])
        found += self.writers.failed
        if digest(disks["disk2"]) != digest(folder / f"{VM}-disk2.{backup}.qcow2"):
            found.append("the data is not what the backup holds")
        for name, file in disks.items():
            info = subprocess.run(["qemu-img", "info", str(file)], capture_output=True, text=True, check=True).stdout
            if "backing file" in info:
                found.append(f"{name} still stands on something: {info}")
        return found


def raw(file: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(file), str(made)], check=True)
        return made.read_bytes()


def digest(file: Path) -> str:
    return hashlib.sha256(raw(file)).hexdigest()


def run(seed: int, count: int, mib: int) -> list[str]:
    cluster = HaCluster()
    with cluster.running():
        cluster.free_hand()
        one = Recovery(cluster, seed, mib)
        try:
            one.prepare()
            one.destroy()
            one.recover()
            for _ in range(count):
                one.fault()
            if (state := one.state()) == "independent":
                return [f"its data was home before all {count} faults had come: they prove less than they say"]
            one.say(f"all faults have come; it is {state}")
            one.home()
            return one.verdicts()
        except AssertionError as error:
            return [str(error)]
        finally:
            one.writers.close()


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.chaos.recovery")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--faults", type=int, default=FAULTS)
    options.add_argument("--mib", type=int, default=DATA_MIB)
    asked = options.parse_args()
    began = time.monotonic()
    if found := run(asked.seed, asked.faults, asked.mib):
        print(f"chaos.recovery --seed {asked.seed} --faults {asked.faults}:\n  " + "\n  ".join(found), file=sys.stderr)
        sys.exit(1)
    print(f"{asked.faults} faults of seed {asked.seed} in {time.monotonic() - began:.0f} s: nothing is lost, and it is independent")


if __name__ == "__main__":
    main()
