"""Memory of a running VM by modules (DIMMs): each growth is one more, and the last ones in are the first to go, whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.decider import Refused
from proto.compute import Refusal
from proto.machine import DIMM_UNIT_MIB, DIMMS_MAX


def changed(dimms_mib: tuple[int, ...], more_mib: int) -> tuple[int, ...]:
    """The modules after a change that `check` let pass."""
    if more_mib >= 0:
        return (*dimms_mib, more_mib) if more_mib else dimms_mib
    left = list(dimms_mib)
    while more_mib < 0:
        more_mib += left.pop()
    return tuple(left)


def check(vm: str, has_mib: int, dimms_mib: Sequence[int], wanted_mib: int) -> None:
    """Raises Refused: BAD_SHAPE."""
    more = wanted_mib - has_mib
    if more > 0 and more % DIMM_UNIT_MIB:
        below = has_mib + more - more % DIMM_UNIT_MIB
        near = [f"{mib} MiB" for mib in (below, below + DIMM_UNIT_MIB) if mib > has_mib]
        said = f"{wanted_mib} MiB asked for; {vm} has {has_mib} MiB and grows by modules of {DIMM_UNIT_MIB} MiB and multiples"
        raise Refused(Refusal.BAD_SHAPE, said, " or ".join(near))
    if more > 0 and len(dimms_mib) >= DIMMS_MAX:
        said = f"{vm} was given {len(dimms_mib)} memory modules since its start, and has sockets for {DIMMS_MAX}"
        raise Refused(Refusal.BAD_SHAPE, said, "a restart makes one of all its memory; or let it grow by virtio-mem")
    possible = [has_mib - sum(dimms_mib[first:]) for first in range(len(dimms_mib))]
    if more < 0 and wanted_mib not in possible:
        sizes = ", ".join(map(str, dimms_mib)) or "none"
        said = f"{wanted_mib} MiB asked for; modules of {vm} go whole, the last first; it was given {sizes} MiB"
        raise Refused(Refusal.BAD_SHAPE, said, " or ".join(f"{mib} MiB" for mib in reversed(possible)) or "stop it first")
