"""What QEMU, the host and the guest have counted of a VM's devices, in some dozens of short questions.

    disks      query-blockstats by the device they stand on; latency histograms, which QEMU keeps once it is told the bounds
    rings      x-query-virtio-queue-status (unstable in QEMU's words: where it is gone, no ring is shown)
    NICs       the host's counts of their tap, else the guest agent's word, else the rings' own indices
    exits      query-stats, where the accelerator counts (KVM)
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from proto.ioview import CountedBy
from services.node.drivers import DriverError, GuestSilent
from services.node.drivers.io import BOUNDS_US, DeviceCount, IoCount, PacketCount, QueueCount, RequestCount
from services.node.drivers.qemu.fitting import PERIPHERAL
from services.node.drivers.qemu.guest import GuestRefused, TooLarge
from services.node.drivers.qemu.look import device_of, models_of
from services.node.drivers.qemu.tap_counts import tap_counts

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

GUEST_S_MAX = 0.6
QUEUES_MAX = 8
"""of one device; the rest of its rings is not shown"""
KINDS = {"read": "rd", "write": "wr", "flush": "flush", "discard": "unmap"}
EXITS = (
    "exits",
    "io_exits",
    "mmio_exits",
    "halt_exits",
    "irq_exits",
    "signal_exits",
    "request_irq_exits",
    "nmi_window_exits",
    "hypercalls",
)
RINGS = {
    "virtio-net": ("rx", "tx", "control"),
    "virtio-scsi": ("control", "event"),
    "virtio-balloon": ("inflate", "deflate", "statistics", "reports"),
    "virtio-serial": ("in", "out", "control-in", "control-out", "agent-in", "agent-out"),
}
"""what the first rings of a device are for; all others carry requests"""
CONSOLE = DeviceCount("serial", "isa-serial", address="I/O port 0x3f8", note="QEMU counts no bytes of it")
_SLOT = re.compile(r"(?:disk|nic)([0-9]+)-(?:dev|bus)")
_SKIPPED = ("virtserialport", "-cpu", "pcie-root-port")


class _Statistics(msgspec.Struct, rename="kebab"):
    rx_packets: int = 0
    rx_bytes: int = 0
    rx_errs: int = 0
    rx_dropped: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_errs: int = 0
    tx_dropped: int = 0


class _Interface(msgspec.Struct, rename="kebab"):
    hardware_address: str = ""
    statistics: _Statistics | None = None


async def count(vm: RunningVm, accelerator: str) -> IoCount:
    """Raises DriverError."""
    await time_all(vm)
    models = {id: model for id, model in (await models_of(vm)).items() if not model.endswith(_SKIPPED)}
    addresses = _addresses(await vm.do("query-pci"))
    blocks = {device_of(b["qdev"]): b["stats"] for b in await vm.do("query-blockstats") if b.get("qdev")}
    rings = await _rings(vm)
    packets = await _packets(vm, [id for id in models if id.startswith("nic")])
    devices = [_device(id, model, addresses, blocks, rings, packets) for id, model in models.items()]
    record = vm.record
    exits = await exits_of(vm.do) if accelerator == "kvm" else {}
    return IoCount(record.vm, record.generation, vm.process.pid, accelerator, (*_merged(devices), CONSOLE), exits)


async def time_all(vm: RunningVm) -> None:
    """Has QEMU keep a latency histogram of each disk that has none. Raises DriverError."""
    bounds = [bound * 1000 for bound in BOUNDS_US]
    for block in await vm.do("query-blockstats"):
        ours = device_of(block.get("qdev", "")).startswith("disk")
        if ours and "rd_latency_histogram" not in block["stats"]:
            await vm.do("block-latency-histogram-set", {"id": block["qdev"], "boundaries": bounds})


def _device(
    id: str, model: str, addresses: dict[str, str], blocks: dict[str, Any], rings: dict[str, tuple[QueueCount, ...]],
    packets: dict[str, tuple[CountedBy, tuple[PacketCount, ...]]],
) -> DeviceCount:  # fmt: skip
    queues = rings.get(id, ())
    requests = _requests(blocks[id]) if id in blocks else ()
    counted_by, counted = packets.get(id, (CountedBy.QUEUE if queues else CountedBy.NOBODY, ()))
    if id.startswith("nic") and not counted and queues:
        counted = tuple(PacketCount(q.name, q.index) for q in queues if q.name in ("rx", "tx"))
    note = ""
    if counted_by is CountedBy.QUEUE and id.startswith("nic"):
        note = "packets since a multiple of 65536, and no bytes: its guest's agent does not answer"
    elif counted_by is CountedBy.NOBODY and id.startswith("nic"):
        note = "nobody counts: QEMU does not, and its guest's agent does not answer or does not know it"
    found = _SLOT.fullmatch(id)
    return DeviceCount(
        id, model, int(found[1]) if found else -1, addresses.get(id, ""), queues, requests, counted,
        CountedBy.QEMU if requests else counted_by, note,
    )  # fmt: skip


def _merged(devices: list[DeviceCount]) -> list[DeviceCount]:
    """A SCSI disk and its controller are one: the rings and the address are the controller's."""
    own = {d.id: d for d in devices}
    out = []
    for device in devices:
        if device.id.endswith("-bus") and device.id.removesuffix("-bus") + "-dev" in own:
            continue
        bus = own.get(device.id.removesuffix("-dev") + "-bus")
        whole = device if bus is None else msgspec.structs.replace(device, queues=bus.queues, address=bus.address)
        out.append(whole)
    return sorted(out, key=lambda d: (d.slot < 0, not d.id.startswith("disk"), d.slot, d.address, d.id))


