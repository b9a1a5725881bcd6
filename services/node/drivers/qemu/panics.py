"""What a guest says when it dies, as a sentence: QEMU's event GUEST_PANICKED, whose `info` tells more where the guest did. Pure.

Windows on KVM tells its stop code and four parameters (hv-crash); Linux presses the pvpanic device, which says nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STOP_CODES = {
    0x0A: "IRQL_NOT_LESS_OR_EQUAL",
    0x1A: "MEMORY_MANAGEMENT",
    0x1E: "KMODE_EXCEPTION_NOT_HANDLED",
    0x24: "NTFS_FILE_SYSTEM",
    0x3B: "SYSTEM_SERVICE_EXCEPTION",
    0x50: "PAGE_FAULT_IN_NONPAGED_AREA",
    0x5C: "HAL_INITIALIZATION_FAILED",
    0x74: "BAD_SYSTEM_CONFIG_INFO",
    0x7B: "INACCESSIBLE_BOOT_DEVICE",
    0x7E: "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED",
    0x7F: "UNEXPECTED_KERNEL_MODE_TRAP",
    0x9F: "DRIVER_POWER_STATE_FAILURE",
    0xC2: "BAD_POOL_CALLER",
    0xD1: "DRIVER_IRQL_NOT_LESS_OR_EQUAL",
    0xE2: "MANUALLY_INITIATED_CRASH",
    0xEF: "CRITICAL_PROCESS_DIED",
    0x101: "CLOCK_WATCHDOG_TIMEOUT",
    0x124: "WHEA_UNCORRECTABLE_ERROR",
    0x133: "DPC_WATCHDOG_VIOLATION",
    0x139: "KERNEL_SECURITY_CHECK_FAILURE",
}
HELP = {0x7B: "it has no driver for the disk that it starts from: give it one from the virtio-win ISO, or another bus"}


def sentence(data: Mapping[str, Any]) -> str:
    """data: of the event, or of query-status. Never raises, whatever is in it."""
    info = data.get("info")
    if not isinstance(info, Mapping) or info.get("type") != "hyper-v":
        return "the guest panicked"
    values = [_number(info.get(f"arg{n}")) for n in range(1, 6)]
    code, rest = values[0], ", ".join(f"0x{value:x}" for value in values[1:])
    name = STOP_CODES.get(code, "")
    said = f"Windows stopped with 0x{code:08x}{f' {name}' if name else ''} ({rest})"
    return f"{said}; {HELP[code]}" if code in HELP else said


def _number(value: object) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF if isinstance(value, int) else 0
