"""Why a QEMU process ended, where its control group knows better than QEMU, which was killed and said nothing."""

from __future__ import annotations

import msgspec

from proto.compute import GoneCause
from services.node.drivers import MachineChanged
from services.node.host import cgroup_memory
from services.node.host.cgroup import Groups


def explained(gone: MachineChanged, groups: Groups, handle: str) -> MachineChanged:
    """The end of a process, with the kernel's reason where it was killed for want of memory; while its group is there."""
    if gone.cause in (GoneCause.ORDERED, GoneCause.GUEST) or not groups.oom_kills(handle):
        return gone
    sentence = f"the kernel killed it for want of memory: {cgroup_memory.pressed(handle)}"
    return msgspec.structs.replace(gone, cause=GoneCause.CRASHED, sentence=sentence)
