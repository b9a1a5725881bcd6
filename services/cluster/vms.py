"""The VM processes of this cluster, found by the records that the agents' drivers leave (`nodes/NODE/vms/VM/record`)."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL

import msgspec

from services.cluster.layout import Layout
from services.cluster.processes import Mark, alive, end

KILL_S_MAX = 10.0


class _Process(msgspec.Struct):
    """What is needed of a driver's record."""

    vm: str
    pid: int
    start_ticks: int
    boot_id: str
    cgroup: str = ""
    former: tuple[str, ...] = ()


class RunningVm(msgspec.Struct, frozen=True):
    node: str
    vm: str
    mark: Mark
    cgroup: str = ""


def running(layout: Layout, node: str = "*") -> list[RunningVm]:
    """VMs whose process is alive, by node and name; a record of an earlier boot of the host counts for nothing."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    found = []
    for path in sorted(layout.nodes.glob(f"{node}/vms/*/record")):
        try:
            process = msgspec.json.decode(path.read_bytes(), type=_Process)
        except (OSError, msgspec.MsgspecError):
            continue  # its agent is writing or removing it, or no process was ever let go here
        mark = Mark(process.pid, process.start_ticks)
        if process.boot_id == boot and alive(mark):
            groups = "\n".join((process.cgroup, *process.former))
            found.append(RunningVm(path.parts[-4], process.vm, mark, groups))
    return found


def kill(vms: list[RunningVm]) -> None:
    """Power off, all at once; returns when the processes are gone. Their control groups go with them."""
    end([vm.mark for vm in vms], SIGKILL, KILL_S_MAX)
    for vm in vms:
        for folder in vm.cgroup.splitlines():  # one per tree where the groups are of version 1
            if not folder.startswith("/sys/fs/cgroup/"):
                continue
            try:
                Path(folder).rmdir()
            except OSError:
                pass  # gone with the agent already, or not empty: then it is not only ours
