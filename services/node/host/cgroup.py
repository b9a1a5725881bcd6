"""A control group per VM, where this machine lets us make one; joined before QEMU is exec'ed, for memory that a process has
already is never charged to the group it is moved to.

A group's handle is its folders (one per tree), one a line: it is kept with the VM and outlives the agent. What cannot be
enforced is said in `Ability.not_enforced`, not hidden.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from services.node.host import cgroup_cells, cgroup_memory
from services.node.host.cgroup_tree import CONTROLLERS, ENFORCES, Base, Limits, bases, settings
from services.node.host.identity import ROOT
from services.node.host.text import read

ASKED = Limits(cpu_weight=100, pcpus_max=1.0, memory_mib_max=1024, processes_max=1024)
"""the settings that a try writes, to see whether they are taken"""


class Ability(msgspec.Struct, frozen=True):
    """controllers: those a VM's group really has; not_enforced: words for what that leaves open, for the operator."""

    controllers: tuple[str, ...]
    not_enforced: tuple[str, ...]


class Groups:
    """Groups of one node's VMs, all below the group `name` of where this process stands. Blocking, but short."""

    def __init__(self, root: Path = ROOT, name: str = "asv") -> None:
        self._name = name
        found = bases(root)
        self._offered = tuple(base for base in found if "cpu" in base.controllers)
        self._bases = tuple(b for b in (_opened(base, name) for base in found) if b.controllers)
        self.cells = cgroup_cells.tree(root)

    @property
    def name(self) -> str:
        return self._name

    @property
    def folders(self) -> tuple[Path, ...]:
        """The group of this node in each tree."""
        trees = [base.folder for base in self._bases]
        if self.cells is not None and self.cells.folder not in trees:
            trees.append(self.cells.folder)
        return tuple(tree / self._name for tree in trees)

    def ability(self) -> Ability:
        """Found by making a group with every setting, and removing it."""
        handle = self.make(f".try-{os.getpid()}", ASKED)
        folders = _folders(handle)
        able = tuple(c for c in CONTROLLERS if any(f"{c}." in e.name for f in folders for e in _settable(f)))
        self.remove(handle)
        return Ability(able, tuple(word for c in CONTROLLERS if c not in able for word in ENFORCES[c]))

    def cpu_lack(self) -> str:
        """What this node lacks for weights and caps of CPU time, in words; empty: nothing."""
        if "cpu" in self.ability().controllers:
            return ""
        need = "weights and caps need a writable cpu controller"
        if not self._offered:
            return f"{need}: none of this machine's control-group trees offers one to this process"
        base = self._offered[0]
        if base.version == 2 and not any("cpu" in b.controllers for b in self._bases):
            said = f"{base.folder} does not hand it down to groups below"
        else:
            said = f"no group with its settings can be made below {base.folder}"
        return f"{need}: {said} (version {base.version})"

    def make(self, vm: str, limits: Limits, area: str = "") -> str:
        """The group's handle, "" where none can be made. A group that is there already gets these limits. area: the group of
        its class, in the tree that divides memory."""
        made: list[Path] = []
        for base in self._bases:
            folder = base.folder / self._name / vm
            try:
                if area and "memory" in base.controllers:
                    folder = _area(base, self._name, area) / vm
                folder.mkdir(exist_ok=True)
                for controller in base.controllers:
                    for file, value in settings(base.version, controller, limits).items():
                        (folder / file).write_text(value)
            except OSError:
                # this tree gives us nothing after all; `ability` has said so
                with suppress(OSError):
                    folder.rmdir()
                continue
            made.append(folder)
        return "\n".join(str(folder) for folder in made)

    def join(self, vm: str, pid: int, limits: Limits | None = None, area: str = "") -> str:
        """Make the VM's group and put a process into it that has not exec'ed QEMU yet. The group's handle."""
        handle = self.make(vm, limits or Limits(), area)
        for folder in _folders(handle):
            (folder / "cgroup.procs").write_text(str(pid))
        return handle

    def area(self, name: str) -> Path | None:
        """The folder of an area, made where it is not there; "": that of all VMs. None: no memory controller here.
        Raises OSError."""
        for base in self._bases:
            if "memory" in base.controllers:
                return _area(base, self._name, name) if name else base.folder / self._name
        return None

    def remove(self, handle: str) -> bool:
        """False while a process is in it: say it again when that is gone. A missing group is removed."""
        gone = True
        for folder in _folders(handle):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone

    def oom_kills(self, handle: str) -> int:
        """How often the kernel killed a process of this group for want of memory."""
        folder = cgroup_memory.folder_of(handle)
        return 0 if folder is None else cgroup_memory.kills(folder)


def _area(base: Base, name: str, area: str) -> Path:
    """Classes of VMs inside the group of all VMs, anything else beside it."""
    folder = base.folder / name / area if area.startswith("vms-") else base.folder / f"{name}-{area}"
    folder.mkdir(exist_ok=True)
    if base.version == 2 and area.startswith("vms-"):
        # only where groups follow: a group that hands controllers down can hold no process itself
        _hand_down(folder, base.controllers)
    return folder


def _folders(handle: str) -> list[Path]:
    return [Path(line) for line in handle.splitlines()]


def _settable(folder: Path) -> list[Path]:
    """The files of a group that one of our settings goes to."""
    names = {file for version in (1, 2) for c in CONTROLLERS for file in settings(version, c, ASKED)}
    return [entry for entry in folder.iterdir() if entry.name in names]


def _opened(base: Base, name: str) -> Base:
    """The base with the group `name` made in it, and those of its controllers that groups below that can have."""
    group = base.folder / name
    try:
        group.mkdir(exist_ok=True)
        if base.version == 1:
            return base
        _hand_down(base.folder, base.controllers)
        _hand_down(group, base.controllers)
    except OSError:
        return Base(base.version, base.folder, ())
    handed = read(group / "cgroup.subtree_control").split()
    return Base(base.version, base.folder, tuple(c for c in base.controllers if c in handed))


def _hand_down(folder: Path, controllers: tuple[str, ...]) -> None:
    """Let groups below `folder` have these controllers. Version 2 refuses while processes stand in the folder itself; when that
    is this process alone, it steps aside into a group `agent`."""
    control = folder / "cgroup.subtree_control"
    missing = [c for c in controllers if c not in read(control).split()]
    if missing and read(folder / "cgroup.procs").split() == [str(os.getpid())]:
        aside = folder / "agent"
        aside.mkdir(exist_ok=True)
        (aside / "cgroup.procs").write_text(str(os.getpid()))
    for controller in missing:
        # one at a time: one that cannot be had must not cost us the others
        with suppress(OSError):
            control.write_text(f"+{controller}")
