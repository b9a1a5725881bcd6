"""What a driver counts of a VM's devices: totals since the start of its process, at one moment. The agent makes rates of them
(io_rates.py)."""

from __future__ import annotations

import msgspec

from proto.ioview import CountedBy

BOUNDS_US = (
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000,
    100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
)  # fmt: skip
"""of a latency histogram: 1, 2, 5 in each decade, from what a page cache answers to what a guest's driver gives up on"""


class QueueCount(msgspec.Struct, frozen=True):
    """index: how many requests were completed, modulo 65536, as the ring itself counts."""

    name: str
    size: int
    in_flight: int = 0
    index: int = 0


class RequestCount(msgspec.Struct, frozen=True):
    """took_ns: all of them together. bins: by BOUNDS_US, one more than there are bounds; none where nobody looked."""

    kind: str
    total: int
    bytes: int = 0
    failed: int = 0
    invalid: int = 0
    took_ns: int = 0
    bins: tuple[int, ...] = ()


class PacketCount(msgspec.Struct, frozen=True):
    kind: str
    total: int
    bytes: int = 0
    errors: int = 0
    dropped: int = 0


class DeviceCount(msgspec.Struct, frozen=True):
    """id: QEMU's; slot: of a disk or NIC, else -1; model: QEMU's name of it."""

    id: str
    model: str
    slot: int = -1
    address: str = ""
    queues: tuple[QueueCount, ...] = ()
    requests: tuple[RequestCount, ...] = ()
    packets: tuple[PacketCount, ...] = ()
    counted_by: CountedBy = CountedBy.NOBODY
    note: str = ""


class IoCount(msgspec.Struct, frozen=True):
    """exits: by kind, over all vCPUs; empty where the accelerator does not count them."""

    vm: str
    generation: int
    pid: int
    accelerator: str
    devices: tuple[DeviceCount, ...]
    exits: dict[str, int] = {}
