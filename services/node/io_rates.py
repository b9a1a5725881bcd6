"""From two counts of a VM's devices to rates, latencies and what is known of intercepted accesses. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proto.ioview import DeviceIo, Exits, Packets, Queue, Requests, VmIo
from proto.models import MODELS
from services.node.drivers.io import BOUNDS_US, DeviceCount, IoCount, PacketCount, QueueCount, RequestCount

WINDOW_US_MIN = 500_000
"""a rate over less says nothing"""
WINDOW_US_MAX = 60_000_000
"""a look that is longer ago is no base for what is now"""
MIB = 1024 * 1024
INDEX_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Look:
    at_us: int
    count: IoCount


@dataclass(slots=True)
class Looks:
    """The latest two looks at each VM, which all who ask share: one that is too young to compare with is passed over for the one
    before it."""

    of: dict[str, tuple[Look, ...]] = field(default_factory=dict)

    def before(self, look: Look) -> Look | None:
        """What to compare with; and this look is kept."""
        vm = look.count.vm
        same = (look.count.generation, look.count.pid)
        kept = [
            old for old in self.of.get(vm, ())
            if (old.count.generation, old.count.pid) == same and 0 < look.at_us - old.at_us <= WINDOW_US_MAX
        ]  # fmt: skip
        base = next((old for old in reversed(kept) if look.at_us - old.at_us >= WINDOW_US_MIN), None)
        newest = kept[-1] if kept else None
        if newest is None or look.at_us - newest.at_us >= WINDOW_US_MIN:
            kept.append(look)
        self.of[vm] = tuple(kept[-2:])
        return base

    def only(self, vms: Sequence[str]) -> None:
        """VMs that have gone are forgotten."""
        self.of = {vm: looks for vm, looks in self.of.items() if vm in vms}


def view(node: str, look: Look, before: Look | None, names: Mapping[int, str]) -> VmIo:
    """names: of the disks and NICs that the VM is wanted to have, by slot."""
    count = look.count
    window_us = look.at_us - before.at_us if before else 0
    old = {device.id: device for device in before.count.devices} if before else {}
    devices = tuple(_device(d, old.get(d.id), window_us, names) for d in count.devices)
    exits = tuple(
        Exits(kind=kind, total=total, per_s=_rate(total - before.count.exits.get(kind, 0), window_us) if before else 0.0)
        for kind, total in sorted(count.exits.items())
    )
    return VmIo(
        vm=count.vm, node=node, generation=count.generation, accelerator=count.accelerator,
        window_ms=window_us // 1000, devices=devices, exits=exits, bounds_us=BOUNDS_US,
        intercepted=_intercepted(count, devices, window_us),
    )  # fmt: skip


def _intercepted(count: IoCount, devices: Sequence[DeviceIo], window_us: int) -> str:
    if count.exits:
        return f"counted by {count.accelerator}, over all vCPUs"
    said = f"not counted by this accelerator ({count.accelerator})"
    if not window_us:
        return said
    done = sum(q.completed_per_s for d in devices for q in d.queues)
    done += sum(r.per_s for d in devices if not d.queues for r in d.requests)
    number = round(done * window_us / 1e6)
    return (
        f"{said}; {number} requests were completed in {window_us / 1e6:.1f} s: a paravirtual device takes at most one access "
        "for each, an emulated one several"
    )


def _device(now: DeviceCount, old: DeviceCount | None, window_us: int, names: Mapping[int, str]) -> DeviceIo:
    model = MODELS.get(now.model)
    old_requests = {r.kind: r for r in old.requests} if old else {}
    old_packets = {p.kind: p for p in old.packets} if old and old.counted_by == now.counted_by else {}
    old_queues = {q.name: q for q in old.queues} if old else {}
    ours = model is not None if now.slot < 0 else now.slot in names
    took_ns = sum(r.took_ns - old_requests[r.kind].took_ns for r in now.requests if r.kind in old_requests)
    return DeviceIo(
        name=names.get(now.slot, now.id),
        kind=model.kind if model else "unknown",
        model=now.model,
        paravirtual=model.paravirtual if model else now.model.startswith("virtio"),
        address=now.address,
        ours=ours,
        queues=tuple(_queue(q, old_queues.get(q.name), window_us) for q in now.queues),
        requests=tuple(_requests(r, old_requests.get(r.kind), window_us) for r in now.requests),
        packets=tuple(_packets(p, old_packets.get(p.kind), window_us) for p in now.packets),
        depth=round(max(0, took_ns) / (window_us * 1000), 2) if window_us else 0.0,
        counted_by=now.counted_by,
        note=now.note,
    )


def _queue(now: QueueCount, old: QueueCount | None, window_us: int) -> Queue:
    done = (now.index - old.index) % INDEX_MAX if old else 0
    return Queue(name=now.name, size=now.size, in_flight=now.in_flight, completed_per_s=_rate(done, window_us))


def _requests(now: RequestCount, old: RequestCount | None, window_us: int) -> Requests:
    more = now.total - old.total if old else 0
    took_ns = now.took_ns - old.took_ns if old else 0
    recent = tuple(n - o for n, o in zip(now.bins, old.bins, strict=True)) if old and len(old.bins) == len(now.bins) else ()
    bins = recent if sum(recent) else now.bins
    return Requests(
        kind=now.kind,
        total=now.total,
        bytes=now.bytes,
        failed=now.failed,
        invalid=now.invalid,
        per_s=_rate(more, window_us),
        mibps=_mibps(now.bytes - old.bytes if old else 0, window_us),
        mean_us=round(took_ns / more / 1000, 1) if more > 0 else 0.0,
        bins=now.bins,
        p50_us=percentile(bins, 50),
        p95_us=percentile(bins, 95),
        p99_us=percentile(bins, 99),
    )


def _packets(now: PacketCount, old: PacketCount | None, window_us: int) -> Packets:
    return Packets(
        kind=now.kind,
        total=now.total,
        bytes=now.bytes,
        errors=now.errors,
        dropped=now.dropped,
        per_s=_rate(now.total - old.total if old else 0, window_us),
        mibps=_mibps(now.bytes - old.bytes if old else 0, window_us),
    )


def percentile(bins: Sequence[int], pct: int) -> int:
    """The bound that so many percent are not above, in us; -1: above the last one; 0: nothing was counted."""
    wanted, seen = -(-sum(bins) * pct // 100), 0
    if not wanted:
        return 0
    for bound, number in zip((*BOUNDS_US, -1), bins, strict=True):
        seen += number
        if seen >= wanted:
            return bound
    return -1


def _rate(number: int, window_us: int) -> float:
    """A count that fell began anew (the guest counts, and was restarted): that is no rate."""
    return round(number * 1e6 / window_us, 1) if window_us and number > 0 else 0.0


def _mibps(number: int, window_us: int) -> float:
    return round(number * 1e6 / window_us / MIB, 3) if window_us and number > 0 else 0.0
