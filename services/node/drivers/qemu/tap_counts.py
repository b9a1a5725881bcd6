"""The host's counts of a VM's taps. QEMU says which open file is whose NIC, the kernel which device an open file is."""

from __future__ import annotations

import re
from pathlib import Path

from services.node.drivers.io import PacketCount
from services.node.drivers.qemu.devices import device_id
from services.node.host.identity import ROOT

_BACKEND = re.compile(r"(nic[0-9]+): index=[0-9]+,type=tap,(?:.*,)?fd=([0-9]+)")
_DEVICE = re.compile(r"^iff:\s*(\S+)$", re.MULTILINE)


def tap_counts(network: str, pid: int, root: Path = ROOT) -> dict[str, tuple[PacketCount, ...]]:
    """By the NIC's device; network: what `info network` says. What the host received from the tap is what the guest sent."""
    out: dict[str, tuple[PacketCount, ...]] = {}
    for nic, fd in _BACKEND.findall(network):
        try:
            about = (root / f"proc/{pid}/fdinfo/{fd}").read_text()
            if (tap := _DEVICE.search(about)) is None:
                continue
            folder = root / "sys/class/net" / tap[1] / "statistics"
            out[device_id(nic)] = (_one("rx", folder, "tx"), _one("tx", folder, "rx"))
        except (OSError, ValueError):
            continue  # it has gone, or lies in another network namespace: nobody counts it
    return out


def _one(kind: str, folder: Path, host: str) -> PacketCount:
    packets, size, errors, dropped = (
        int((folder / f"{host}_{what}").read_text()) for what in ("packets", "bytes", "errors", "dropped")
    )
    return PacketCount(kind, packets, size, errors, dropped)
