"""The JSON bodies that the API takes and gives. Unknown fields are refused; wrong ones are named with what would be right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from libs.common.messages import Name
from proto.balance import AtOnceMax, Mode
from proto.machine import (
    PINS_MAX,
    Allotment,
    CpuPct,
    CpuWeight,
    DiskBus,
    DiskFormat,
    DiskLimits,
    DiskWish,
    Firmware,
    MemoryBy,
    MemoryMib,
    NicModel,
    NicWish,
    Pin,
    Priority,
    ReservedMib,
    System,
    Vcpus,
)
from proto.migration import MigrationDeadlineS
from proto.networks import USER, Queues
from proto.placement import Ratio, RatioOrNone, WeightSet
from proto.pools import BackupsAtOnce, KeepFreePct, Over
from proto.seeds import KEYS_MAX, Hostname, NetworkConfig, SeedContent, SshKey, UserData
from proto.vms import DeadlineS
from services.gateway.alerts import Alert
from services.gateway.pools import Pool
from services.gateway.tasks import Task
from services.gateway.views.images import Image
from services.gateway.views.nodes import Node
from services.gateway.views.vms import Vm

Label = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", max_length=63)]
"""A DNS label or nothing."""
VcpusMax = Annotated[int, msgspec.Meta(ge=0, le=512)]
MemoryMaxMib = Annotated[int, msgspec.Meta(ge=0, le=16 * 1024 * 1024)]
DiskMib = Annotated[int, msgspec.Meta(ge=0, le=64 * 1024 * 1024)]
Iops = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Mibps = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Argument = Annotated[str, msgspec.Meta(max_length=64 * 1024)]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What a client sends."""

    def said(self) -> dict[str, Any]:
        """Where null means that a thing stays: what does not."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class LimitsBody(Body):
    """Per second; 0: no limit."""

    iops: Iops = 0
    mibps: Mibps = 0
    iops_burst: Iops = 0
    mibps_burst: Mibps = 0

    @property
    def limits(self) -> DiskLimits:
        return DiskLimits(
            iops=self.iops, mibps=self.mibps, iops_burst=self.iops_burst, mibps_burst=self.mibps_burst
        )


class NewDisk(Body):
    """size_mib 0: as large as its image; without an image: a blank disk, which needs a size. bus `cdrom`, `sata-cdrom`: a drive,
    with the ISO that lies in it. first: the guest is started from it before all others."""

    size_mib: DiskMib = 0
    image: Label = ""
    format: DiskFormat = DiskFormat.QCOW2
    pool: Name = "default"
    bus: DiskBus = DiskBus.VIRTIO_BLK
    limits: LimitsBody = msgspec.field(default_factory=LimitsBody)
    first: bool = False

    @property
    def wish(self) -> DiskWish:
        return DiskWish(
            size_mib=self.size_mib, image=self.image, format=self.format, pool=self.pool, bus=self.bus,
            limits=self.limits.limits, first=self.first,
        )  # fmt: skip


class NewNic(Body):
    """network: one that exists, or `user`, which isolates the VM. queues: of a virtio NIC, so that several vCPUs send at once."""

    network: Name = USER
    model: NicModel = NicModel.VIRTIO
    queues: Queues = 1

    @property
    def wish(self) -> NicWish:
        return NicWish(network=self.network, model=self.model, queues=self.queues)


class SeedBody(Body):
    """What cloud-init in the guest begins with (NoCloud): an ISO with the label CIDATA in a drive of its own. It is kept out of the
    log, as it may hold passwords. ssh_keys: lines of authorized_keys."""

    user_data: UserData = ""
    network_config: NetworkConfig = ""
    hostname: Hostname = ""
    ssh_keys: Annotated[list[SshKey], msgspec.Meta(max_length=KEYS_MAX)] = msgspec.field(default_factory=list)

    def content(self, name: str) -> SeedContent:
        """name: the host's, where none is said."""
        said = {"user_data": self.user_data} if self.user_data else {}
        return SeedContent(
            network_config=self.network_config, hostname=self.hostname or name, ssh_keys=tuple(self.ssh_keys), **said
        )


