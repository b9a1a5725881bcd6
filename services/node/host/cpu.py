"""The physical CPUs of this machine and how they belong together."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.node.host.identity import ROOT
from services.node.host.text import parse_list, read, read_int

CPUS = Path("sys/devices/system/cpu")


class Pcpu(msgspec.Struct, frozen=True):
    """One online CPU. core is unique only within its socket; siblings: the CPUs of the same core, itself among them."""

    number: int
    socket: int
    core: int
    siblings: tuple[int, ...]


class Topology(msgspec.Struct, frozen=True):
    """The online CPUs by number. usable: those this process may run on (a container may have fewer); isolated: those the kernel
    keeps its ordinary work from (isolcpus)."""

    pcpus: tuple[Pcpu, ...]
    usable: tuple[int, ...]
    isolated: tuple[int, ...] = ()

    @property
    def sockets(self) -> int:
        return len({p.socket for p in self.pcpus})

    @property
    def cores(self) -> int:
        return len({(p.socket, p.core) for p in self.pcpus})


def topology(root: Path = ROOT) -> Topology:
    """Read /sys; where a machine tells nothing of sockets and cores, each CPU is a core of socket 0."""
    folder = root / CPUS
    online = parse_list(read(folder / "online"))
    return Topology(tuple(_pcpu(folder / f"cpu{n}/topology", n) for n in online), _usable(root, online), _isolated(folder))


def _pcpu(folder: Path, number: int) -> Pcpu:
    siblings = parse_list(read(folder / "thread_siblings_list")) or (number,)
    # -1: the kernel does not know
    socket = max(read_int(folder / "physical_package_id", 0), 0)
    return Pcpu(number, socket, read_int(folder / "core_id", number), siblings)


def _isolated(folder: Path) -> tuple[int, ...]:
    return parse_list(read(folder / "isolated"))


def _usable(root: Path, online: tuple[int, ...]) -> tuple[int, ...]:
    for line in read(root / "proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            return tuple(sorted(set(parse_list(value)) & set(online)))
    return online
