"""What a running VM has, as its process and its guest say; what it is wanted to have is in MachineSpec."""

from __future__ import annotations

from libs.common.messages import Value


class Misfit(Value):
    """What of the wanted hardware could not be had. what: `vcpus`, `memory`, `disk` or `nic`, the last two with their PCI slot;
    sentence: why, and what would help. pending: the guest was asked and may still do it."""

    what: str
    sentence: str
    slot: int = -1
    pending: bool = False


class Hardware(Value):
    """vcpus: those the guest may use (online inside, where its agent answers; else plugged); plugged_vcpus: those that QEMU has
    made, which an emulated CPU keeps; memory_mib: what the guest was given; slots: the PCI slots in which a disk or NIC is, the
    ones on their way out included; disk_mib: the size of the disk in each of those slots that has one."""

    vcpus: int
    plugged_vcpus: int
    memory_mib: int
    slots: tuple[int, ...] = ()
    disk_mib: dict[int, int] = {}
    misfits: tuple[Misfit, ...] = ()
