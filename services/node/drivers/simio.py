"""What a simulated guest's devices count: the same for the same VM and time. It reads, writes, sends and hears all the time that
its process is there, and each device by its slot at another pace."""

from __future__ import annotations

from typing import Final

from proto.ioview import CountedBy
from proto.machine import Disk, Nic, NicModel
from proto.models import DISKS, NICS
from services.node.drivers.io import BOUNDS_US, DeviceCount, IoCount, PacketCount, QueueCount, RequestCount
from services.node.drivers.simvm import SimVm

PACES: Final = {"read": (40, 16_384, 60_000), "write": (20, 8_192, 150_000), "flush": (2, 0, 900_000)}
"""kind -> how many a second, of how many bytes, and how many ns each takes"""
PACKETS_PER_S, PACKET_BYTES = 50, 700
PARAVIRTUAL_QUEUE = 256


def count(vm: SimVm, now_us: int) -> IoCount:
    ran_us = max(0, now_us - vm.running_us)
    spec = vm.spec
    devices = [*(_disk(d, ran_us) for d in spec.disks), *(_nic(n, ran_us) for n in spec.nics)]
    devices.append(DeviceCount("balloon", "virtio-balloon-pci", address="0000:00:03.0"))
    return IoCount(spec.vm, spec.generation, vm.pid, "simulated", tuple(devices))


def _address(slot: int) -> str:
    return f"0000:{slot + 1:02x}:00.0"


def _disk(disk: Disk, ran_us: int) -> DeviceCount:
    model = DISKS[disk.bus]
    requests = tuple(_requests(kind, disk.slot, ran_us) for kind in PACES)
    done = sum(r.total for r in requests)
    queues = (QueueCount("requests", PARAVIRTUAL_QUEUE, 0, done % 65_536),) if model.paravirtual else ()
    return DeviceCount(
        f"disk{disk.slot}-dev", model.driver, disk.slot, _address(disk.slot), queues, requests, counted_by=CountedBy.QEMU
    )


def _requests(kind: str, slot: int, ran_us: int) -> RequestCount:
    per_s, size, took_ns = PACES[kind]
    total = ran_us * per_s // (1_000_000 * (1 + slot))
    bins = [0] * (len(BOUNDS_US) + 1)
    bins[next(i for i, bound in enumerate(BOUNDS_US) if took_ns < bound * 1000)] = total
    return RequestCount(kind, total, total * size, took_ns=total * took_ns, bins=tuple(bins))


def _nic(nic: Nic, ran_us: int) -> DeviceCount:
    model = NICS[nic.model]
    total = ran_us * PACKETS_PER_S // (1_000_000 * (1 + nic.slot)) if nic.link else 0
    packets = (PacketCount("rx", total, total * PACKET_BYTES), PacketCount("tx", total, total * PACKET_BYTES))
    names = ("rx", "tx") if nic.model is NicModel.VIRTIO else ()
    queues = tuple(QueueCount(name, PARAVIRTUAL_QUEUE, 0, total % 65_536) for name in names)
    return DeviceCount(
        f"nic{nic.slot}-dev", model.driver, nic.slot, _address(nic.slot), queues, (), packets, CountedBy.HOST
    )