class NewVm(Body):
    """vcpus_max, memory_max_mib 0: no head-room. image: its first disk is an overlay on it. disks: without an image, or to
    say more; nics: one in the isolated user network where nothing is said. start: true starts it as well. firmware: `uefi` where
    nodes have it, `bios`, or `direct` for an image with a kernel of its own; what suits the image where nothing is said."""

    name: Name
    vcpus: Vcpus = 1
    memory_mib: MemoryMib = 256
    vcpus_max: VcpusMax = 0
    memory_max_mib: MemoryMaxMib = 0
    memory_by: MemoryBy = MemoryBy.VIRTIO_MEM
    image: Label = ""
    disks: Annotated[list[NewDisk], msgspec.Meta(max_length=64)] | None = None
    nics: Annotated[list[NewNic], msgspec.Meta(max_length=16)] | None = None
    priority: Priority = Priority.NORMAL
    allotment: Allotment = Allotment()
    start: bool = False
    project: Label = ""
    firmware: Firmware | None = None
    system: System = System.LINUX
    pci: Annotated[list[str], msgspec.Meta(max_length=32)] = msgspec.field(default_factory=list)
    security_groups: Annotated[list[str], msgspec.Meta(max_length=32)] = msgspec.field(default_factory=list)
    seed: SeedBody | None = None


class StartVmBody(Body):
    """node: only there, if given."""

    node: Label = ""


class MigrateVmBody(Body):
    """node: there, if given; deadline_s: how long its memory may take to be sent before it stays where it is."""

    node: Label = ""
    deadline_s: MigrationDeadlineS = 600


class StopVmBody(Body):
    """deadline_s: how long the guest may take to shut down before it is powered off; 0: at once."""

    deadline_s: DeadlineS = 60


class AllotmentBody(Body):
    """What a VM is worth from now on; what is not said stays. 0, [] and "" give a thing back to its class."""

    priority: Priority | None = None
    cpu_weight: CpuWeight | None = None
    cpu_cap_pct: CpuPct | None = None
    cpu_reserved_pct: CpuPct | None = None
    memory_reserved_mib: ReservedMib | None = None
    pins: Annotated[list[Pin], msgspec.Meta(max_length=PINS_MAX)] | None = None
    together: Label | None = None
    apart: Label | None = None
    one_cell: bool | None = None


class SizeBody(Body):
    """What a VM is to have; what is not said stays. The maxima, and what memory grows by, are changed at rest only."""

    vcpus: Vcpus | None = None
    memory_mib: MemoryMib | None = None
    vcpus_max: Vcpus | None = None
    memory_max_mib: MemoryMib | None = None
    memory_by: MemoryBy | None = None


class ExecBody(Body):
    """A program in the guest, by its guest agent. timeout_s: seconds until it is given up."""

    argv: Annotated[list[Argument], msgspec.Meta(min_length=1, max_length=1024)]
    input_b64: Annotated[str, msgspec.Meta(max_length=1_400_000)] = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 30.0


class ExecAnswer(msgspec.Struct):
    exit_code: int
    stdout_b64: str
    stderr_b64: str
    truncated: bool


class DrainUnfit(msgspec.Struct):
    vm: str
    sentence: str
    remedy: str


class DrainMove(msgspec.Struct):
    """copy_mib: the disks that go along, at most; 0: that node reaches them."""

    vm: str
    to: str
    copy_mib: int = 0


class Drain(msgspec.Struct):
    """Where each VM would go, what fits nowhere and why, and what is starting or stopping and would be waited for."""

    moves: list[DrainMove]
    unfit: list[DrainUnfit]
    waits: list[str]


class DrainBody(Body):
    """partial: also when some VMs fit nowhere else; they stay."""

    partial: bool = False
    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


