"""compute: how the VMs of one node share its pCPUs (streams `plan-NODE`), what each is worth there, and what the agent says of it.

A plan holds, per VM, its weight and cap, the pCPUs of its vCPUs, and those of QEMU's other threads. Times of use and of waiting are
in percent of one pCPU: 250 is two and a half.
"""

from __future__ import annotations

import msgspec

from libs.common.messages import Command, Event, Fact, Message, Name, NodeId, Tick, Value, VmId
from proto.machine import Allotment, CpuPct, CpuWeight, Pins, Priority, ReservedMib
from proto.placement import CpuLimit

CLASS_WEIGHT = {Priority.CRITICAL: 800, Priority.IMPORTANT: 400, Priority.NORMAL: 100, Priority.BEST_EFFORT: 5}
"""A VM's CPU weight where its allotment names none. Three spinning best-effort VMs take 2 % of a pCPU from a critical one."""

WEIGHT_MAX = 10_000

# --- what a plan is made of --------------------------------------------------------------------------------------------


class NodeCpus(Value):
    """A node's pCPUs. cells: by NUMA cell, only those that VMs may use; cores: threads of one core stand together; isolated: kept
    by the kernel from ordinary work, no VM runs there; share: how many embedded nodes see these same pCPUs; cells_mib: what VMs may
    be promised in each cell, empty where there is one cell only or that is not known; numbers: the kernel's, of each cell."""

    cells: tuple[tuple[int, ...], ...]
    cores: tuple[tuple[int, ...], ...] = ()
    isolated: tuple[int, ...] = ()
    share: int = 1
    cells_mib: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()


class VmNeeds(Value):
    """A VM that runs on the node, and what it is to get. memory_mib: what its node's ledger guarantees it; whole_mib: the most that
    it can ever take, 0: not known."""

    vm: VmId
    generation: int
    vcpus: int
    priority: Priority = Priority.NORMAL
    allotment: Allotment = Allotment()
    memory_mib: int = 0
    whole_mib: int = 0


class PlanInputs(Value):
    """All that a plan follows from, beside the plan before it."""

    cpus: NodeCpus
    vms: tuple[VmNeeds, ...] = ()


class VmPlan(Value):
    """One VM's part of the plan.

    weight, cap_pct   its share where pCPUs are short; the most it gets, 0: no cap
    pcpus             where its vCPUs may run; pins: the same by vCPU, for those that have pCPUs of their own
    threads           where QEMU's other threads (emulator, I/O) may run
    exclusive         no other VM's vCPU is planned onto its pCPUs
    priority          its class, in whose area its memory is to count; None: as it was started
    cells             the NUMA cells, by the kernel's numbers, that its memory is bound to; none: it may lie in all
    sentence, fault   why; what was wished and cannot be
    """

    vm: VmId
    generation: int
    weight: int
    cap_pct: int = 0
    reserved_pct: int = 0
    pcpus: tuple[int, ...] = ()
    pins: tuple[tuple[int, ...], ...] = ()
    threads: tuple[int, ...] = ()
    exclusive: bool = False
    sentence: str = ""
    fault: str = ""
    priority: Priority | None = None
    cells: tuple[int, ...] = ()


class PlanFault(Value):
    """A part of a plan that could not be applied to a VM: `weight`, `cap`, `vcpu-pcpus`, `thread-pcpus`, `memory-class`,
    `memory-cells`. node_wide: nor to any other of this node, for its host lacks what that takes."""

    vm: str
    part: str
    sentence: str
    node_wide: bool = False


class PlanLack(Value):
    """A part that the node can apply to none of its VMs, and what its host lacks for it."""

    part: str
    sentence: str


# --- what a VM is worth (streams vm-NAME) -------------------------------------------------------------------------------


class SetAllotment(Command):
    """Change what a VM is worth, defined or running; None leaves a thing as it is. cpus: the pCPUs of its node, where it has one;
    others_reserved_pct: what is reserved there for others; limit: how its node's pCPUs would be over-allocated with it in its new
    class, limit_before: vCPUs allowed there with it in its old one. All filled in by compute's own view."""

    vm: Name
    priority: Priority | None = None
    cpu_weight: CpuWeight | None = None
    cpu_cap_pct: CpuPct | None = None
    cpu_reserved_pct: CpuPct | None = None
    memory_reserved_mib: ReservedMib | None = None
    pins: Pins | None = None
    together: str | None = None
    apart: str | None = None
    one_cell: bool | None = None
    cpus: NodeCpus | None = None
    others_reserved_pct: int = 0
    limit: CpuLimit | None = None
    limit_before: int = 0


class NoteAllotment(Command):
    """What the ledger of a running VM's node said to the memory that its new allotment promises."""

    vm: Name
    node: NodeId
    generation: int
    granted: bool
    sentence: str = ""


class VmAllotmentRequested(Event):
    """A running VM is to be worth what changes its promise of memory: its node's ledger is asked first. memory_mib: its size."""

    vm: VmId
    node: NodeId
    generation: int
    memory_mib: int
    priority: Priority
    allotment: Allotment


