"""What a VM's devices do right now, asked of its agent; never recorded.

Counts run from the start of the process (a guest that came from another node begins anew); rates are over the window between two
looks. Who counted is said with each device, as a guest's own word is worth less than its host's.
"""

from __future__ import annotations

from enum import StrEnum

from libs.common.messages import Message, Name, Value


class AskIo(Message):
    """What the devices of this VM do."""

    vm: Name


class CountedBy(StrEnum):
    """queue: of the requests that were completed, by the ring's own index; QEMU counts no bytes there."""

    QEMU = "qemu"
    HOST = "host"
    GUEST = "guest"
    QUEUE = "queue"
    NOBODY = "nobody"


class Queue(Value, omit_defaults=False):
    """A ring of requests. size: how many it holds; in_flight: taken by QEMU and not answered."""

    name: str
    size: int
    in_flight: int
    completed_per_s: float = 0.0


class Requests(Value, omit_defaults=False):
    """Of one kind (`read`, `write`, `flush`, `discard`). total, bytes, failed, invalid: since the start; invalid: those that the
    device refused. The rest is over the window; mean_us: of those that ended in it. bins: how many took how long, since the start,
    by VmIo.bounds_us; p…_us: so many percent took no longer, in the window where it has any, else since the start; -1: longer than
    the last bound, 0: there was none."""

    kind: str
    total: int
    bytes: int = 0
    failed: int = 0
    invalid: int = 0
    per_s: float = 0.0
    mibps: float = 0.0
    mean_us: float = 0.0
    bins: tuple[int, ...] = ()
    p50_us: int = 0
    p95_us: int = 0
    p99_us: int = 0


class Packets(Value, omit_defaults=False):
    """`rx`: to the guest; `tx`: from it."""

    kind: str
    total: int
    bytes: int = 0
    errors: int = 0
    dropped: int = 0
    per_s: float = 0.0
    mibps: float = 0.0


class DeviceIo(Value, omit_defaults=False):
    """name: as `disk ls` and `nic ls` have it, else QEMU's own id. kind: `disk`, `nic`, …; model: QEMU's name of it
    (proto/models.py says the rest); ours False: the log knows nothing of it. address: on its bus. depth: requests in flight, in the
    mean of the window; note: what else there is to say."""

    name: str
    kind: str
    model: str
    paravirtual: bool
    address: str = ""
    ours: bool = True
    queues: tuple[Queue, ...] = ()
    requests: tuple[Requests, ...] = ()
    packets: tuple[Packets, ...] = ()
    depth: float = 0.0
    counted_by: CountedBy = CountedBy.NOBODY
    note: str = ""


class Exits(Value, omit_defaults=False):
    """How often the guest was left for QEMU or the host's kernel, of one kind, over all vCPUs."""

    kind: str
    total: int
    per_s: float = 0.0


class VmIo(Value, omit_defaults=False):
    """window_ms 0: there is nothing yet to compare with, and all rates are 0. exits: empty where the accelerator does not count
    them; intercepted: in one sentence, what is known of how often accesses were intercepted. error: why there is nothing."""

    vm: str = ""
    node: str = ""
    generation: int = 0
    accelerator: str = ""
    window_ms: int = 0
    devices: tuple[DeviceIo, ...] = ()
    exits: tuple[Exits, ...] = ()
    intercepted: str = ""
    bounds_us: tuple[int, ...] = ()
    error: str = ""
