"""Memory areas: control groups for the modules of a node (libs/memory/areas.py) and the classes of its VMs (`vms-CLASS`), so that
what goes mad is slowed down or killed inside its own.

    asv-NODE                all VMs: what there is for them together
    └─ vms-critical … vms-best-effort
       └─ VM.HASH           one VM (cgroup.py)
    asv-NODE-agent          this agent
    asv-NODE-storage        what it starts for disks (qemu-img)
    asv-NODE-network        nothing yet

The control plane's group is made by who starts it (the embedded cluster's supervisor, or a slice of the system's); the agent that
was told of it sets its limits. The host's own area has no group: the kernel is in it. It is kept by the limits on all others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from libs.memory.areas import AGENT, CONTROL_PLANE, GROUPED
from proto.machine import Priority
from proto.memory import Area
from proto.node import AreaNow
from services.node.host import cgroup_memory
from services.node.host.cgroup import Groups
from services.node.host.identity import ROOT
from services.node.host.text import read

VMS = "vms-"
SWAPPED = frozenset({VMS + Priority.BEST_EFFORT.value})
"""areas whose processes may be swapped out, each as far as it was ordered for it; no other may"""
EXPENDABLE = {Priority.CRITICAL: 100, Priority.IMPORTANT: 300, Priority.NORMAL: 500, Priority.BEST_EFFORT: 800}
"""oom_score_adj: whom the kernel kills first when the whole host is out of memory; the agent never, as far as it lets us"""
AGENT_SCORE = -900
CAP_SYS_RESOURCE = 24
UNPROTECTED = (
    "agent-protection (no CAP_SYS_RESOURCE: on a host out of memory the kernel may choose the agent, after VMs)"
)


def area_of(priority: Priority) -> str:
    return VMS + priority.value


def make_expendable(pid: int, priority: Priority) -> None:
    """Rather this VM than the host."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(EXPENDABLE[priority]))


def expendable(pid: int, priority: Priority) -> str:
    """The same of one that runs, read back; "" when it is so, or when the process has ended."""
    file, word = Path(f"/proc/{pid}/oom_score_adj"), str(EXPENDABLE[priority])
    if read(file) in ("", word):
        return ""
    make_expendable(pid, priority)
    seen = read(file)
    return "" if seen in ("", word) else f"oom_score_adj stays {seen}: only root may lower it to {word}"


def protect_agent() -> bool:
    """Rather any VM than this process. False: only root may say so."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(AGENT_SCORE))
    except OSError:
        return False
    return True


def may_protect(root: Path = ROOT) -> bool:
    """Whether `protect_agent` can do anything: it needs CAP_SYS_RESOURCE."""
    lines = [line for line in read(root / "proc/self/status").splitlines() if line.startswith("CapEff:")]
    return bool(lines) and bool(int(lines[0].split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def apply(groups: Groups, areas: Sequence[Area], control_plane: Path | None = None) -> list[str]:
    """Make the areas and set their limits; a sentence for each that could not be. Said twice, it changes nothing. A module that
    is not among them is held to nothing any more. control_plane: the group that it stands in on this host."""
    try:
        whole = groups.area("")
    except OSError as error:
        return [f"areas: {error.strerror or error}"]
    if whole is None:
        return ["areas: this host lets us make no control groups for memory"] if areas else []
    faults: list[str] = []
    named = {area.name for area in areas}
    lifted = [Area(name=name) for name in GROUPED if areas and name not in named]
    for area in (*areas, *lifted):
        if area.name not in GROUPED and not area.name.startswith(VMS):
            continue
        try:
            folder = _folder(groups, area.name, control_plane)
            if folder is not None:
                told = cgroup_memory.set_limits(folder, area, area.name in SWAPPED)
                faults += [f"area {area.name}: {text}" for text in told]
        except OSError as error:
            faults.append(f"area {area.name}: {error.strerror or error}")
    if areas:
        limits = for_vms(areas)
        faults += [f"all VMs together: {text}" for text in cgroup_memory.set_limits(whole, limits, swapped=True)]
    return faults


def _folder(groups: Groups, name: str, control_plane: Path | None) -> Path | None:
    """None: it has no group here. Raises OSError."""
    return control_plane if name == CONTROL_PLANE else groups.area(name)


def now(groups: Groups, control_plane: Path | None = None) -> tuple[AreaNow, ...]:
    """What stands in each area that has a group: how much it uses, may use, and how it fares."""
    found = []
    for name in (*GROUPED, *(area_of(priority) for priority in Priority)):
        with suppress(OSError):
            folder = _folder(groups, name, control_plane)
            if folder is not None and cgroup_memory.version_of(folder):
                found.append(cgroup_memory.area_now(name, folder, name in SWAPPED))
    return tuple(found)


def left_mib(groups: Groups) -> int | None:
    """How much more all VMs may hold together before the kernel kills one of them; None: nothing bounds them."""
    with suppress(OSError):
        whole = groups.area("")
        return None if whole is None else cgroup_memory.left_mib(whole)
    return None


def for_vms(areas: Sequence[Area]) -> Area:
    """What all VMs may hold together: as much as the class that may have most (0: one has no limit, so there is none). What is
    promised to a group holds only as far as it is promised to those above it."""
    classes = [a for a in areas if a.name.startswith(VMS)]
    limits = [a.max_mib for a in classes]
    return Area(
        name="",
        min_mib=sum(a.min_mib for a in classes),
        low_mib=sum(a.low_mib for a in classes),
        max_mib=0 if 0 in limits else max(limits, default=0),
    )


def join(groups: Groups, name: str, pid: int) -> bool:
    """Put a process into a module's area. False: it cannot be, and stays where it is."""
    try:
        folder = groups.area(name)
        if folder is None:
            return False
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError:
        return False
    return True


def shelter(groups: Groups) -> bool:
    """Put this process into the area of the agent. False: it cannot be."""
    return join(groups, AGENT, os.getpid())