def _addresses(buses: list[dict[str, Any]]) -> dict[str, str]:
    out: dict[str, str] = {}
    for bus in buses:
        for device in bus.get("devices", ()):
            out[str(device["qdev_id"])] = f"0000:{device['bus']:02x}:{device['slot']:02x}.{device['function']}"
            out |= _addresses([device["pci_bridge"]]) if "pci_bridge" in device else {}
    return out


def _requests(stats: dict[str, Any]) -> tuple[RequestCount, ...]:
    out = []
    for kind, word in KINDS.items():
        bins = tuple(map(int, stats.get(f"{word}_latency_histogram", {}).get("bins", ())))
        out.append(
            RequestCount(
                kind, int(stats[f"{word}_operations"]), int(stats.get(f"{word}_bytes", 0)),
                int(stats.get(f"failed_{word}_operations", 0)), int(stats.get(f"invalid_{word}_operations", 0)),
                int(stats.get(f"{word}_total_time_ns", 0)), bins,
            )
        )
    return tuple(out)


async def _rings(vm: RunningVm) -> dict[str, tuple[QueueCount, ...]]:
    out: dict[str, tuple[QueueCount, ...]] = {}
    try:
        for device in await vm.do("x-query-virtio"):
            path, name = str(device["path"]), str(device["name"])
            many = int((await vm.do("x-query-virtio-status", {"path": path}))["num-vqs"])
            many = min(many, len(RINGS[name]) if name == "virtio-serial" else QUEUES_MAX)
            seen = [await vm.do("x-query-virtio-queue-status", {"path": path, "queue": n}) for n in range(many)]
            rings = [
                QueueCount(_ring(name, n), int(q["vring-num"]), int(q["inuse"]), int(q["used-idx"]))
                for n, q in enumerate(seen) if int(q["vring-desc"])
            ]  # fmt: skip
            out[device_of(path)] = tuple(rings)
    except (DriverError, KeyError):
        return out  # another QEMU's; or the device has gone meanwhile
    return out


def _ring(device: str, number: int) -> str:
    named = RINGS.get(device, ())
    if number < len(named):
        return named[number]
    many = number - len(named)
    return "requests" if not many else f"requests{many}"


async def _packets(vm: RunningVm, nics: list[str]) -> dict[str, tuple[CountedBy, tuple[PacketCount, ...]]]:
    """By the NIC's device; one that nobody counts is left out."""
    if not nics:
        return {}
    told = str(await vm.do("human-monitor-command", {"command-line": "info network"}))
    taps = tap_counts(told, vm.process.pid)
    out = {id: (CountedBy.HOST, counts) for id, counts in taps.items()}
    if all(id in out for id in nics) or vm.status != "running":
        return out
    try:
        said = await vm.agent.ask("guest-network-get-interfaces", timeout_s=GUEST_S_MAX)
        inside = {i.hardware_address: i.statistics for i in msgspec.convert(said, list[_Interface])}
    except (GuestSilent, GuestRefused, TooLarge, msgspec.ValidationError):
        return out
    for id in nics:
        mac = str(await vm.do("qom-get", {"path": f"{PERIPHERAL}/{id}", "property": "mac"}))
        if id not in out and (seen := inside.get(mac)) is not None:
            rx = PacketCount("rx", seen.rx_packets, seen.rx_bytes, seen.rx_errs, seen.rx_dropped)
            tx = PacketCount("tx", seen.tx_packets, seen.tx_bytes, seen.tx_errs, seen.tx_dropped)
            out[id] = (CountedBy.GUEST, (rx, tx))
    return out


async def exits_of(do: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> dict[str, int]:
    """By kind, over all vCPUs; nothing where this QEMU cannot say (before 7.1)."""
    words = {"target": "vcpu", "providers": [{"provider": "kvm", "names": list(EXITS)}]}
    try:
        found = await do("query-stats", words)
    except DriverError:
        return {}
    out: dict[str, int] = {}
    for vcpu in found:
        for one in vcpu["stats"]:
            out[str(one["name"])] = out.get(str(one["name"]), 0) + int(one["value"])
    return out
