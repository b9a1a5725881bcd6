"""Ganeti's hbal on a cluster of ours, by its text backend, and its own score for any placement.

The VMs have the disk template `ext`: storage that every node reaches, so that hbal migrates a VM to any node and has no disks to
move, as here. Disks, spindles and the loads of memory, disks and network are the same everywhere or nothing; what is left in its
score are the deviations of free memory, of vCPUs per pCPU and of CPU load. CPU load comes by -U, in parts of a node.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proto.balance import ClusterLoad, VmLoad

HBAL_S_MAX = 120
PACKAGE = "ganeti-htools"
DISK_MIB = 10_240
NODE_DISK_MIB = 1_048_576
_MIN, _MAX = "64,1,1024,1,1,1", "1048576,512,1048576,16,8,12"
"""smallest and largest VM: memory, vCPUs, disk size, disks, NICs, spindles"""
_MOVE = re.compile(r"^ *\d+\. (\S+) +(\S+) +=> (\S+) +([0-9.]+) a=(\S+)", re.MULTILINE)
_OVERALL = re.compile(r"(Initial|Final) coefficients: +overall ([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Told:
    """moves: (VM, node it left, node it went to)."""

    before: float
    after: float
    moves: tuple[tuple[str, str, str], ...]


class Hbal:
    """The program, and a folder for its files. `present` False: it is not installed; nothing else may be asked then."""

    def __init__(self, folder: Path) -> None:
        self.program = shutil.which("hbal")
        self.folder = folder

    @property
    def present(self) -> bool:
        return self.program is not None

    def balance(self, load: ClusterLoad) -> Told:
        """What it would do, by its own defaults. Raises RuntimeError where it ends in an error or says something unknown."""
        out = self._run(load, {})
        found: dict[str, str] = dict(_OVERALL.findall(out))
        moves = tuple((vm, left, entered) for vm, left, entered, _, _ in _MOVE.findall(out))
        return Told(float(found["Initial"]), float(found["Final"] if "Final" in found else found["Initial"]), moves)

    def score(self, load: ClusterLoad, places: Mapping[str, str]) -> float:
        """Its score with VMs on these nodes instead, computed by itself."""
        found: dict[str, str] = dict(_OVERALL.findall(self._run(load, places, "--max-length=0")))
        return float(found["Initial"])

    def _run(self, load: ClusterLoad, places: Mapping[str, str], *options: str) -> str:
        data, use = self.folder / "cluster.txt", self.folder / "use.txt"
        data.write_text(text_of(load, places))
        pcpus = {node.node: node.pcpus for node in load.nodes}
        use.write_text("".join(f"{vm.vm} {vm.demand_pcpus / pcpus[vm.node]:.9f} 0 0 0\n" for vm in load.vms))
        command = [str(self.program), "-t", str(data), "-U", str(use), "-v", "-v", "--exclusion-tags=apart", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HBAL_S_MAX, check=False)
        if done.returncode or "overall" not in done.stdout:
            raise RuntimeError(f"hbal ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
        return done.stdout


def text_of(load: ClusterLoad, places: Mapping[str, str]) -> str:
    """The cluster in htools' text format (htools(1)): groups, nodes, instances, tags, policies; empty lines between them."""
    where = {vm.vm: places.get(vm.vm, vm.node) for vm in load.vms}
    used: dict[str, int] = dict.fromkeys((node.node for node in load.nodes), 0)
    for vm in load.vms:
        used[where[vm.vm]] += vm.memory_mib
    nodes = [
        f"{n.node}|{n.memory_mib}|0|{n.memory_mib - used[n.node]}|{NODE_DISK_MIB}|{NODE_DISK_MIB}|{n.pcpus:g}|N|uuid-1|1||N|0|0|1.0"
        for n in load.nodes
    ]
    ratio = max(n.vcpus_max / n.pcpus for n in load.nodes)
    policy = f"{_MIN}|{_MIN};{_MAX}|ext|{ratio:g}|1000000.0"
    parts: tuple[list[str], ...] = (
        ["group-1|uuid-1|preferred||"],
        nodes,
        [_instance(vm, where[vm.vm]) for vm in load.vms],
        [],
        [f"|{policy}", f"group-1|{policy}"],
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _instance(vm: VmLoad, node: str) -> str:
    tags = f"apart:{vm.apart}" if vm.apart else ""
    return f"{vm.vm}|{vm.memory_mib}|{DISK_MIB}|{vm.vcpus}|running|Y|{node}||ext|{tags}|1|-"


def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="asv-balance-")
