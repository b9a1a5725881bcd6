"""What a simulated guest shows of its life. It writes a little all the time, unless it is `idle`; one that hangs turns round; one
whose agent was stopped has closed its channel."""

from __future__ import annotations

from services.node.drivers.simvm import SimVm
from services.node.drivers.vitals import VitalCount
from services.node.host.threads import ThreadTime

WRITES_PER_S = 2
IDLE_PCT = 2
DARK = b"P6\n1 1\n255\n\0\0\0"
"""its screen"""


def count(vm: SimVm, booted: bool, now_us: int) -> VitalCount:
    ran_us = max(0, (vm.hung_us or now_us) - vm.running_us) if vm.status == "running" else 0
    spun_us = max(0, now_us - vm.hung_us) if vm.hung_us else 0
    ran_ns = ran_us * 10 * IDLE_PCT + spun_us * 1000
    spec = vm.spec
    return VitalCount(
        spec.vm, spec.generation, vm.pid, vm.status,
        channel=(booted or vm.hung_us > 0) and not vm.agentless,
        marks=(0,) if vm.idle else (ran_us * WRITES_PER_S // 1_000_000,),
        counted=bool(spec.disks or spec.nics),
        vcpus=tuple(ThreadTime(vm.pid + 1 + n, ran_ns) for n in range(spec.shape.vcpus)),
        began=max(1, vm.boots),
    )  # fmt: skip
