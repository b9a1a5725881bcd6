"""What QEMU has right now, beside what it was ordered to have: some ten short questions, none of them to the guest.

Of a NIC's cable QEMU says nothing. A virtio card shows it in its configuration, which is read as the guest reads it (physical
address of the card's registers, mapped by the guest); the MAC address in front of it tells that it is that card's. An e1000e's
register says "no link" also while its guest sets it up, so its cable is not told.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from proto.machine import DiskLimits
from services.node.drivers.present import DiskPresent, NicPresent, Present
from services.node.drivers.qemu.argv import MEMORY_DEVICE, MIB
from services.node.drivers.qemu.devices import BYTES, LIMIT_KEYS
from services.node.drivers.qemu.fit_cds import image_in
from services.node.drivers.qemu.fitting import PERIPHERAL

if TYPE_CHECKING:
    from services.node.drivers.qemu.machine import RunningVm

DEVICE_CONFIG = 0x2000
"""where in a modern virtio card's BAR 4 its own configuration begins: six bytes of MAC, then the status"""
LINK_UP = 1
CDS = ("scsi-cd", "ide-cd")
_DISK, _NIC = re.compile(r"disk([0-9]+)-dev"), re.compile(r"nic([0-9]+)-dev")
_OURS = re.compile(
    rf"vga|channels|agent0|balloon|rng|watchdog|panic|{MEMORY_DEVICE}|port[0-9]+|vcpu[0-9]+|dimm[0-9]+|disk[0-9]+-(?:dev|bus)|nic[0-9]+-dev"
)
_BYTES = re.compile(r"0x([0-9a-f]{2})\b")


async def look(vm: RunningVm) -> Present:
    """Raises DriverError."""
    models = await models_of(vm)
    blocks = {device_of(b["qdev"]): b.get("inserted") or {} for b in await vm.do("query-block") if b.get("qdev")}
    disks = [_disk(int(m[1]), model, blocks.get(id, {})) for id, model in models.items() if (m := _DISK.fullmatch(id))]
    nics = {id: int(m[1]) for id in models if (m := _NIC.fullmatch(id))}
    bars = _bars(await vm.do("query-pci")) if nics else {}
    seen = [await _nic(vm, id, slot, models[id], bars.get(id, -1)) for id, slot in sorted(nics.items())]
    return Present(
        vcpus=len(await vm.do("query-cpus-fast")),
        memory_mib=await _memory_mib(vm, models),
        disks=tuple(sorted(disks, key=lambda d: d.slot)),
        nics=tuple(sorted(seen, key=lambda n: n.slot)),
        foreign=tuple((id, model) for id, model in sorted(models.items()) if not _OURS.fullmatch(id)),
    )


async def models_of(vm: RunningVm) -> dict[str, str]:
    """QEMU's name of each device, by its id; of those without one by the name that QEMU made up. Raises DriverError."""
    found: dict[str, str] = {}
    for path in (PERIPHERAL, f"{PERIPHERAL}-anon"):
        for each in await vm.do("qom-list", {"path": path}):
            kind = str(each["type"])
            if kind.startswith("child<"):
                found[str(each["name"])] = kind[len("child<") : -1]
    return found


def device_of(qdev: str) -> str:
    """The id in what QEMU calls a block device: an id, or a path below it."""
    return qdev.removeprefix(f"{PERIPHERAL}/").split("/")[0]


async def _memory_mib(vm: RunningVm, models: dict[str, str]) -> int:
    """What was asked of virtio-mem counts, not what its guest has taken so far."""
    found = await vm.do("query-memory-size-summary")
    if MEMORY_DEVICE not in models:
        return (int(found["base-memory"]) + int(found.get("plugged-memory", 0))) // MIB
    request = {"path": f"{PERIPHERAL}/{MEMORY_DEVICE}", "property": "requested-size"}
    return (int(found["base-memory"]) + int(await vm.do("qom-get", request))) // MIB


def _disk(slot: int, model: str, inserted: dict[str, Any]) -> DiskPresent:
    if model in CDS:
        return DiskPresent(slot, model, medium=image_in(inserted))
    image = inserted.get("image") or {}
    size_mib = -(-int(image.get("virtual-size", 0)) // MIB)
    return DiskPresent(slot, model, size_mib, _file(str(image.get("filename", ""))), _limits(inserted))


def _file(said: str) -> str:
    """Without its folder; "" where it is none. QEMU names a disk that stands on an image by all its nodes."""
    if said.startswith("json:"):
        try:
            said = str(json.loads(said.removeprefix("json:"))["file"]["filename"])
        except (ValueError, KeyError, TypeError):
            return ""
    return said.rpartition("/")[2] if said.startswith("/") else ""


def _limits(inserted: dict[str, Any]) -> DiskLimits | None:
    """As an order has them; None: of a kind that none has."""
    own = ("bps", "iops")
    if any(int(inserted.get(key, 0)) for key in LIMIT_KEYS if key not in own):
        return None
    values = [int(inserted.get(key, 0)) for key in (*own, "bps_max", "iops_max")]
    bps, iops, bps_max, iops_max = values
    if bps % BYTES or bps_max % BYTES:
        return None
    return DiskLimits(iops=iops, mibps=bps // BYTES, iops_burst=iops_max, mibps_burst=bps_max // BYTES)


def _bars(buses: list[dict[str, Any]]) -> dict[str, int]:
    """Where BAR 4 of each device is mapped; -1: nowhere."""
    out: dict[str, int] = {}
    for bus in buses:
        for device in bus.get("devices", ()):
            at = [int(region["address"]) for region in device["regions"] if region["bar"] == 4]
            out[str(device["qdev_id"])] = at[0] if at else -1
            out |= _bars([device["pci_bridge"]]) if "pci_bridge" in device else {}
    return out


async def _nic(vm: RunningVm, id: str, slot: int, model: str, bar: int) -> NicPresent:
    mac = str(await vm.do("qom-get", {"path": f"{PERIPHERAL}/{id}", "property": "mac"}))
    link = None
    if model == "virtio-net-pci" and bar > 0:
        said = await vm.do("human-monitor-command", {"command-line": f"xp /8bx {bar + DEVICE_CONFIG:#x}"})
        read = [int(byte, 16) for byte in _BYTES.findall(str(said).partition(":")[2])]
        if len(read) == 8 and ":".join(f"{byte:02x}" for byte in read[:6]) == mac:
            link = bool(read[6] & LINK_UP)
    return NicPresent(slot, model, mac, link)
