"""How long until what was asked for is usable inside a running guest, and what the platform adds to doing it by hand.

python -m tests.bench.hotplug [--quick] [--json]

vcpu_ms      a vCPU: request sent -> the guest runs on it (nproc), median; likewise
memory_ms    256 MiB more: in the guest's MemTotal
disk_ms      a disk of 64 MiB: the guest sees its size
nic_ms       a NIC: the guest sees its address
unplug_ms    the disk and the NIC, detached: gone in the guest, the slower of the two medians
*_qmp_ms     the same done by hand over QMP, on a guest of the same kind in the same run, in turn with the above
added_ms     median of what the platform adds over doing it by hand, over all operations

The guest is asked through its agent again and again; a look costs about as much by hand (see look_ms, look_qmp_ms).
"""

from __future__ import annotations

GROWTH_MIB = 256
DISK_MIB = 64
SEEN_S_MAX = 30.0
OPERATIONS = ("vcpu", "memory", "disk", "nic", "disk_unplug", "nic_unplug")
LOOK = (
    "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo;"
    " cat /sys/block/vdb/size 2>/dev/null || echo 0; ls /sys/class/net | grep -c eth"
)


class Seen(tuple[int, int, int, int]):
    """vCPUs, MiB, sectors of the second disk, NICs: as the guest says."""

    @classmethod
    def said(cls, text: str) -> Seen:
        return cls(int(word) for word in text.split())  # type: ignore[arg-type]
