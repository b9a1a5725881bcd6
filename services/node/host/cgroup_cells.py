"""The memory of a VM is bound to NUMA cells by the cpuset of its group, in both versions of control groups, and read back.

    version 2   the VM's own group: cpuset.mems; empty means as above
    version 1   a tree of its own: NODE/VM.HASH, made when it is first needed, with the pCPUs of the group above and cpuset.mems

What lies in other cells by then is moved (version 2 always does, version 1 by cpuset.memory_migrate), and memory that is plugged
later comes from the same cells. Version 1 sets the pCPUs of threads when they enter: bind first, then set affinities.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from services.node.host.cgroup_tree import below, parse_own
from services.node.host.disks import mounts
from services.node.host.identity import ROOT
from services.node.host.text import parse_list, read

CPUSET = "cpuset"
MEMS, CPUS, MIGRATE = "cpuset.mems", "cpuset.cpus", "cpuset.memory_migrate"
PROCS, CONTROL = "cgroup.procs", "cgroup.subtree_control"


class Tree(msgspec.Struct, frozen=True):
    """Where this process stands in the tree that has cpusets."""

    version: int
    folder: Path


class NoCpuset(Exception):
    """This host offers this process no cpusets; its text says so."""


class NotBound(Exception):
    """Its text is a sentence. What was bound before is."""


def tree(root: Path = ROOT) -> Tree | None:
    own = parse_own(read(root / "proc/self/cgroup"))
    found = []
    for mount in mounts(root):
        if mount.kind == "cgroup" and CPUSET in mount.options and CPUSET in own:
            found.append(Tree(1, root / below(mount.at, mount.part, own[CPUSET])))
        elif mount.kind == "cgroup2" and "" in own:
            folder = root / below(mount.at, mount.part, own[""])
            if CPUSET in read(folder / "cgroup.controllers").split():
                found.append(Tree(2, folder))
    return found[0] if found else None


def bind(found: Tree | None, node: str, handle: str, pid: int, cells: Sequence[int]) -> str:
    """The VM's handle, with the group that was made for this. node: the name of the node's group. cells: none: it may use all
    again. Raises NoCpuset, NotBound."""
    group = _group(found, handle)
    if not cells:
        if found is not None and group is not None and (group / MEMS).exists():
            with _told():
                _set(group, read(group.parent / MEMS) if found.version == 1 else "")
        return handle
    if found is None:
        raise NoCpuset("memory keeps to a cell by a cpuset: none of this machine's control-group trees offers one to this process")
    if not handle:
        raise NotBound("it has no control group")
    if found.version == 2:
        if group is None:
            raise NotBound(f"it has no group below {found.folder}")
        with _told():
            _hand_down(found.folder, group)
            _set(group, _list(cells))
        return handle
    made = found.folder / node / Path(handle.splitlines()[0]).name
    with _told():
        _enter(found.folder, made, pid, cells)
    return handle if group is not None else f"{handle}\n{made}"


def bound_to(found: Tree | None, handle: str) -> tuple[int, ...]:
    """As the kernel has it; none: to no cells."""
    group = _group(found, handle)
    return parse_list(read(group / MEMS)) if group is not None else ()


def _group(found: Tree | None, handle: str) -> Path | None:
    """The VM's group in that tree."""
    folders = (Path(line) for line in handle.splitlines())
    return next((f for f in folders if found is not None and f.is_relative_to(found.folder) and _is_of(found, f)), None)


def _is_of(found: Tree, folder: Path) -> bool:
    return found.version == 1 or (folder / PROCS).exists()


def _hand_down(base: Path, group: Path) -> None:
    """Raises OSError."""
    if (group / MEMS).exists():
        return
    between = [folder for folder in reversed(group.parents) if folder.is_relative_to(base)]
    for folder in between:
        if CPUSET not in read(folder / CONTROL).split():
            (folder / CONTROL).write_text(f"+{CPUSET}")


def _enter(base: Path, group: Path, pid: int, cells: Sequence[int]) -> None:
    """Raises OSError, NotBound."""
    for folder in (group.parent, group):
        folder.mkdir(exist_ok=True)
        _like(folder, CPUS)
    _like(group.parent, MEMS)
    (group / MIGRATE).write_text("1")
    _set(group, _list(cells))
    if str(pid) not in read(group / PROCS).split():
        (group / PROCS).write_text(str(pid))
        if str(pid) not in read(group / PROCS).split():
            raise NotBound(f"process {pid} does not stand in {group} after it was put there")


def _like(folder: Path, name: str) -> None:
    """What the group above has; an own one is empty at first, and then takes no process."""
    word = read(folder.parent / name)
    if parse_list(read(folder / name)) != parse_list(word):
        (folder / name).write_text(word)


def _set(group: Path, word: str) -> None:
    """Raises OSError, NotBound."""
    if parse_list(read(group / MEMS)) == parse_list(word):
        return
    (group / MEMS).write_text(f"{word}\n")
    seen = read(group / MEMS)
    if parse_list(seen) != parse_list(word):
        raise NotBound(f"{MEMS} is {seen or 'empty'} after {word or 'nothing'} was written")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({Path(error.filename).name})" if error.filename else ""
        raise NotBound(f"its memory cannot be bound: {error.strerror or error}{where}") from error


def _list(cells: Sequence[int]) -> str:
    return ",".join(map(str, sorted(cells)))
