"""One QEMU process on the host's pCPUs: its plan applied and read back, its threads' times. Blocking, but short."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proto.plan import PlanFault, VmPlan
from services.node.drivers import VmCpu
from services.node.host.cgroup_cpu import get_share, has_share, set_share
from services.node.host.threads import affinity, ran_and_waited_ns, set_affinity, threads_of, times


def apply(plan: VmPlan, pid: int, vcpus: Sequence[int], group: str, lack: Callable[[], str]) -> tuple[PlanFault, ...]:
    """vcpus: the thread of each vCPU, by its number; lack: what the node lacks for weights and caps, asked where the VM has no
    group. What could not be set, or does not read back; the rest holds."""
    lacks = "" if has_share(group) else lack()
    if lacks:
        faults = [PlanFault(vm=plan.vm, part=part, sentence=lacks, node_wide=True) for part in ("weight", "cap")]
    else:
        faults = [PlanFault(vm=plan.vm, part=part, sentence=said) for part, said in _share(plan, group).items()]
    if plan.pcpus:
        for number, thread in enumerate(vcpus):
            own = plan.pins[number] if number < len(plan.pins) else plan.pcpus
            if said := set_affinity(thread, own):
                faults.append(PlanFault(vm=plan.vm, part="vcpu-pcpus", sentence=f"vCPU {number}: {said}"))
                break
    if plan.threads:
        for thread in threads_of(pid):
            if thread not in vcpus and (said := set_affinity(thread, plan.threads)):
                faults.append(PlanFault(vm=plan.vm, part="thread-pcpus", sentence=said))
                break
    return tuple(faults)


def _share(plan: VmPlan, group: str) -> dict[str, str]:
    failed = set_share(group, plan.weight, plan.cap_pct)
    got = get_share(group)
    if not failed.get("weight") and got.weight != plan.weight:
        failed["weight"] = f"weight {plan.weight} was set, {got.weight} is read back"
    if not failed.get("cap") and got.cap_pct != plan.cap_pct and (plan.cap_pct or got.cap_pct):
        failed["cap"] = f"a cap of {plan.cap_pct} % was set, {got.cap_pct} % is read back"
    return failed


def measure(vm: str, generation: int, pid: int, vcpus: Sequence[int], group: str) -> VmCpu:
    """Counters since the process began."""
    others = [thread for thread in threads_of(pid) if thread not in vcpus]
    share = get_share(group)
    return VmCpu(
        vm=vm,
        generation=generation,
        vcpus=tuple(times(pid, thread) for thread in vcpus),
        others=len(others),
        others_ran_ns=sum(ran_and_waited_ns(pid, thread)[0] for thread in others),
        others_pcpus=tuple(sorted({p for thread in others for p in affinity(thread)})),
        weight=share.weight,
        cap_pct=share.cap_pct,
        throttled_ns=share.throttled_ns,
    )