class VmAllotmentDenied(Event):
    """The ledger does not hold it: the VM is worth what it was, and so is its definition."""

    vm: VmId
    node: NodeId
    generation: int
    sentence: str


class VmAllotted(Event):
    """What it is worth from now on; a running VM's plan follows."""

    vm: VmId
    priority: Priority
    allotment: Allotment


# --- commands ----------------------------------------------------------------------------------------------------------


class MakePlan(Command):
    """The VMs of this node, or its pCPUs, may have changed. inputs: filled in by compute's own views."""

    node: Name
    inputs: PlanInputs | None = None


class ReviewPlan(Tick):
    """Does a better plan exist for what the VMs want just now? Filled in by compute's own views from telemetry: demand_pct by VM
    (used and waited), worst_pct: the lowest satisfaction, low_s: for how long one has been low."""

    node: Name
    demand_pct: dict[str, float] = {}
    worst_pct: float = 100.0
    low_s: float = 0.0


class ReportPlan(Fact):
    """What the agent made of a plan. order_version: the plan's revision. applied: VMs whose part was set and read back, but for
    what the node can apply to none (lacking)."""

    order_version: int
    applied: tuple[str, ...] = ()
    faults: tuple[PlanFault, ...] = ()
    order_incarnation: int = 1
    incarnation: int = 1
    lacking: tuple[PlanLack, ...] = ()


# --- events ------------------------------------------------------------------------------------------------------------


class PlanMade(Event):
    """The plan changed: `vms` are the parts that are new or different, `gone` the VMs that left; all others stay as they were.
    needs, cpus: the inputs that changed with it (cpus None: as before). moved, gain_pct: the VM that a rebalance gave another
    cell, and how much more of all demand is expected to be met; at_us: when that was."""

    node: NodeId
    revision: int
    policy: str
    vms: tuple[VmPlan, ...] = ()
    gone: tuple[VmId, ...] = ()
    needs: tuple[VmNeeds, ...] = ()
    cpus: NodeCpus | None = None
    moved: str = ""
    gain_pct: float = 0.0
    at_us: int = 0
    sentence: str = ""


class PlanApplied(Event):
    """The agent has set all of this revision and read it back, but for the parts that the node can apply to no VM (partial)."""

    node: NodeId
    revision: int
    partial: tuple[str, ...] = ()


class PlanLimited(Event):
    """From now on the node can apply these parts to none of its VMs; none: it can apply all."""

    node: NodeId
    lacking: tuple[PlanLack, ...] = ()


class PlanFaulted(Event):
    """The agent could not apply these parts; all others hold."""

    node: NodeId
    revision: int
    faults: tuple[PlanFault, ...]


PlanCommand = MakePlan | ReviewPlan | ReportPlan
PlanEvent = PlanMade | PlanApplied | PlanFaulted | PlanLimited

# --- to the agent ------------------------------------------------------------------------------------------------------


class OrderPlan(Message):
    """The whole plan of a node. version: its revision."""

    node: Name
    version: int
    vms: tuple[VmPlan, ...] = ()
    correlation: str = ""
    incarnation: int = 1


class AskSchedule(Message):
    """How this VM's threads are scheduled right now."""

    vm: Name


class VcpuSchedule(Value, omit_defaults=False):
    """A guest CPU: its thread, where that may run and ran last, and how it fared in the latest window."""

    vcpu: int
    thread: int
    pcpus: tuple[int, ...]
    last_pcpu: int
    used_pct: float = 0.0
    ready_pct: float = 0.0


class VmSchedule(Value, omit_defaults=False):
    """Both levels, read back from the host: guest CPUs are threads, threads run on pCPUs. weight, cap_pct: as the control group
    says (weight 0: there is none); plan: what was to be set, None where no plan came yet. error: why there is nothing."""

    vm: str = ""
    node: str = ""
    generation: int = 0
    weight: int = 0
    cap_pct: int = 0
    vcpus: tuple[VcpuSchedule, ...] = ()
    threads: int = 0
    thread_pcpus: tuple[int, ...] = ()
    used_pct: float = 0.0
    ready_pct: float = 0.0
    throttled_pct: float = 0.0
    steal_pct: float = 0.0
    satisfaction_pct: float = 100.0
    window_ms: int = 0
    plan: VmPlan | None = None
    faults: tuple[PlanFault, ...] = ()
    error: str = ""


# --- telemetry ---------------------------------------------------------------------------------------------------------


class VmCpuBeat(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One VM's CPU in the window. used_pct: all its threads; ready_pct: how long its vCPUs were ready and had to wait, by vCPU in
    the mean; throttled_pct: how long its cap held it; vcpus: (used, ready) of each."""

    vm: str
    generation: int
    used_pct: float
    ready_pct: float
    throttled_pct: float
    satisfaction_pct: float
    demand_pct: float
    vcpus: tuple[tuple[float, float], ...] = ()


class CpuBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.cpu`, once a second, never stored. steal_pct: of all this host's CPU time, what its own host took."""

    node: str
    at_us: int
    window_ms: int
    steal_pct: float
    vms: tuple[VmCpuBeat, ...] = ()
