"""node: what services order of an agent, and what is asked of it directly. Orders are repeated until acknowledged.

Every order carries the log's incarnation and the version of the stream that decided it; orders about a VM carry its generation
too. An agent acts on the newest only, and answers `Heard`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from libs.common.messages import Message, Name, Value
from proto.backup_keys import AskKey
from proto.backups import BackupName, Definition, KeyId, SavedDisk
from proto.images import DiskSource, ImageFormat
from proto.ioview import AskIo
from proto.machine import DirectBoot, Disk, FileName, Freeze, MachineSpec
from proto.mapping import AskMemory, AskTranslate
from proto.memory import Area
from proto.nodes import OrderLeave
from proto.plan import AskSchedule, OrderPlan


class Want(StrEnum):
    """The state an agent is to bring a VM to and keep it in. incoming: a process waits for the guest from another node and runs
    nothing; migrating: the guest runs while it is sent to another node, and its process ends once it was sent whole."""

    RUNNING = "running"
    PAUSED = "paused"
    INCOMING = "incoming"
    MIGRATING = "migrating"
    GONE = "gone"


class OrderVm(Message):
    """Bring this VM to `want`. resets: how many resets were ordered in this generation (the agent makes up the difference).
    deadline_s: with `gone`, how long the guest may take to shut down by itself; 0: power off.
    spec is present unless `want` is gone, or the guest is to go on in the process that it came in: then none is started.
    migrating: address and incoming: where to and as which generation the guest goes; deadline_s: how long that may take before
    it runs on here. incoming, migrating: copied: pools whose disks go along, with the word of the source's pool;
    peer_key: the other node's; whole: disks of
    which all is copied, as what they stand on is not there."""

    vm: Name
    generation: int
    version: int
    want: Want
    resets: int = 0
    deadline_s: int = 0
    spec: MachineSpec | None = None
    correlation: str = ""
    trace: str = ""
    incarnation: int = 1
    address: str = ""
    incoming: int = 0
    copied: dict[str, str] = {}
    peer_key: str = ""
    whole: tuple[str, ...] = ()


class OrderDisksRemoval(Message):
    vm: Name
    version: int
    disks: tuple[Disk, ...]
    correlation: str = ""
    incarnation: int = 1


class OrderDisksMerge(Message):
    """Of a VM at rest: layers that are leaving go up into the files above them."""

    vm: Name
    version: int
    disks: tuple[Disk, ...]
    correlation: str = ""
    incarnation: int = 1


class OrderImageImport(Message):
    image: Name
    version: int
    pool: Name
    file: FileName
    format: ImageFormat
    sha256: str = ""
    boot: DirectBoot | None = None
    disk: str = ""
    source: DiskSource | None = None
    correlation: str = ""
    incarnation: int = 1


class OrderImageRemoval(Message):
    image: Name
    version: int
    pool: Name
    correlation: str = ""
    incarnation: int = 1


class OrderBackup(Message):
    """Back up all disks of a VM at one instant into `<pool>/backups/<vm>/<backup>/`, whole or not at all. generation: of the
    process that is read; 0: the VM is at rest. parent: what it may stand on, if the disks' own files still
    know what was written since; parents: that one and all that it stands on, the newest first. definition: for the manifest.
    key: by which its files are encrypted; empty: they are not. why_full: why no parent is named, where that is worth a word."""

    vm: Name
    version: int
    backup: BackupName
    generation: int
    pool: Name
    disks: tuple[Disk, ...]
    definition: Definition
    parent: str = ""
    parents: tuple[str, ...] = ()
    freeze: Freeze = Freeze.AUTO
    rate_mibps: int = 0
    compress: bool = False
    correlation: str = ""
    incarnation: int = 1
    key: KeyId = ""
    why_full: str = ""


class OrderBackupRemoval(Message):
    """Remove the backup, or what a cancelled or failed one left. heirs: those that stand on it, with their files: they are first
    written anew, to stand on `below` (empty: on nothing). key: by which they, and it, are encrypted; empty: they are not."""

    vm: Name
    version: int
    backup: BackupName
    pool: Name
    heirs: dict[str, tuple[SavedDisk, ...]] = {}
    below: str = ""
    correlation: str = ""
    incarnation: int = 1
    key: KeyId = ""


class OrderBackupVerify(Message):
    """Read it and all that it stands on, and compare. backups: by name, with their files."""

    vm: Name
    version: int
    backup: BackupName
    pool: Name
    backups: dict[str, tuple[SavedDisk, ...]] = {}
    correlation: str = ""
    incarnation: int = 1


class OrderGreeting(Message):
    """The database was restored: report all that you run, and when all of it was heard, say so (ReportNode with this incarnation).
    From then on orders of older incarnations are refused."""

    node: Name
    version: int
    correlation: str = ""
    incarnation: int = 1


class MemoryTarget(Value):
    """What a running VM may keep while its node is short of memory. A VM without a target keeps all that is its own.

    target_mib    the balloon: how much of its nominal memory the guest has
    swap_max_mib  how much of it the host may swap out or compress (memory.swap.max); 0: nothing
    high_mib      above this its cgroup is reclaimed from and slowed down (memory.high); 0: no such limit
    merge         its pages may be merged with equal ones (KSM)
    """

    vm: str
    generation: int
    target_mib: int
    swap_max_mib: int = 0
    high_mib: int = 0
    merge: bool = False


class OrderMemory(Message):
    """How this node's memory is divided now: all targets and all areas, each order whole. `version` counts what the ledger wants
    (not the versions of its stream: most of the ledger's events change nothing here). A target of a generation that does not run
    is passed over. What could not be applied is reported once per version, as ReportMemory; so is that all was, after faults."""

    node: Name
    version: int
    targets: tuple[MemoryTarget, ...] = ()
    limits: tuple[Area, ...] = ()
    correlation: str = ""
    incarnation: int = 1


Order = (
    OrderVm | OrderDisksRemoval | OrderDisksMerge | OrderImageImport | OrderImageRemoval | OrderGreeting | OrderMemory | OrderPlan
    | OrderLeave | OrderBackup | OrderBackupRemoval | OrderBackupVerify
)  # fmt: skip


class Heard(Value):
    """An agent's answer to an order. accepted False: it was older than what the agent has seen (generation or version)."""

    accepted: bool
    sentence: str = ""


class AskExec(Message):
    """Run a program inside the guest through its agent. Never recorded, never traced: arguments may be secret."""

    vm: Name
    argv: tuple[str, ...]
    input: bytes = b""
    timeout_s: float = 30.0


class ExecResult(Value):
    """What came back, bounded to 1 MiB per stream and stripped of terminal escapes by the CLI. error: why it did not run."""

    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    error: str = ""


class AskConsole(Message):
    """Open a byte stream to the VM's serial console: the agent then publishes to `console.<node>.<session>.out` and hears
    `console.<node>.<session>.in` until one side sends an empty message or `lease_s` passes without input from the asker.
    Asked again with the same session, the lease begins anew and nothing else happens."""

    vm: Name
    session: Name
    lease_s: float = 30.0


class AskInfo(Message):
    """How the agent sees a VM right now (pid, vCPU threads, addresses, guest agent)."""

    vm: Name


class Sending(Value):
    """How far a guest's memory has been sent to another node. round: how often all of it was gone through so far; what the guest
    writes meanwhile is sent again. disks_…: of the disks that go along."""

    sent_mib: int
    remaining_mib: int
    memory_mib: int
    round: int = 0
    disks_mib: int = 0
    disks_sent_mib: int = 0


class VmInfo(Value):
    pid: int = 0
    generation: int = 0
    status: str = ""
    boot_id: str = ""
    vcpu_threads: tuple[int, ...] = ()
    pcpus: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    guest_agent: bool = False
    error: str = ""
    sending: Sending | None = None


class AskScreenshot(Message):
    """What the guest's screen shows right now. Never recorded: it may show what is secret."""

    vm: Name


class Screenshot(Value):
    """png: at most 3 MiB. error: why there is none."""

    png: bytes = b""
    error: str = ""


Ask = AskExec | AskConsole | AskInfo | AskIo | AskScreenshot | AskTranslate | AskMemory | AskSchedule | AskKey


class CopyNow(msgspec.Struct, frozen=True, array_like=True):
    """A copy that goes on: a backup being taken, or a recovered disk coming home. what: `backup` or `home`; name: the backup's, or
    the disk's. mibps: lately. Of what comes home: write_us: what one of the guest's writes to any of its disks took lately, on
    average; normal_us: what that takes without the copy; 0: not known. first_mib: what came, or is to come, before all else, as
    its guest touched it first when it last ran from a backup; 0: that is not known, or nothing is to come first."""

    vm: str
    what: str
    name: str
    done_mib: int
    all_mib: int
    mibps: float = 0.0
    write_us: int = 0
    normal_us: int = 0
    first_mib: int = 0


class CopiesBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.copies`, once a second while there are any, and once more when the last has ended: core NATS, never stored."""

    node: str
    boot_id: str
    at_us: int
    copies: tuple[CopyNow, ...] = ()


class VmBeat(msgspec.Struct, frozen=True, array_like=True):
    """One VM in a heartbeat."""

    vm: str
    generation: int
    status: str


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.beat`, once a second: core NATS, never stored. at_us: the node's clock; boot_id: this boot of the host.
    cells_free_mib: what programs could have of each NUMA cell without swapping, where the node has several."""

    node: str
    boot_id: str
    at_us: int
    free_mib: int
    load: float
    vms: tuple[VmBeat, ...] = ()
    cells_free_mib: tuple[int, ...] = ()


class VmMemory(msgspec.Struct, frozen=True, array_like=True):
    """One VM in a memory beat, as the host sees its process. balloon_mib: what the guest has now of its nominal memory;
    guest_available_mib: what it could hand out without swapping (balloon statistics); -1: not known."""

    vm: str
    generation: int
    resident_mib: int
    swapped_mib: int = 0
    balloon_mib: int = -1
    guest_available_mib: int = -1


class AreaNow(msgspec.Struct, frozen=True, array_like=True):
    """One area (a module's or a class's control group) of a node. max_mib 0: no limit. swapped: what stands in it may be swapped
    out. hits: how often it was at its limit; kills: how often the kernel killed in it. psi_…: as in MemoryBeat, of this area."""

    name: str
    used_mib: int
    peak_mib: int = 0
    max_mib: int = 0
    swapped: bool = False
    hits: int = 0
    kills: int = 0
    psi_some_pct: float = -1.0
    psi_full_pct: float = -1.0


PLAIN = "plain"
"""swap on a disk in the clear"""


class SwapNow(msgspec.Struct, frozen=True, array_like=True):
    """One swap of the host. kind: `zram`, `crypt`, `plain`. why_not: why VMs are not swapped there; "": they may be.
    memory_mib: what it takes of the memory now, memory_max_mib: at most (zram; 0: no limit). own: made by the node's agent."""

    name: str
    kind: str
    size_mib: int
    used_mib: int = 0
    why_not: str = ""
    memory_mib: int = 0
    memory_max_mib: int = 0
    own: bool = False


class MemoryBeat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.memory`, once a second: core NATS, never stored. Figures of the host, also where nodes share it.
    psi_…: share of the last ten seconds in which some, or all, tasks waited for memory, in percent; -1: not known."""

    node: str
    boot_id: str
    at_us: int
    total_mib: int
    available_mib: int
    swap_total_mib: int = 0
    swap_free_mib: int = 0
    psi_some_avg10: float = -1.0
    psi_full_avg10: float = -1.0
    ksm_saved_mib: int = 0
    vms: tuple[VmMemory, ...] = ()
    areas: tuple[AreaNow, ...] = ()
    swaps: tuple[SwapNow, ...] = ()