class CordonBody(Body):
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


class FinalizeBody(Body):
    """protocol: the one all are to speak from now on; 0: the newest that compute speaks."""

    protocol: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0


class BalanceBody(Body):
    """mode: `advise` (nothing moves by itself) or `auto`. The rest changes the rules that are given, and leaves the others."""

    mode: Mode
    threshold: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0)] | None = None
    at_once_max: AtOnceMax | None = None


class ClassBody(Body):
    """Of one class of VMs. null: that stays; weights "" and vcpus_per_pcpu 0: nothing of its own any more."""

    weights: Literal["", "spread", "pack"] | None = None
    vcpus_per_pcpu: RatioOrNone | None = None


class PlacementBody(Body):
    """What is not given stays. weights: prefer the emptiest nodes (`spread`) or the fullest (`pack`). vcpus_per_pcpu: how many
    vCPUs may be promised per pCPU; nodes: of a node, 0: as the cluster. Of several limits the lowest holds."""

    weights: WeightSet | None = None
    vcpus_per_pcpu: Ratio | None = None
    classes: dict[Priority, ClassBody] = {}
    nodes: Annotated[dict[str, RatioOrNone], msgspec.Meta(max_length=1000)] = {}


class Vms(msgspec.Struct):
    items: list[Vm]


class Nodes(msgspec.Struct):
    items: list[Node]


class PoolBody(Body):
    """What is not said stays. over: its disks are at most so many times its size, 0: no limit. backups_at_once: schedules begin no
    backup into it while so many are taken, 0: no limit."""

    over: Over | None = None
    keep_free_pct: KeepFreePct | None = None
    backups_at_once: BackupsAtOnce | None = None


class Alerts(msgspec.Struct):
    items: list[Alert]


class Pools(msgspec.Struct):
    items: list[Pool]


class Images(msgspec.Struct):
    items: list[Image]


class TaskList(msgspec.Struct):
    items: list[Task]


class EventList(msgspec.Struct):
    """position: where to go on (`after`)."""

    items: list[dict[str, Any]]
    position: int


class ServiceHealth(msgspec.Struct):
    """status: what the service says of itself, when it answered; behind: events of the log it has not reacted to yet, -1 where
    it did not say."""

    ok: bool
    error: str = ""
    behind: int = -1
    status: Any = None


class Cluster(msgspec.Struct):
    """position: the log's end; shown_position: what these answers are made of. accelerators: of the nodes that are online."""

    name: str
    incarnation: int
    position: int
    shown_position: int
    services: dict[str, ServiceHealth]
    nodes: int
    nodes_online: int
    vms: int
    vms_running: int
    accelerators: list[str]
    not_enforced: list[str]


class BalanceMove(msgspec.Struct):
    """A VM that would sit better elsewhere. gain: by how much the score falls; moves of one batch may run at once."""

    vm: str
    origin: str
    target: str
    gain: float
    score_before: float
    score_after: float
    batch: int
    reason: str
    group: str = ""


class BalanceStay(msgspec.Struct):
    """A `together` group that cannot move as a whole, and why."""

    group: str
    vms: list[str]
    reason: str


class Balance(msgspec.Struct):
    """score: 0 is even; planned: after all moves; threshold: above it the cluster counts as uneven. Terms are weighted, and add
    up to the score. uneven_us: since when it was, in mode `auto`; moving: moves under way; not_shown: moves
    of VMs of other projects. demand_known: VMs whose CPU demand was heard, of `vms`."""

    policy: str
    score: float
    planned: float
    threshold: float
    terms: dict[str, float]
    planned_terms: dict[str, float]
    mode: Mode
    uneven_us: int
    moving: int
    moves: list[BalanceMove]
    not_shown: int
    nodes: int
    vms: int
    demand_known: int
    stays: list[BalanceStay] = []


class Health(msgspec.Struct):
    log: str
    bus: str
