"""node: what services order of an agent, and what is asked of it directly. Orders are repeated until acknowledged.

Every order carries the log's incarnation and the version of the stream that decided it; orders about a VM carry its generation
too. An agent acts on the newest only, and answers `Heard`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from libs.common.messages import Message, Name, Value
from proto.machine import DirectBoot, Disk, DiskFormat, FileName, MachineSpec


class Want(StrEnum):
    """The state an agent is to bring a VM to and keep it in."""

    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"


class OrderVm(Message):
    """Bring this VM to `want`. resets: how many resets were ordered in this generation (the agent makes up the difference).
    deadline_s: with `gone`, how long the guest may take to shut down by itself; 0: power off.
    spec is present unless `want` is gone."""

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


class OrderDisksRemoval(Message):
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
    format: DiskFormat
    sha256: str = ""
    boot: DirectBoot | None = None
    correlation: str = ""
    incarnation: int = 1


class OrderImageRemoval(Message):
    image: Name
    version: int
    pool: Name
    correlation: str = ""
    incarnation: int = 1


class OrderGreeting(Message):
    """The database was restored: report all that you run, and when all of it was heard, say so (ReportNode with this incarnation).
    From then on orders of older incarnations are refused."""

    node: Name
    version: int
    correlation: str = ""
    incarnation: int = 1


Order = OrderVm | OrderDisksRemoval | OrderImageImport | OrderImageRemoval | OrderGreeting


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


class AskScreenshot(Message):
    """What the guest's screen shows right now. Never recorded: it may show what is secret."""

    vm: Name


class Screenshot(Value):
    """png: at most 3 MiB. error: why there is none."""

    png: bytes = b""
    error: str = ""


Ask = AskExec | AskConsole | AskInfo | AskScreenshot


class VmBeat(msgspec.Struct, frozen=True, array_like=True):
    """One VM in a heartbeat."""

    vm: str
    generation: int
    status: str


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """`tel.<node>.beat`, once a second: core NATS, never stored. at_us: the node's clock; boot_id: this boot of the host."""

    node: str
    boot_id: str
    at_us: int
    free_mib: int
    load: float
    vms: tuple[VmBeat, ...] = ()
